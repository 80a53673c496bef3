"""Rows of tables in the terminal: long values are cut, in the text only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from star_ctr.workflows import terminal
from star_ctr.workflows.cli import app
from star_ctr.workflows.records_table import MAX_LENGTH, make_records_table
from tests.workflows.synthetic_nights import NIGHTS, SyntheticNights


def test_long_values_are_cut_in_the_text_only(tmp_path: Path) -> None:
    warehouse = SyntheticNights(tmp_path, domains=("home",))
    bins = [{"lower": k / 100, "rows": 10, "clicks": 1, "score": k / 100} for k in range(60)]
    warehouse.metrics(NIGHTS[0], reliability=bins)
    options = ["tables", "--conf", "demo", "--set", f"paths.warehouse={tmp_path}", "--show", "metrics", "--limit", "1"]
    shown = CliRunner().invoke(app, options, catch_exceptions=False).output
    assert "…" in shown
    assert len(shown) < 6_000
    found = CliRunner().invoke(app, [*options, "--json", "-"], catch_exceptions=False).stdout
    assert json.loads(found)[0]["reliability"] == bins


@pytest.mark.parametrize("width", [80, 1_000])
def test_values_are_cut_in_narrow_and_in_wide_terminals(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setattr(terminal.stdout, "width", width)
    with terminal.stdout.capture() as capture:
        terminal.stdout.print(make_records_table([{"text": "z" * 500, "n": 7}]))
    shown = capture.get()
    assert shown.count("z") == MAX_LENGTH - 1
    assert "…" in shown
