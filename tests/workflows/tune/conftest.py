"""Searches in threads of this process."""

from __future__ import annotations

import pytest

from star_ctr.workflows.tune import run, study
from tests.workflows.tune.fake_runs import open_threads


@pytest.fixture
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "open_pool", open_threads)
    monkeypatch.setattr(study, "hash_code", lambda _: "code")  # takes a second
