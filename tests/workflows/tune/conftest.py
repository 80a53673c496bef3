"""Searches whose name does not depend on the code, because hashing it takes a second."""

from __future__ import annotations

import pytest

from star_ctr.workflows.tune import study


@pytest.fixture
def _one_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "hash_code", lambda _: "code")
