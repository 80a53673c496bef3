"""Output of `star-ctr domains`: the page, all numbers as JSON, and the effects as CSV."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Group
from rich.text import Text

from star_ctr.workflows.domains.page import describe_domain, describe_findings, render, select_effects
from star_ctr.workflows.domains.run import Results
from star_ctr.workflows.terminal import make_table


def write(results: Results, command: str, folder: Path) -> Path:
    """Write `report.html`, `results.json` and `effects.csv`.

    Args:
        results: The results.
        command: The command line that computed them, for the report.
        folder: The folder to write to; created if necessary.

    Returns:
        The path of `report.html`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    page.write_text(render(results, command), encoding="utf-8")
    (folder / "results.json").write_text(json.dumps(make_json(results, command), indent=1) + "\n", encoding="utf-8")
    effects = pd.DataFrame([{**asdict(e), "on": e.on or "", "verdict": e.verdict} for e in results.effects])
    effects.to_csv(folder / "effects.csv", index=False, float_format="%.7g")
    return page


def make_json(results: Results, command: str) -> dict[str, Any]:
    """Return all numbers as JSON values.

    Args:
        results: The results.
        command: The command line that computed them.
    """
    effects = [{**asdict(e), "verdict": e.verdict} for e in results.effects]
    return {"command": command, **asdict(results), "effects": effects, "findings": describe_findings(results)}


def make_terminal_table(results: Results) -> Group:
    """Return a table of the effects on GAUC, one row per domain, followed by the findings."""
    pairs = zip(select_effects(results, "gain"), select_effects(results, "others"), strict=True)
    rows = [describe_domain(d, gain, others) for d, (gain, others) in zip(results.domains, pairs, strict=True)]
    lines = [f"{text}." for text in describe_findings(results)] or ["No significant effect."]
    if results.left_out:
        names = ", ".join(results.left_out)
        lines.append(f"Not analyzed, with fewer than {results.min_clicks:,} clicks in the training rows: {names}.")
    nights = ", ".join(results.nights)
    title = f"{results.name}, {nights}: GAUC of models of one domain and of the joint model, and what domains gain"
    return Group(make_table(rows, list(rows[0]), title), Text("\n".join(lines)))
