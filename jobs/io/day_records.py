"""What has been computed for each day of the logs, and from what. Needs no Spark.

A step that works by day skips the days whose inputs have not changed. It removes the records of the other days, writes
their rows, and then writes their records. If it is killed in between, these days count as not computed.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from star_ctr.conf.contracts.catalog import TABLES, Warehouse
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.delta_rows import describe_schema, make_any_condition, quote_literal, read_rows, replace_rows

_SCHEMA = describe_schema(
    "days",
    [
        ("part", pa.string()), ("ds", pa.string()), ("inputs", pa.string()), ("outputs", pa.string()),
        ("at", pa.timestamp("us", "UTC")),
    ],
)  # fmt: skip


UNKNOWN = ""
"""Inputs of a day whose rows exist although it is not known what they were written from."""
PARTS = "parts"
"""Key of a record: hashes of the parts of its inputs, by name. They only explain why a day is computed again."""
_REASONS = {
    "settings": "settings changed",
    "code": "code changed",
    "files": "log files changed",
    "rows": "its rows changed",
    "earlier": "earlier rows or attributes changed",
    "history": "an earlier day changed",
    "attributes": "attributes changed",
}
"""Reasons for computing a day again, by part. The first one that applies is given, because it may cause the others."""
_PARTS = {"ingest": "part LIKE 'ingest.%'", "features": "part IN ('features', 'labels') OR part LIKE 'history%'"}
"""Conditions that select the parts of a step."""


def forget_days(settings: Settings, step: str) -> None:
    """Remove all records of a step, so that it computes all days of its next night again."""
    table = Warehouse(settings.paths).table("days")
    replace_rows(table, [], _SCHEMA, _PARTS[step], TABLES["days"].partitions)


class DayRecord(NamedTuple):
    """What was computed for a day.

    Attributes:
        inputs: Hash of everything that determines the rows of the day.
        outputs: What later parts need to know about the rows, such as their hash.
    """

    inputs: str
    outputs: dict[str, Any]


def explain_change(known: DayRecord | None, parts: Mapping[str, str]) -> str:
    """Explain why a day is computed again, given its record and the current parts of its inputs."""
    if known is None or known.inputs == UNKNOWN:
        return "not computed yet"
    old = known.outputs.get(PARTS, {})
    return next((text for name, text in _REASONS.items() if old.get(name) != parts.get(name)), "its rows were lost")


class DayRecords:
    """The records of the warehouse in `paths.warehouse`, by part of the pipeline and day."""

    def __init__(self, settings: Settings) -> None:
        self.table = Warehouse(settings.paths).table("days")

    def read(self, part: str) -> dict[str, DayRecord]:
        """Return the records of a part by day."""
        rows = read_rows(self.table, f"part = {quote_literal(part)}")
        return {row["ds"]: DayRecord(row["inputs"], json.loads(row["outputs"])) for row in rows}

    def write(self, part: str, records: Mapping[str, DayRecord]) -> None:
        """Replace the records of some days."""
        now = dt.datetime.now(dt.UTC)
        rows = [(part, day, found.inputs, json.dumps(found.outputs), now) for day, found in records.items()]
        self._replace(part, rows, list(records))

    def remove(self, part: str, days: Collection[str]) -> None:
        """Remove the records of some days, before their rows are replaced."""
        self._replace(part, [], days)

    def _replace(self, part: str, rows: list[tuple[Any, ...]], days: Collection[str]) -> None:
        if days:
            where = f"part = {quote_literal(part)} AND {make_any_condition('ds', sorted(days))}"
            replace_rows(self.table, rows, _SCHEMA, where, TABLES["days"].partitions)
