"""The records of the labels of each day: as of which night they were computed, and when they are final."""

from __future__ import annotations

from collections.abc import Iterable

from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.day_records import DayRecord, DayRecords

PART = "labels"
"""The part of the records of days of labels."""
AS_OF = "as_of"
"""Key of the last log day of clicks that the labels of a day were computed from, in the record of the day."""
CLOSES = "closes"
"""Key of the day at whose end all labels of a day are final, in the record of the day."""
LABEL_SETTINGS = "settings"
"""Key of the hash of the settings of the labels, in the record of the day."""
WEIGHT = "weight"
"""Key of the log column with the weights, in the record of the day; absent if the settings declared no weight."""


def has_open_labels(record: DayRecord, ds: str) -> bool:
    """Return whether labels of a day were open on night `ds`, or when they were computed if that was earlier."""
    return bool(record.outputs[CLOSES] > min(record.outputs[AS_OF], ds))


def find_open_days(settings: Settings, ds: str) -> list[str]:
    """Return the days before `ds` that had open labels when they were computed last, oldest first; needs no Spark."""
    records = DayRecords(settings).read(PART)
    return sorted(day for day, found in records.items() if day < ds and has_open_labels(found, ds))


def find_days_of_other_weights(settings: Settings, days: Iterable[str]) -> list[str]:
    """Return the days whose labels were written with another weight column or none; does not need Spark."""
    records, weight = DayRecords(settings).read(PART), settings.logs.impressions.weight
    return [day for day in days if day in records and records[day].outputs.get(WEIGHT) != weight]


def find_labels_of_other_nights(settings: Settings, ds: str, days: Iterable[str]) -> dict[str, str]:
    """Find the days whose labels another night has computed, from more or fewer clicks than night `ds` knows.

    Needs no Spark.

    Args:
        settings: The data set.
        ds: The night.
        days: The days of its window.

    Returns:
        The other night by day, for days with labels that were open on one of both nights. Empty text stands for a night
        that was killed while it wrote the labels.
    """
    records, others = DayRecords(settings).read(PART), dict[str, str]()
    for day in days:
        if day not in records:
            others[day] = ""
            continue
        as_of = records[day].outputs[AS_OF]
        if as_of != ds and has_open_labels(records[day], ds):
            others[day] = as_of
    return others
