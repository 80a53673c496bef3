"""Drafts make vectors of lists of decimal numbers, and categories of lists of codes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_ctr.conf.load import load
from star_ctr.conf.settings.features import Categorical, Vector
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.new_data_set.columns import describe_column
from star_ctr.jobs.new_data_set.draft import Draft, draft_settings
from star_ctr.jobs.new_data_set.vector_formats import detect_vectors
from tests.jobs.new_data_set.test_draft import make_rows

N = 80


def draft(folder: Path, kind: str = "parquet", **columns: object) -> tuple[Draft, Settings]:
    """Write impressions, and items with some columns, and return the draft and its settings."""
    (folder / "logs").mkdir()
    make_rows().to_parquet(folder / "logs" / "views.parquet", index=False)
    items = pd.DataFrame({"newsId": [f"N{k}" for k in range(N)], **columns})
    if kind == "parquet":
        items.to_parquet(folder / "logs" / "items.parquet", index=False)
    elif kind == "json":
        items.to_json(folder / "logs" / "items.jsonl", orient="records", lines=True)
    else:
        items.to_csv(folder / "logs" / "items.csv", index=False, sep=";")
    found = draft_settings(str(folder / "logs"), "mine")
    (folder / "mine.yaml").write_text(found.text)
    return found, load(str(folder / "mine.yaml"))


def make_vectors(n: int, length: int, irregular: int, missing: int = 0, seed: int = 0) -> list[list[float] | None]:
    """Return vectors in random order: some are short or have an element that is not finite, some are missing."""
    rng = np.random.default_rng(seed)
    vectors: list[list[float] | None] = [rng.normal(size=length).round(3).tolist() for _ in range(n)]
    for k in range(irregular):
        own = vectors[k]
        assert own is not None
        match k % 3:
            case 0:
                own.pop()
            case 1:
                own[k % length] = math.nan
            case _:
                own[k % length] = -math.inf
    vectors += [[] if k % 2 else None for k in range(missing)]
    return [vectors[k] for k in rng.permutation(len(vectors))]


@pytest.mark.parametrize("kind", ["parquet", "json", "csv"])
@pytest.mark.parametrize("irregular", [0, 3, 5, 30])
def test_irregular_vectors_are_no_categories(tmp_path: Path, kind: str, irregular: int) -> None:
    vectors = make_vectors(70, 16, irregular, 10)
    column = [None if v is None else str(v) for v in vectors] if kind == "csv" else vectors
    found, settings = draft(tmp_path, kind, embedding=column)
    (feature,) = [f for f in settings.features if "items.embedding" in str(getattr(f, "column", ""))]
    assert isinstance(feature, Vector)
    assert feature.length == 16
    questions = [question for question in found.questions if "embedding" in question]
    if irregular == 0:
        assert "  # embedding: 100% of 70 values are lists of 16 numbers\n" in found.text
        assert questions == []
        return
    text = f"embedding: {70 - irregular} of 70 lists have 16 numbers, and {irregular} have another length"
    assert f"  # check: {text}" in found.text
    assert any(text in question for question in questions)
    assert ("checks.max_unparsable" in found.text) == (irregular > 7)


@given(
    st.integers(1, 300), st.integers(2, 40), st.floats(0, 0.45), st.integers(0, 60), st.sampled_from(["list", *",;| "])
)
def test_irregular_and_missing_lists_are_counted(n: int, length: int, share: float, missing: int, form: str) -> None:
    irregular = int(share * n)
    vectors = make_vectors(n, length, irregular, missing, seed=n)
    column = pd.Series([v if v is None or form == "list" else f"[{form.join(map(str, v))}]" for v in vectors])
    described = describe_column("embedding", column)
    assert described.kind == "vector"
    found = described.vector
    assert found is not None
    assert (found.problem, found.length, found.usual, found.examined) == ("", length, n - irregular, n)
    assert found.separator == (None if form == "list" else form)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=100), st.booleans())
def test_a_vector_has_the_length_of_at_least_half_of_the_lists(lengths: list[int], as_text: bool) -> None:
    rng = np.random.default_rng(0)
    lists = [(rng.random(n) + 0.01).tolist() for n in lengths]
    values = pd.Series([",".join(map(str, v)) for v in lists] if as_text else lists)
    found = detect_vectors(values)
    if as_text and sum(n > 1 for n in lengths) < 0.5 * len(lengths):
        return  # numbers
    assert found is not None
    most = max(lengths.count(n) for n in lengths)
    assert (found.problem == "") == (2 * most >= len(lengths))
    assert lengths.count(found.length) == most


@given(st.lists(st.lists(st.integers(0, 10**9), max_size=20), min_size=1, max_size=50), st.sampled_from(["list", "|"]))
def test_lists_of_whole_numbers_are_no_vectors(lists: list[list[int]], form: str) -> None:
    values = pd.Series([v if form == "list" else form.join(map(str, v)) for v in lists], dtype=object)
    assert describe_column("tags", values).kind != "vector"
    assert detect_vectors(pd.Series([np.array(v, dtype=object) for v in lists], dtype=object)) is None


def test_lists_of_codes_stay_categories(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tags = [rng.integers(0, 9, k % 4).tolist() for k in range(N)]
    nulls = [[1, None, 3] if k % 3 else [2] for k in range(N)]
    found, settings = draft(tmp_path, tags=tags, nulls=nulls, words=[["a", "b"][: 1 + k % 2] for k in range(N)])
    features = {f.name: f for f in settings.features if isinstance(f, Categorical)}
    for name in ("tags", "nulls", "words"):
        assert features[name].multiple is True
    assert "check: " not in found.text


def test_lists_of_decimal_numbers_of_many_lengths_are_no_features(tmp_path: Path) -> None:
    prices = [[0.5 + j for j in range(1 + k % 7)] for k in range(N)]
    long = [np.full(5_000, 0.5) for _ in range(N)]
    empty: list[list[float]] = [[] for _ in range(N)]
    broken = [[0.5, math.nan] for _ in range(N)]
    found, settings = draft(tmp_path, prices=prices, long=long, empty=empty, broken=broken)
    assert not [f for f in settings.features if "items." in str(getattr(f, "column", ""))]
    for text in (
        "# - items.prices: lists of decimal numbers of different lengths; the most common length, 1, is that of 15% of 80",
        "# - items.long: lists of 5,000 numbers; a vector has at most 4,096",
        "# - items.empty: all values are missing",
        "# - items.broken: lists of 2 numbers, but each has elements that are not finite",
    ):
        assert text in found.text


def test_whole_numbers_that_are_floats_are_asked_about(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    found, settings = draft(tmp_path, flags=list(rng.integers(0, 2, (N, 12)).astype(np.float32)))
    assert [f.length for f in settings.features if isinstance(f, Vector)] == [12]
    (question,) = [q for q in found.questions if "flags" in q]
    assert "if these whole numbers are codes, use `multiple: true` and `kind: categorical`" in question


def test_vectors_with_decimal_commas(tmp_path: Path) -> None:
    texts = ["|".join(map(str, v or ())).replace(".", ",") for v in make_vectors(N, 3, 0)]
    _, settings = draft(tmp_path, "csv", embedding=texts)
    (vector,) = [f for f in settings.features if isinstance(f, Vector)]
    assert (vector.length, vector.separator) == (3, "|")
    assert settings.logs.items is not None
    assert (settings.logs.items.decimal, settings.logs.items.types) == (",", {})


@pytest.mark.parametrize(
    "texts",
    [
        ["1,234.5", "999.5", "12,345.75"],
        ["1.234,5", "12.345,75", "999,5"],
        ["1 234.5", "999.5", "12 345.75"],
        ["1,5", "2,25", "3,5"],
        ["0.5", "1.25", "2.5"],
        ["3.5, approx.", "about 2.5, maybe", "n/a, none"],
        ["12.05.2026 10:30", "13.05.2026 11:00", "14.05.2026 12:00"],
    ],
)
def test_single_numbers_and_texts_are_no_lists(texts: list[str]) -> None:
    assert describe_column("x", pd.Series(texts * 5)).kind != "vector"
