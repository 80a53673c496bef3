"""The morning page as one HTML file: no script, nothing fetched, readable on a phone and in the dark."""

from __future__ import annotations

import datetime as dt
from html import escape
from pathlib import Path

from star_ctr.conf.files import write_text
from star_ctr.workflows.report import night, quality
from star_ctr.workflows.report.data import ReportData
from star_ctr.workflows.report.headline import render_headline

# Whatever a name in the data might smuggle in, the browser neither runs nor fetches it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render(morning: ReportData, command: str) -> str:
    """The page; `command` is what made it."""
    columns = [
        quality.render_over_days(morning, "GAUC", "gauc"),
        quality.render_over_days(morning, "PCOC", "pcoc"),
        quality.render_against_serving(morning),
        quality.render_calibration(morning),
        night.render_training(morning),
        night.render_time(morning),
    ]
    halves = [night.render_nights(morning), night.render_ledger(morning)]
    title = escape(f"{morning.settings.name} {morning.ds}")
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    made = f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title><link rel="icon" href="data:,">
<style>
{style}</style></head>
<body><main>
{render_headline(morning)}
{quality.render_by_domain(morning)}
<div class="columns">
{"".join(columns)}
</div>
<div class="halves">
{"".join(halves)}
</div>
{night.render_inputs(morning)}
<footer>Made {made} by <code>{escape(command)}</code></footer>
</main></body></html>
"""


def write(morning: ReportData, command: str, file: Path) -> None:
    """Write the page, whole or not at all."""
    write_text(file, render(morning, command))
