"""The report of a night as one HTML file.

The page runs no script and fetches nothing. It fits phone screens and has a light and a dark theme.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from star_ctr.conf.files import write_text
from star_ctr.workflows.report import data_jumps, night, outcomes, quality
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
        quality.render_gaps(data),
        quality.render_calibration(data),
        quality.render_reliability(data),
        quality.render_importance(data),
        night.render_training(data),
        night.render_durations(data),
    ]
    halves = [night.render_states(data), night.render_ledger(data)]
    return render_page(
        f"{data.settings.name} {data.ds}",
        command,
        headline=render_headline(data),
        data_jumps=data_jumps.render_jumps(data),
        by_domain=quality.render_by_domain(data) + outcomes.render_outcomes(data),
        columns="".join(columns),
        halves="".join(halves),
        record=night.render_record(data),
    )


def render_page(title: str, command: str, **fragments: str) -> str:
    """Return the HTML of a page.

    Args:
        title: The title of the page.
        command: The command line that writes the page, for the footer.
        fragments: The parts of the page, as HTML in which values are already escaped: any of `headline`, `data_jumps`,
            `by_domain`, `columns`, `halves` and `record`.
    """
    folder = Path(__file__).parent
    template = Environment(loader=FileSystemLoader(folder), autoescape=True).get_template("page.html.j2")
    # The template escapes everything that is not `Markup`.
    return template.render(
        policy=Markup(_POLICY),
        title=title,
        style=Markup((folder / "page.css").read_text(encoding="utf-8")),
        generated=f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC",
        command=command,
        **{name: Markup(html) for name, html in fragments.items()},
    )


def write(data: ReportData, command: str, file: Path) -> None:
    """Write the report atomically.

    Args:
        data: The data of the night.
        command: The command line that writes the report, for the footer.
        file: The HTML file to write.
    """
    write_text(file, render(data, command))
