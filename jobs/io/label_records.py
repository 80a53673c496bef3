"""The records of the labels of each day: as of which night they were computed, and when they are final."""

from __future__ import annotations

from collections.abc import Iterable

from star_ctr.conf.contracts.run_id import hash_outcome_settings
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.day_records import DayRecord, DayRecords

PART = "labels"
"""The part of the records of days of labels."""
AS_OF = "as_of"
"""Key of the last log day of clicks that the labels of a day were computed from, in the record of the day."""
CLOSES = "closes"
"""Key of the day at whose end all labels of a day are final, in the record of the day."""
OUTCOMES_CLOSE = "outcomes_close"
"""Key of the day at whose end all values of each further outcome are final, in the record of the day; absent if there
are none."""
LABEL_HASH = "label_rows"
"""Key of the hash of the labels without further outcomes, in the record of the day; absent if there are none."""
OUTCOME_SETTINGS = "outcome_settings"
"""Key of the hash of the settings of the further outcomes, in the record of the day; absent if there are none."""
LABEL_SETTINGS = "settings"
"""Key of the hash of the settings of the labels, in the record of the day."""
WEIGHT = "weight"
"""Key of the log column with the weights, in the record of the day; absent if the settings declared no weight."""


def has_open_labels(record: DayRecord, ds: str) -> bool:
    """Return whether labels or outcomes of a day were open on night `ds`, or when they were computed, if earlier."""
    last = max([record.outputs[CLOSES], *record.outputs.get(OUTCOMES_CLOSE, {}).values()])
    return bool(last > min(record.outputs[AS_OF], ds))


def find_open_days(settings: Settings, ds: str) -> list[str]:
    """Return the days before `ds` that had open labels when they were computed last, oldest first; needs no Spark."""
    records = DayRecords(settings).read(PART)
    return sorted(day for day, found in records.items() if day < ds and has_open_labels(found, ds))


def find_days_with_other_columns(settings: Settings, days: Iterable[str]) -> list[str]:
    """Return the days whose weights or further outcomes were written with other settings; does not need Spark."""
    records = DayRecords(settings).read(PART)
    current = (settings.logs.impressions.weight, hash_outcome_settings(settings))
    found = {day: (records[day].outputs.get(WEIGHT), records[day].outputs.get(OUTCOME_SETTINGS)) for day in records}
    return [day for day in days if found.get(day, current) != current]


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
