"""Match the samples of a data set's logs: clicks and events with impressions, and impressions with users and items."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from star_ctr.conf.settings.label import LabelFromClicks
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.quality.sample import Sample

_KEYS = {"users": "user_id", "items": "item_id"}
_LOW = 0.5
"""Share of matches below which a warning is given."""
_NAMED = 10
"""Maximum number of events that are named."""


def describe_matches(settings: Settings, samples: Mapping[str, Sample]) -> Iterator[tuple[str, list[str], list[str]]]:
    """Describe the matches of the logs that are joined with impressions.

    Only whole samples are matched: in a part of a log, most keys are missing anyway.

    Args:
        settings: The settings of the data set.
        samples: The samples by log.

    Yields:
        The name of a log, its problems and its warnings.
    """
    if "impressions" not in samples or not samples["impressions"].is_whole:
        return
    impressions = _select_good(samples["impressions"])
    if not len(impressions):
        return
    for name, key in _KEYS.items():
        if name in samples and samples[name].is_whole:
            yield name, [], list(_describe_attributes(impressions, key, _select_good(samples[name]), name))
    if "clicks" in samples and samples["clicks"].is_whole:
        clicks = _select_days(_select_good(samples["clicks"]), impressions)
        if len(clicks):
            yield "clicks", list(_find_click_problems(settings, impressions, clicks)), []
    if "events" in samples and samples["events"].is_whole:
        # An event may belong to an impression that is left out on purpose.
        yield "events", *_describe_events(settings, samples["impressions"].rows, _select_good(samples["events"]))


def compute_click_rates(settings: Settings, samples: Mapping[str, Sample]) -> dict[str, float]:
    """Compute the approximate click rate of each domain from the samples of the impressions and of a click log.

    Args:
        settings: The settings of the data set.
        samples: The samples by log.

    Returns:
        The share of the impressions with a click, by domain; empty if labels do not come from clicks, or if one of the
        samples is missing or not whole.
    """
    if not isinstance(settings.label, LabelFromClicks):
        return {}
    if not all(name in samples and samples[name].is_whole for name in ("impressions", "clicks")):
        return {}
    impressions, clicks = (_select_good(samples[name]) for name in ("impressions", "clicks"))
    # A day without clicks is not sampled, or its clicks have not arrived yet.
    impressions = _select_days(impressions, clicks)
    clicked = pc.is_in(impressions["impression_id"], value_set=clicks["impression_id"].combine_chunks())
    table = pa.table({"domain": impressions["domain"], "clicked": clicked.cast(pa.float64())})
    found = table.group_by("domain").aggregate([("clicked", "mean")]).to_pylist()
    return {row["domain"]: row["clicked_mean"] for row in found}


def _select_good(sample: Sample) -> pa.Table:
    return sample.rows.filter(pc.is_null(sample.rows["reason"]))


def _describe_attributes(impressions: pa.Table, key: str, rows: pa.Table, name: str) -> Iterator[str]:
    """Yield a warning if few impressions have a row in an attribute table."""
    found = pc.is_in(impressions[key], value_set=rows["key"].combine_chunks())
    share = pc.sum(found).as_py() / len(found)
    if not len(rows):
        yield f"logs.{name} has no valid rows, so no impression matches it"
    elif share < _LOW:
        there = rows["key"][0].as_py()
        yield (
            f"only {share:.0%} of the impressions have a row in logs.{name}; check that logs.{name}.key has the same "
            f"ids as the impressions (for example `{there}` and `{impressions[key][0].as_py()}`)"
        )


def _select_days(rows: pa.Table, other: pa.Table) -> pa.Table:
    """Return the rows of the days on which another sample has rows."""
    return rows.filter(pc.is_in(rows["ds"], value_set=other["ds"].unique()))


def _join_first_shown(rows: pa.Table, impressions: pa.Table) -> pa.Table:
    """Return the clicks or events that have an impression, with the first time at which it was shown, `ts_min`."""
    shown = impressions.group_by("impression_id").aggregate([("ts", "min")])
    return rows.select(["impression_id", "ts", "ds"]).join(shown, "impression_id", join_type="inner")


def _count_early(joined: pa.Table) -> int:
    """Count the clicks or events before their impression, from `_join_first_shown`."""
    return pc.sum(pc.less(joined["ts"], joined["ts_min"])).as_py() or 0


def _describe_events(settings: Settings, impressions: pa.Table, events: pa.Table) -> tuple[list[str], list[str]]:
    """Return the problems and the warnings of the events of further outcomes.

    Args:
        settings: The settings of the data set.
        impressions: The sampled impressions, also those that are left out.
        events: The valid sampled events.
    """
    problems: list[str] = []
    warnings: list[str] = []
    impressions = impressions.filter(pc.is_valid(impressions["impression_id"]))
    sampled, first_day = _select_days(events, impressions), dt.date.fromisoformat(min(impressions["ds"].to_pylist()))
    for name, outcome in settings.label.outcome_events.items():
        event, where = outcome.event or name, f"label.also.{name}"
        own = sampled.filter(pc.equal(sampled["event"], event))
        if not len(own):
            found = ", ".join(sorted({text for text in events["event"].to_pylist() if text})[:_NAMED])
            warnings.append(
                f"{where}: no event `{event}` on the sampled days of logs.events (found: {found or 'no events'}); "
                f"check {where}.event"
            )
            continue
        same_ids = (
            "check that logs.events.impression and logs.impressions.id contain the same ids (for example "
            f"`{own['impression_id'][0].as_py()}` and `{impressions['impression_id'][0].as_py()}`)"
        )
        joined = _join_first_shown(own, impressions)
        # The impression of an event may have been shown before the first sampled day. So only events after the first
        # attribution window of the sample must have one.
        since = (first_day + dt.timedelta(days=math.ceil(outcome.window_hours / 24))).isoformat()
        settled, matched = (len(rows.filter(pc.greater_equal(rows["ds"], since))) for rows in (own, joined))
        if not len(joined):
            texts = problems if settled else warnings
            texts.append(f"{where}: none of the {len(own):,} events `{event}` matches an impression; {same_ids}")
        elif matched < _LOW * settled:
            warnings.append(
                f"{where}: only {matched / settled:.0%} of the {settled:,} events `{event}` match an impression; "
                f"{same_ids}"
            )
        early = _count_early(joined)
        if early > settings.checks.max_early_clicks * len(joined):
            warnings.append(
                f"{where}: {early:,} of {len(joined):,} events `{event}` precede their impression and are ignored; "
                "check `zone` of logs.events.time and logs.impressions.time"
            )
    return problems, warnings


def _find_click_problems(settings: Settings, impressions: pa.Table, clicks: pa.Table) -> Iterator[str]:
    """Yield a problem if no click has an impression, or if too many precede it."""
    joined = _join_first_shown(clicks, impressions)
    if not len(joined):
        yield (
            f"none of the {len(clicks):,} clicks has an impression; check that logs.clicks.impression and "
            f"logs.impressions.id contain the same ids (for example `{clicks['impression_id'][0].as_py()}` and "
            f"`{impressions['impression_id'][0].as_py()}`)"
        )
        return
    early = _count_early(joined)
    if early > settings.checks.max_early_clicks * len(joined):
        yield (
            f"{early:,} of {len(joined):,} clicks come before their impression; set `zone` of logs.clicks.time or "
            "logs.impressions.time"
        )
