"""The report of a night as one HTML file.

The page runs no script and fetches nothing. It fits a phone and has a light and a dark theme.
"""

from __future__ import annotations

import datetime as dt
from html import escape
from pathlib import Path

from star_ctr.conf.files import write_text
from star_ctr.workflows.report import night, quality
from star_ctr.workflows.report.data import ReportData
from star_ctr.workflows.report.headline import render_headline

# Even if a name in the data contains HTML that was not escaped, the browser runs no script and fetches nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render(data: ReportData, command: str) -> str:
    """Return the HTML of the report.

    Args:
        data: The data of the night.
        command: The command line that writes the report, for the footer.
    """
    columns = [
        quality.render_by_night(data, "GAUC", "gauc"),
        quality.render_by_night(data, "PCOC", "pcoc"),
        quality.render_against_serving(data),
        quality.render_calibration(data),
        night.render_training(data),
        night.render_durations(data),
    ]
    halves = [night.render_states(data), night.render_ledger(data)]
    title = escape(f"{data.settings.name} {data.ds}")
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    generated = f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title><link rel="icon" href="data:,">
<style>
{style}</style></head>
<body><main>
{render_headline(data)}
{quality.render_by_domain(data)}
<div class="columns">
{"".join(columns)}
</div>
<div class="halves">
{"".join(halves)}
</div>
{night.render_record(data)}
<footer>Generated {generated} by <code>{escape(command)}</code></footer>
</main></body></html>
"""


def write(data: ReportData, command: str, file: Path) -> None:
    """Write the report atomically.

    Args:
        data: The data of the night.
        command: The command line that writes the report, for the footer.
        file: The HTML file to write.
    """
    write_text(file, render(data, command))
