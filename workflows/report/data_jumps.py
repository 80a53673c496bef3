"""Section of the report about the data of the night: which measures jumped."""

from __future__ import annotations

from html import escape

from star_ctr.jobs.quality.deviations import MIN_DAYS
from star_ctr.jobs.quality.jumps import Jump
from star_ctr.workflows.report.charts import draw_sparkline
from star_ctr.workflows.report.data import ReportData
from star_ctr.workflows.report.quality import render_section


def render_jumps(data: ReportData) -> str:
    """Return the jumps in the data of the night, each with a small line of its measure over the days.

    If there are no jumps, the section states this, or why nothing was compared.

    Args:
        data: The data of the night.

    Returns:
        The HTML of the section.
    """
    found = data.jumps
    days = f"{found.earlier_days} earlier {'day' if found.earlier_days == 1 else 'days'}"
    if not data.settings.checks.jumps:
        content = '<p class="calm">The data was not compared with earlier days (checks.jumps: false).</p>'
    elif found.earlier_days < MIN_DAYS:
        content = f'<p class="calm">The profile has {days}; a comparison needs {MIN_DAYS}.</p>'
    elif not found.jumps:
        content = f'<p class="calm">Nothing jumped, compared with {days}.</p>'
    else:
        more = f" {found.more} more are not shown." if found.more else ""
        note = f"Measures of the table <code>profile</code> that deviate from those of {days}, largest first.{more}"
        items = "".join(map(_render_jump, found.jumps))
        content = f'<ul class="jumps">{items}</ul><p class="note">{note}</p>'
    return render_section("Data", content)


def _render_jump(jump: Jump) -> str:
    sentence = f"{jump.sentence[:1].upper()}{jump.sentence[1:]}."
    days = list(jump.values)
    title = escape(f"{days[0]} to {days[-1]}")
    return f'<li><span title="{title}">{draw_sparkline(list(jump.values.values()))}</span> {escape(sentence)}</li>'
