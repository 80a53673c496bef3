"""Sentences about jumps of measures."""

from __future__ import annotations

from collections.abc import Sequence

from star_ctr.jobs.quality.measures import (
    CLICKED,
    DUPLICATES,
    EARLY,
    HEAVIEST,
    LEFT_OUT,
    MATCH,
    NULL,
    QUARANTINED,
    UNPARSABLE,
    UNSEEN,
    Measure,
)


def describe_share(now: Measure, usual: float) -> str:
    """Describe a share that deviates from its usual value."""
    share, name, log = format_share(now.share), now.name, now.log
    change = f"{'rose' if now.share > usual else 'fell'} from {format_share(usual)} to {share}"
    example = f" (such as `{now.example}`)" if now.example else ""
    joined = {
        "clicks": "clicks matched an impression",
        "events": f"events of `label.also.{name}` matched an impression",
    }
    matches = joined.get(log, f"impressions matched {name}")
    subject = {
        NULL: f"null share of {name} {change}",
        CLICKED: f"click rate{f' of domain {name}' if name else ''} {change}",
        QUARANTINED: f"{share} of the rows of {log} are quarantined because of `{name}`",
        DUPLICATES: f"{share} of the rows of {log} are duplicates",
        LEFT_OUT: f"{share} of the rows of {log} are left out by `where`",
        MATCH: f"only {share} of {matches}",
        EARLY: f"{share} of clicks precede their impression",
        UNPARSABLE: f"{share} of the values of {name} cannot be parsed{example}",
        UNSEEN: f"{share} of the values of {name} did not occur on the earlier days",
        HEAVIEST: f"one user ({now.example}) has {share} of the rows of {log}",
    }[now.measure]
    return subject if now.measure in (NULL, CLICKED) else f"{subject}, usually {format_share(usual)}"


def describe_median(what: str, now: Measure, usual: float) -> str:
    """Describe the median, or another statistic in the unit of the column, that deviates from its usual value."""
    value = now.value or 0.0
    change = "rose" if value > usual else "fell"
    return f"{what} of {now.name} {change} from {format_number(usual)} to {format_number(value)}"


def describe_hours(log: str, hours: Sequence[int], rows: int) -> str:
    """Describe missing hours, with consecutive hours as a range.

    Args:
        log: The log.
        hours: The missing hours, in order.
        rows: The number of rows that these hours have nevertheless.

    Returns:
        The sentence.
    """
    ranges: list[list[int]] = []
    for hour in hours:
        if ranges and ranges[-1][1] == hour:
            ranges[-1][1] = hour + 1
        else:
            ranges.append([hour, hour + 1])
    shown = " and ".join(f"between {start:02d}:00 and {end:02d}:00" for start, end in ranges)
    return f"{f'only {format_count(rows)}' if rows else 'no rows'} of {log} {shown}"


def format_count(rows: int) -> str:
    """Return a number of rows in words, such as `1 row`, `no rows` or `4,100 rows`."""
    return "1 row" if rows == 1 else f"{rows:,} rows" if rows else "no rows"


def format_share(share: float) -> str:
    """Return a share in percent with two significant digits, such as `0.23%`, `3.1%` or `98%`; `100%` only for all."""
    percent = 100 * share
    if 99 < percent < 100:
        return "99.9%" if percent < 99.95 else "almost 100%"
    if 0 < percent < 0.01:
        return "less than 0.01%"
    digits = 0 if percent >= 10 or percent == 0 else 1 if percent >= 1 else 2
    text = f"{percent:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text}%"


def format_number(value: float) -> str:
    """Return a number with thousands separators, such as `12.5` or `1,250`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
