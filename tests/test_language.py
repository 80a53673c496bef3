"""Names and phrases that the project does not use, because engineers of this field use others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from star_ctr.conf.contracts.catalog import TABLES
from tests.conftest import PACKAGES, ROOT

WORDS = {
    "averaging": "EMA, ema_decay",
    "hook": "callback",
    "hooks": "callbacks",
    "house": "project",
    "judged": "evaluated",
    "moment": "callback event, or normalization statistics",
    "moments": "normalization statistics",
    "morning": "report",
    "packing": "row encoder",
    "passes": "scans",
    "probe": "sample_scores, parity check",
    "replicates": "bootstrap samples",
    "requests": "query rows",
    "resampling": "Poisson bootstrap",
    "room": "package",
    "rooms": "packages",
    "stands": "depends",
    "timeline": "events",
    "told": "a verb",
    "validity": "staleness",
    "wanted": "a verb",
}
"""Words that no name may contain, with what to write instead."""
WHOLE_NAMES = {
    "counted",
    "gave",
    "given",
    "judged",
    "scored",
    "served",
    "told",
    "trained",
    "wanted",
    "pinned",
    "written",
}
"""Names of functions that are not verbs."""
PHRASES = {
    r"stands? on\b": "depends on",
    r"made true\b": "recompute, calibrate",
    r"\bas (they|it) (were|was) known\b|features as known at\b": "as of",
    r"\bof before\b": "previous",
    r"\bat hand\b": "given",
    r"\banew\b": "again",
    r"\bheld back\b": "held",
    r"\bmorning page\b": "report",
    r"\bpage of the morning\b": "report",
    r"\bthe house\b|\bthe rooms\b|\brooms of\b": "project, package",
    r"\bfor want of\b": "without",
    r"\bbe told\b|\bis told\b|\bare told\b": "is reported, is shown",
    r"\bhangs? on\b": "depends on",
    r"\b(a|each|every|finished|new|earlier) training(?=[.,;:)]| (was|is|of|that|stopped|resumes|fails)\b)|\btrainings\b": (
        "training run"
    ),
    r"\ba row a\b|\ba domain a\b|\bone row a \w+": "one row per",
}
"""Phrases that no docstring, comment, message or page may contain, with what to write instead."""


def list_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def split_words(name: str) -> set[str]:
    """Split a name in snake case or camel case into lower-case words."""
    return {word.lower() for part in name.split("_") for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", part)}


@pytest.mark.parametrize("package", PACKAGES)
def test_names_use_the_terms_of_the_field(package: str) -> None:
    found = []
    for file in (ROOT / package).rglob("*.py"):
        tree = ast.parse(file.read_text())
        functions = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
        bad = {name: WORDS[w] for name in {file.stem, *list_names(tree)} for w in split_words(name) & set(WORDS)}
        bad |= dict.fromkeys(functions & WHOLE_NAMES, "a verb")
        found += [f"{file.relative_to(ROOT)}: {name}: use {instead}" for name, instead in bad.items()]
    assert not found, "\n".join(found)


def test_tables_use_the_terms_of_the_field() -> None:
    assert not [name for name in TABLES if split_words(name) & set(WORDS)]


def test_prose_avoids_these_phrases() -> None:
    pages = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs/results").glob("*.md"),
    ]
    code = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    found = [
        f"{file.relative_to(ROOT)}:{number}: `{match[0]}`: write {instead}"
        for file in [*pages, *code, *(ROOT / "conf").glob("*.yaml"), ROOT / "Makefile"]
        for number, line in enumerate(file.read_text().splitlines(), start=1)
        for pattern, instead in PHRASES.items()
        if (match := re.search(pattern, line, re.IGNORECASE))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "words"),
    [("make_moments_true", {"make", "moments", "true"}), ("TableEma", {"table", "ema"}), ("_Judged", {"judged"})],
)
def test_split_words(name: str, words: set[str]) -> None:
    assert split_words(name) == words
