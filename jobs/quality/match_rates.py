"""Match rates: the shares of clicks, of events of further outcomes, and of impressions that a join matches."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from star_ctr.conf.settings.root import Settings
from star_ctr.features.point_in_time.attribution import EARLY as EARLY_CLICK
from star_ctr.features.point_in_time.attribution import MATCHED, ORPHAN, name_event_status
from star_ctr.jobs.io.warehouse import LedgerEntry
from star_ctr.jobs.quality.measures import EARLY, MATCH, Measure, read_day


def _count_by_status(entries: Iterable[LedgerEntry], days: Collection[str]) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield the number of clicks or events of each day by status; days without any are left out."""
    counts: dict[str, dict[str, int]] = {}
    for entry in entries:
        if entry.ds in days:
            by_status = counts.setdefault(entry.ds, {})
            by_status[entry.reason] = by_status.get(entry.reason, 0) + entry.rows_in
    yield from sorted(counts.items())


def measure_events(outcome: str, events: Iterable[LedgerEntry], days: Collection[str]) -> list[Measure]:
    """Count the events of a further outcome that belong to an impression, by day.

    Events that do not set an outcome, because they are repeated, late or early, belong to an impression nevertheless.

    Args:
        outcome: The name of the outcome.
        events: The ledger entries of its events.
        days: The days to count.

    Returns:
        A measure per day with events.
    """
    found = []
    for ds, by_status in _count_by_status(events, days):
        total, orphans = sum(by_status.values()), by_status.get(name_event_status(ORPHAN), 0)
        found.append(Measure(ds, "events", outcome, MATCH, total, total - orphans))
    return found


def measure_clicks(clicks: Iterable[LedgerEntry], days: Collection[str]) -> list[Measure]:
    """Count clicks that match an impression, and that precede it, by day; days without clicks are left out."""
    found = []
    for ds, by_status in _count_by_status(clicks, days):
        total = sum(by_status.values())
        found.append(Measure(ds, "clicks", "clicks", MATCH, total, by_status.get(MATCHED, 0)))
        found.append(Measure(ds, "clicks", "clicks", EARLY, total, by_status.get(EARLY_CLICK, 0)))
    return found


def describe_matches(settings: Settings, ds: str) -> list[str]:
    """Describe the match rates of day `ds`; needs no Spark.

    Returns:
        One line per join.
    """
    lines = []
    for found in sorted(read_day(settings, ds, [MATCH])):
        what, key = f"impressions matched `{found.name}`", f"logs.{found.name}.key"
        if found.log in ("clicks", "events"):
            events = "clicks" if found.log == "clicks" else f"events of `label.also.{found.name}`"
            what, key = f"{events} matched an impression", f"logs.{found.log}.impression"
        warning = f"; check that {key} has the same ids as the impressions" if found.share < 0.5 else ""
        lines.append(f"{found.share:.1%} of {found.rows:,} {what}{warning}")
    return lines
