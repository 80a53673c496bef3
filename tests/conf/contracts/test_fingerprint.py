"""Hashes of code: which changes count."""

from __future__ import annotations

from pathlib import Path

import pytest

from star_ctr.conf.contracts import fingerprint
from star_ctr.conf.contracts.fingerprint import hash_code

SOURCE = '''
"""Summary."""

from star_ctr.other import scale

LIMIT = 3
"""Largest number."""


class Doubler:
    """Doubles numbers."""

    name: str = "doubler"

    def run(self, x: int) -> int:
        """Return twice the number."""
        # Not more than the limit.
        return scale * min(x, LIMIT) * 2


parser.add_argument("--limit", default="none", help="largest number")
Field(1, description="a number")
'''
OTHER = "scale = 1\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `star_ctr` with two modules."""
    (tmp_path / "mine.py").write_text(SOURCE)
    (tmp_path / "other.py").write_text(OTHER)
    monkeypatch.setattr(fingerprint, "files", lambda _: tmp_path)
    return tmp_path


PROSE = {
    "module docstring": ('"""Summary."""', '"""Another summary."""'),
    "class docstring": ('    """Doubles numbers."""\n', ""),
    "docstring": ("Return twice the number.", "Double it."),
    "attribute docstring": ('"""Largest number."""\n', ""),
    "comment": ("# Not more than the limit.", "# Limited."),
    "formatting": ("return scale * min(x, LIMIT) * 2", "return (\n            scale * min(x, LIMIT) * 2\n        )"),
    "help": ('help="largest number"', 'help="the largest " "number"'),
    "no help": (', help="largest number"', ""),
    "description": ('description="a number"', 'description="one number"'),
}
CODE = {
    "number": ("LIMIT = 3", "LIMIT = 4"),
    "text": ('"doubler"', '"twice"'),
    "default": ('default="none"', 'default="all"'),
    "argument": ("Field(1,", "Field(2,"),
    "operator": ("* 2", "+ 2"),
    "name": ("LIMIT", "MOST"),
    "annotation": ("x: int", "x: float"),
    "computed help": ('help="largest number"', "help=text()"),
}


def changes_the_hash(package: Path, old: str, new: str) -> bool:
    """Return whether the hash changes if `old` becomes `new` in the source."""
    before = hash_code(["star_ctr.mine"])
    assert old in SOURCE
    (package / "mine.py").write_text(SOURCE.replace(old, new))
    return hash_code(["star_ctr.mine"]) != before


@pytest.mark.parametrize(("old", "new"), PROSE.values(), ids=list(PROSE))
def test_prose_does_not_change_the_hash(package: Path, old: str, new: str) -> None:
    assert not changes_the_hash(package, old, new)


@pytest.mark.parametrize(("old", "new"), CODE.values(), ids=list(CODE))
def test_code_changes_the_hash(package: Path, old: str, new: str) -> None:
    assert changes_the_hash(package, old, new)


def test_the_code_of_imported_modules_counts(package: Path) -> None:
    before = hash_code(["star_ctr.mine"])
    (package / "other.py").write_text(f'"""Scale."""\n{OTHER}')
    assert hash_code(["star_ctr.mine"]) == before
    (package / "other.py").write_text("scale = 2\n")
    assert hash_code(["star_ctr.mine"]) != before
