"""The nights of an experiment."""

from __future__ import annotations

from typing import Any

import pytest

from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.workflows import trials

NIGHTS = ["2026-03-02", "2026-03-03", "2026-03-04"]


def test_the_recipe_is_chosen_right_after_the_newest_night(monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier nights make labels of its window open again, and these rows would not be counted."""
    settings, with_recipe = load("demo"), load("demo", ["trainer.batch_size=64"])
    done: list[tuple[str, str, int]] = []

    def prepare(found: Settings, _spark: Any, _store: Any, night: str) -> None:
        done.append(("prepare", night, found.trainer.batch_size))

    def ensure_recipe(found: Settings, _spark: Any, night: str) -> Settings:
        done.append(("recipe", night, found.trainer.batch_size))
        return with_recipe

    monkeypatch.setattr(trials, "prepare_night", prepare)
    monkeypatch.setattr(trials, "ensure_recipe", ensure_recipe)
    monkeypatch.setattr(trials.train, "pin_versions", lambda _store, night: f"pinned {night}")
    found, pinned = trials.prepare_nights(settings, None, NIGHTS)  # type: ignore[arg-type]
    assert found is with_recipe
    assert pinned == {night: f"pinned {night}" for night in NIGHTS}
    size = settings.trainer.batch_size
    assert done == [
        ("prepare", NIGHTS[2], size), ("recipe", NIGHTS[2], size), ("prepare", NIGHTS[1], 64), ("prepare", NIGHTS[0], 64)
    ]  # fmt: skip
