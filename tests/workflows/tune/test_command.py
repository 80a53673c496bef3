"""The command `tune` with a fake objective, without Spark: its output and files, and what Ctrl-C prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from star_ctr.workflows.cli import app
from star_ctr.workflows.tune import nights, run
from tests.workflows.tune.fake_runs import DROPOUT, FakeRunner, name, prepare

pytestmark = pytest.mark.usefixtures("_one_code")


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that runs the command with a runner and options."""
    stopped: list[bool] = []

    def with_spark(
        _name: str, conf: str, overrides: list[str] | None, action: Callable[..., Any], **_: object
    ) -> tuple[None, Any]:
        return None, action(None, SimpleNamespace(stop=lambda: stopped.append(True)))

    def invoke(runner: FakeRunner, *options: str) -> Any:
        monkeypatch.setattr("star_ctr.workflows.cli.tune.with_spark", with_spark)
        monkeypatch.setattr(nights, "prepare", lambda *_: prepare(tmp_path))
        monkeypatch.setattr(run, "run", partial(original, runner=runner, start_pool=ThreadPoolExecutor))
        command = ["tune", "--conf", "demo", "--jobs", "1", "--out", str(tmp_path / "out"), *options]
        result = CliRunner().invoke(app, command)
        assert stopped
        return result

    original = run.run
    return invoke


def test_the_result_is_printed_and_written(invoke: Callable[..., Any], tmp_path: Path) -> None:
    runner = FakeRunner(tmp_path / "calls", {name(DROPOUT, 0.2): 0.01}, noise=0.001)
    file = tmp_path / "found.json"
    result = invoke(runner, "--trials", "12", "--json", str(file))
    assert result.exit_code == 0, result.output
    assert "Gain on the unseen night 2026-03-04: +0.01" in result.output.replace("\n", " ")
    found = json.loads(file.read_text())
    assert found["proposed"][DROPOUT] == 0.2
    assert Path(found["files"]["settings"]).exists()
    assert sum(found["trials"].values()) == 12


def test_no_better_settings_are_a_result(invoke: Callable[..., Any], tmp_path: Path) -> None:
    result = invoke(FakeRunner(tmp_path / "calls"), "--trials", "3")
    assert result.exit_code == 0, result.output
    assert "No settings found that beat the current ones." in result.output


def test_ctrl_c_prints_the_command_that_continues(invoke: Callable[..., Any], tmp_path: Path) -> None:
    class Stopping(FakeRunner):
        def __call__(self, run: Any, scores: Any) -> Any:
            raise KeyboardInterrupt

    result = invoke(Stopping(tmp_path / "calls"), "--trials", "3")
    assert result.exit_code in (1, 130)
    assert "Finished runs are kept; to continue, run: star-ctr" in result.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "tune.space={trainer.optimizer.ler: {values: [1]}}"], "did you mean `trainer.optimizer.lr`"),
        (["--try", "trainer.epochs=2", "--trials", "3"], "leave them out with --try"),
    ],
)
def test_mistakes_are_found_before_spark_starts(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("star_ctr.workflows.cli.tune.with_spark", lambda *_, **__: pytest.fail("Spark was started"))
    result = CliRunner().invoke(app, ["tune", "--conf", "demo", *options])
    assert result.exit_code != 0
    assert message in " ".join([result.output, str(result.exception)]).replace("\n", " ")
