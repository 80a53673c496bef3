"""Names that the user mistypes are found before Spark starts, and the help says what a command takes and computes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from star_ctr.workflows import spark_session
from star_ctr.workflows.cli import app
from tests.published import publish


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Publish a run, and return the options that select its warehouse; any start of Spark fails."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("Spark was started")

    monkeypatch.setattr(spark_session, "open_session", fail)
    override = f"paths.warehouse={tmp_path}"
    publish(load("demo", [override]), "2026-03-04-star", "2026-03-04")
    return ["--conf", "demo", "--set", override]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["explain", "--run-id", "nope"], "--run-id nope: no finished run"),
        (["explain", "--ds", "2026-03-04"], "no finished run"),
        (["compare", "--models", "bse"], "`bse` is not a known model; did you mean `base`"),
    ],
)
def test_wrong_names_are_found_without_spark(options: list[str], command: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        CliRunner().invoke(app, [*command, *options], catch_exceptions=False)


@pytest.mark.parametrize("command", [["explain", "--run-id", "2026-03-04-star"], ["compare", "--models", "base"]])
def test_right_names_start_spark(options: list[str], command: list[str]) -> None:
    with pytest.raises(AssertionError, match="Spark was started"):
        CliRunner().invoke(app, [*command, *options], catch_exceptions=False)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("explain", "Importances are those of the label, not of further outcomes"),
        ("compare", "Takes as long as models x seeds x nights training runs"),
        ("compare", "run `star-ctr tune` instead"),
        ("metrics", "Only nights whose attribution windows have closed appear"),
    ],
)
def test_the_help_says_what_to_expect(command: str, words: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"]).output
    assert words in " ".join(shown.split())
