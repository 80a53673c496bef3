"""Random sequences of nights, restated days, kills and `clean`: each horizon reads each log day exactly once.

The tables and records are in memory, and a partition only remembers the versions of the log days that it holds, so
hundreds of sequences take seconds.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from star_ctr.jobs.history import merged_state, old_partitions, roll_ups, state
from star_ctr.jobs.history.merged_state import HISTORY_PART, name_merged_part
from star_ctr.jobs.history.roll_ups import EPOCH, Partition, count_days, format_day
from star_ctr.jobs.io.day_records import DayRecord

Held = Counter[tuple[str, int]]
"""How often a part of the state holds each version of each log day."""


class KilledError(Exception):
    """The process was killed."""


class Warehouse:
    """Records and partitions in memory, and the versions of the log days.

    `writes_left` is the number of writes before the process is killed, if it is not None.
    """

    def __init__(self) -> None:
        self.records: dict[str, dict[str, DayRecord]] = {}
        self.partitions: dict[Partition, Held] = {}
        self.days: dict[str, int] = {}
        self.writes_left: int | None = None

    def write(self) -> None:
        if self.writes_left is not None:
            self.writes_left -= 1
            if self.writes_left < 0:
                self.writes_left = None
                raise KilledError


class Records:
    """Stands for `DayRecords`."""

    def __init__(self, settings: Any) -> None:
        self.warehouse = settings.warehouse

    def read(self, part: str) -> dict[str, DayRecord]:
        return dict(self.warehouse.records.get(part, {}))

    def write(self, part: str, records: Mapping[str, DayRecord]) -> None:
        if records:
            self.warehouse.write()
            self.warehouse.records.setdefault(part, {}).update(records)

    def remove(self, part: str, days: Collection[str]) -> None:
        if days:
            self.warehouse.write()
            for day in days:
                self.warehouse.records.get(part, {}).pop(day, None)


class Rows:
    """Stands for a data frame with the rows of some partitions."""

    def __init__(self, parts: list[tuple[Partition, Held]]) -> None:
        self.parts = parts

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self


class Tables:
    """Stands for `StateTables`."""

    def __init__(self, settings: Any, *_: Any) -> None:
        self.settings, self.warehouse = settings, settings.warehouse
        self.names, self.expire_days = ["history_counts"], 5
        self.groups = [SimpleNamespace(horizon=horizon) for horizon in settings.horizons]

    def all_exist(self) -> bool:
        return True

    def compute(self, events: Rows) -> dict[str, Rows]:
        return {"history_counts": events}

    def read(self, _: str, partitions: Iterable[Partition]) -> Rows:
        return Rows([(p, self.warehouse.partitions.get(p, Held())) for p in partitions])

    def write(self, _: str, rows: Rows, partitions: Iterable[Partition]) -> None:
        self._replace(partitions, rows.parts)

    def remove(self, partitions: Iterable[Partition]) -> None:
        self.warehouse.write()
        for partition in partitions:
            self.warehouse.partitions.pop(partition, None)

    def merge(self, _: str, rows: Rows, end: Any, partitions: list[Partition]) -> None:
        first, parts = partitions[0], []
        for partition, held in rows.parts:
            start = partition.ds if first.ds == EPOCH else count_days(partition.ds) // first.span * first.span
            parts.append((first if first.ds == EPOCH else Partition(first.span, format_day(int(start))), held))
        self._replace(partitions, parts)

    def _replace(self, partitions: Iterable[Partition], parts: list[tuple[Partition, Held]]) -> None:
        self.warehouse.write()
        new = {partition: Held() for partition in partitions}
        for partition, held in parts:
            new[partition] += held
        self.warehouse.partitions |= new


class Days:
    """Stands for `LogDays`."""

    def __init__(self, warehouse: Warehouse, ds: str) -> None:
        self.ds = ds
        self.hashes = {day: str(version) for day, version in sorted(warehouse.days.items()) if day <= ds}
        self.parts: dict[str, dict[str, str]] = {day: {} for day in self.hashes}

    def record(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _in_memory() -> Iterator[None]:
    def read_events(settings: Any, _: Any, days: Iterable[str], with_earlier: bool = False) -> Rows:
        return Rows([(Partition(1, day), Held({(day, settings.warehouse.days[day]): 1})) for day in days])

    with (
        mock.patch.multiple(state, StateTables=Tables, DayRecords=Records, F=mock.MagicMock(), read_events=read_events),
        mock.patch.multiple(merged_state, DayRecords=Records, F=mock.MagicMock()),
        mock.patch.multiple(old_partitions, DayRecords=Records, list_groups=lambda settings: settings.groups),
        mock.patch.object(roll_ups, "SPANS", (2, 4)),
    ):
        yield


class Log:
    """A log that grows, and what may happen to it and its state.

    Args:
        seed: Seed of all random choices.
    """

    def __init__(self, seed: int) -> None:
        self.random, self.warehouse, self.version = random.Random(seed), Warehouse(), 0
        self.horizons = self.random.choice([[0], [0, 3], [2], [0, 6]])
        self.window, self.age = self.random.choice([1, 2, 3]), self.random.choice([1, 3])
        self.newest = 20_000 + self.random.randrange(4)
        self.settings: Any = SimpleNamespace(
            warehouse=self.warehouse,
            horizons=self.horizons,
            groups=[SimpleNamespace(horizon=horizon) for horizon in self.horizons],
            features=[],
            window=SimpleNamespace(days=self.window),
        )

    def restate(self, day: str) -> None:
        self.version += 1
        self.warehouse.days[day] = self.version

    def choose_day(self) -> str:
        return self.random.choice(sorted(self.warehouse.days))

    def run_night(self, ds: str, update: bool = True, cut: int | None = None) -> None:
        """Run a night, and check what its features are computed from."""
        history = state.HistoryState(self.settings, mock.MagicMock(), ds, Days(self.warehouse, ds))  # type: ignore[arg-type]
        if update:
            history.update(ExitStack())
        last = count_days(ds) if cut is None else cut
        for horizon in self.horizons:
            parts = history._choose_parts(last - self.window + 1, last, horizon)
            held = sum((self.warehouse.partitions.get(p, Held()) for p in parts.stored), Held())
            held += Held({(day, self.warehouse.days[day]): 1 for day in parts.missing})
            held = Held({key: n for key, n in held.items() if count_days(key[0]) < last})
            want = {(day, self.warehouse.days[day]): 1 for day in history.days if count_days(day) < last}
            assert held == want, f"horizon {horizon}"
            for span, first in (p for p in parts.stored if p.span > 1):
                end = span if first == EPOCH else count_days(first) + span
                assert end <= last - self.window + 1 - horizon

    def advance(self, skip: int = 0) -> None:
        """Add days, with gaps if `skip` is not 0, and run the night of the last one."""
        self.newest += 1 + skip
        self.restate(format_day(self.newest))
        self.run_night(format_day(self.newest))

    def run_killed(self) -> None:
        """Restate a day, kill the night that reads it, and restore the day."""
        day = self.choose_day()
        version = self.warehouse.days[day]
        self.restate(day)
        self.warehouse.writes_left = self.random.randrange(14)
        with suppress(KilledError):
            self.run_night(format_day(self.newest))
        self.warehouse.writes_left = None
        self.warehouse.days[day] = version

    def clean(self) -> None:
        """Delete what a base contains; the process may be killed."""
        if self.random.random() < 0.3:
            self.warehouse.writes_left = self.random.randrange(4)
        base = old_partitions.find_base_for_cleaning(self.settings, format_day(self.newest), self.age)
        partitions = self.warehouse.partitions
        old = [partition for partition in partitions if base and old_partitions.is_in_base(partition, base)]
        with suppress(KilledError):
            old_partitions.remove_records(self.settings, old)
            if old:
                self.warehouse.write()
            for partition in old:
                del partitions[partition]
        self.warehouse.writes_left = None

    def take_step(self) -> None:
        match self.random.choice(["night"] * 5 + ["gap", "killed", "clean", "clean", "restate", "older", "open"]):
            case "night":
                self.advance()
            case "gap":
                self.advance(self.random.choice([1, 5]))
            case _ if not self.warehouse.days:
                pass
            case "killed":
                self.run_killed()
            case "clean":
                self.clean()
            case "restate":
                self.restate(self.choose_day())
            case "older":
                self.run_night(self.choose_day())
            case "open":
                cut = self.newest - self.random.randrange(10)
                self.run_night(format_day(self.newest), update=False, cut=cut)


@pytest.mark.parametrize("block", range(4))
def test_each_horizon_reads_each_log_day_once(block: int) -> None:
    for seed in range(200 * block, 200 * (block + 1)):
        log = Log(seed)
        for _ in range(log.random.randrange(10, 40)):
            log.take_step()


def test_a_long_log_has_days_roll_ups_and_bases() -> None:
    """Otherwise, the sequences would test nothing."""
    log = Log(1)
    for _ in range(12):
        log.advance()
    assert set(log.warehouse.records) == {HISTORY_PART, *(name_merged_part(span) for span in (2, 4, None))}
