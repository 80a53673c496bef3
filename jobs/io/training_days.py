"""Training days that the split stores once for all nights, because vocabularies only grow.

With `split.vocabulary: grown`, a value keeps its id, and a number keeps its scale. So the encoded rows of a day stay
valid on later nights. A night adds the values of the day before to the vocabularies. Then it encodes that day as
training rows, and its own day as test rows. Its other training days are stored already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from deltalake import DeltaTable

from star_ctr.conf.contracts.encoded_row import TRAIN_DAY, Layout
from star_ctr.conf.contracts.fingerprint import hash_code, hash_json
from star_ctr.conf.contracts.run_id import hash_split_settings
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.history.day_plan import PART as FEATURES
from star_ctr.jobs.io.day_records import DayRecord, DayRecords
from star_ctr.jobs.io.label_records import PART as LABELS
from star_ctr.jobs.io.split_commits import read_lineage
from star_ctr.jobs.io.split_inputs import EarlierSplit
from star_ctr.jobs.io.table_hashes import HASH
from star_ctr.jobs.io.warehouse import WarehouseTables

PART = "split"
"""The part of the records of encoded training days."""
_VOCABULARY, _ENCODING = "vocabulary", "encoding"
"""Keys of a record: the hash of the vocabularies, and that of the layout that the rows were encoded with."""


class TrainingDays(NamedTuple):
    """The training days of a night.

    Attributes:
        days: All training days.
        encoded: The days to encode, with their records.
        lineage: The hashes that identify the night's vocabularies and those that they extend, newest first.
    """

    days: list[str]
    encoded: dict[str, DayRecord]
    lineage: list[str]


def plan_training_days(
    settings: Settings,
    store: WarehouseTables,
    ds: str,
    days: Sequence[str],
    layout: Layout,
    previous: EarlierSplit | None,
) -> TrainingDays:
    """Find the training days of a night that must be encoded.

    A day is encoded if its rows, its labels, the settings or the code have changed, or if it was encoded with
    vocabularies that those of the night do not extend. A day with open labels is encoded again on later nights, until
    all labels are final.

    Args:
        settings: The data set.
        store: The tables.
        ds: The night.
        days: The training days.
        layout: The layout of the night.
        previous: The split whose vocabularies the night extends; None for the first night.

    Returns:
        The plan.
    """
    records = DayRecords(settings)
    stored = records.read(PART)
    rows = _hash_rows(store, records, days)
    basis = [hash_split_settings(settings), hash_code(["star_ctr.jobs.split"]), layout.hash_encoding()]
    # With other settings, values may have expired whose ids are used again.
    has_same_settings = previous is not None and previous.settings == hash_split_settings(settings)
    earlier = previous.lineage if previous is not None and has_same_settings else []
    origin = earlier[:1] or (previous and f"{previous.ds} {previous.version}")
    vocabulary = hash_json([ds, basis, rows, origin], 32)
    # Vocabularies are only relevant while a day of the window may have been encoded with them.
    lineage = [vocabulary, *(name for name in earlier if name != vocabulary)][: settings.window.days + 1]
    existing = _list_stored_days(store.warehouse.table("split"))
    encoded = {}
    for day in days:
        inputs = hash_json([basis, rows[day]], 32)
        found = stored.get(day)
        is_valid = found is not None and found.inputs == inputs and found.outputs[_VOCABULARY] in lineage
        if not is_valid or day not in existing:
            encoded[day] = DayRecord(inputs, {_VOCABULARY: vocabulary, _ENCODING: layout.hash_encoding()})
    return TrainingDays(list(days), encoded, lineage)


def find_encoded_days(settings: Settings, table: str, version: int, layout: Layout, days: Sequence[str]) -> list[str]:
    """Find the days whose stored rows have the ids and numbers of a night, including days before its training window.

    These are the rows that the nights were trained on. Labels that became final later are not updated.

    Args:
        settings: The settings of the data set.
        table: Path or URL of the split table.
        version: The version of the commit that wrote the night.
        layout: The layout of the night. A number that was constant on earlier days has another scale since.
        days: The days to look for.

    Returns:
        The days whose rows were encoded with the vocabularies of the night, or with those that they extend, and with
        its encoding of numbers, and have not been written again since; in the order of `days`.
    """
    lineage, records = set(read_lineage(table, version)), DayRecords(settings).read(PART)
    # The records describe the newest version, whose rows may be encoded with other vocabularies.
    files, newest = _list_files(table, version), _list_files(table)
    return [
        day
        for day in days
        if day in records
        and records[day].outputs[_VOCABULARY] in lineage
        and records[day].outputs.get(_ENCODING) == layout.hash_encoding()
        and day in files
        and files[day] == newest.get(day)
    ]


def _list_files(table: str, version: int | None = None) -> dict[str, set[str]]:
    """Return the files with the training rows of each day, in a version of the split or in the newest one."""
    actions = DeltaTable(table, version=version).get_add_actions(flatten=True)
    columns = (actions.column(name).to_pylist() for name in ("path", "partition.ds", "partition.part"))
    files: dict[str, set[str]] = {}
    for path, day, part in zip(*columns, strict=True):
        if part == TRAIN_DAY:
            files.setdefault(day, set()).add(path)
    return files


def _hash_rows(store: WarehouseTables, records: DayRecords, days: Sequence[str]) -> dict[str, str]:
    """Hash what determines the features and labels of each day; the versions of the tables if it is not known."""
    features, labels = records.read(FEATURES), records.read(LABELS)
    versions = [store.get_version("features"), store.get_version("labels")]
    known = {d: [features[d].inputs, labels[d].outputs[HASH]] for d in days if d in features.keys() & labels}
    return {day: hash_json(known.get(day, versions), 32) for day in days}


def _list_stored_days(table: str) -> set[str]:
    """Return the days whose training rows the split contains."""
    if not DeltaTable.is_deltatable(table):
        return set()
    return {p["ds"] for p in DeltaTable(table).partitions() if p["part"] == TRAIN_DAY}
