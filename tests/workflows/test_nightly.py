"""A step that no other step needs may fail without stopping a night."""

from __future__ import annotations

import logging
from typing import Any, cast

import pytest

from star_ctr.conf.errors import DataError, UserError
from star_ctr.conf.load import load
from star_ctr.model.training.callbacks.checkpoints_and_sigterm import StoppedError
from star_ctr.workflows import nightly
from tests.steps import EVERY_NIGHT

NIGHT = "2026-01-05"
SETTINGS = load("demo", ["trainer.warm_start=previous", "split.vocabulary=grown", "reference={}"])


def run_with_error(monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException) -> dict[str, Any]:
    """Run a night in which a step raises an error."""

    def run_step(_settings: Any, _spark: Any, name: str, *_: Any) -> str:
        if name == step:
            raise error
        return f"result of {name}"

    monkeypatch.setattr(nightly, "run_step", run_step)
    monkeypatch.setattr(nightly, "choose_night", lambda *_: NIGHT)
    return nightly.run(SETTINGS, cast(Any, None), NIGHT)


@pytest.mark.parametrize("error", [DataError("no rows"), ValueError("a bug"), UserError("disk.")])
def test_a_failed_reference_does_not_fail_the_night(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    monkeypatch.setattr(logging.getLogger("star_ctr"), "propagate", True)
    found = run_with_error(monkeypatch, "reference", error)
    assert found == {"metrics": "result of evaluate", "gate": "result of gate", "refit": None, "reference": None}
    (message,) = (r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert f"reference of {NIGHT} failed, which does not affect the night's model: " in message
    assert str(error).rstrip(".") in message
    assert message.endswith(f". Run `star-ctr reference --ds {NIGHT}` to repeat it")


@pytest.mark.parametrize("step", EVERY_NIGHT)
def test_other_steps_fail_the_night(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    with pytest.raises(DataError, match="no rows"):
        run_with_error(monkeypatch, step, DataError("no rows"))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StoppedError("SIGTERM")])
def test_a_reference_that_is_stopped_ends_the_night(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    with pytest.raises(type(error)):
        run_with_error(monkeypatch, "reference", error)
