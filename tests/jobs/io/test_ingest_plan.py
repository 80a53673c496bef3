"""Plans of logs without days."""

from __future__ import annotations

import os
from pathlib import Path

from star_ctr.conf.contracts.dates import NO_DAY
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.day_records import UNKNOWN, DayRecord
from star_ctr.jobs.io.ingest_plan import LogPlan, plan_log
from star_ctr.jobs.io.log_files import list_files
from tests.jobs.messy_logs import DAYS, settings

ITEMS = {"items": {"path": "items.csv", "key": "sku"}}


class Nights:
    """The records of `items` after some nights, and the plans of the next ones."""

    def __init__(self, folder: Path) -> None:
        self.file, self.conf = folder / "logs/items.csv", settings(folder, logs=ITEMS)
        self.file.parent.mkdir()
        self.file.write_text("sku\ns1\n")
        self.records: dict[str, DayRecord] = {}

    def plan(self, ds: str, conf: Settings | None = None) -> LogPlan:
        conf = conf or self.conf
        return plan_log(conf, "items", ds, list_files(conf, "items"), self.records)

    def run(self, ds: str) -> LogPlan:
        plan = self.plan(ds)
        if plan.starts_over:
            self.records.clear()
        self.records |= {day: DayRecord(inputs, dict(plan.outputs)) for day, inputs in plan.inputs.items()}
        return plan

    def change(self, time: int) -> None:
        os.utime(self.file, (time, time))


def test_a_night_reads_changed_files_and_gives_new_rows_its_day(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    assert (nights.run(DAYS[0]).first_seen, nights.plan(DAYS[0]).inputs) == (NO_DAY, {})
    same = nights.run(DAYS[1])
    assert (same.first_seen, same.read, same.adds_rows) == (DAYS[1], [], True)
    nights.change(1)
    assert nights.plan(DAYS[0]).inputs == {}, "an older night leaves the rows to the next one"
    changed = nights.run(DAYS[1])
    assert (changed.first_seen, changed.read) == (DAYS[1], None)
    assert nights.plan(DAYS[1]).inputs == {}
    nights.change(2)
    assert nights.run(DAYS[2]).first_seen == DAYS[2]
    assert set(nights.records) == {NO_DAY, *DAYS[1:]}
    assert nights.plan("2026-02-01").inputs == {}


def test_the_first_night_again_replaces_all_rows(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    nights.run(DAYS[1])
    nights.change(1)
    assert nights.plan(DAYS[0]).inputs == {}
    assert nights.run(DAYS[1]).starts_over


def test_other_settings_and_lost_records_start_over(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    for day in DAYS[:2]:
        nights.run(day)
    other = settings(tmp_path, logs=ITEMS, zone="Asia/Tokyo")
    assert [nights.plan(day, other).starts_over for day in DAYS] == [True] * 3
    nights.records[NO_DAY] = DayRecord(UNKNOWN, {})
    assert nights.plan(DAYS[2]).starts_over


def test_a_table_of_a_catalog_is_read_on_every_new_night(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    nights.conf = settings(tmp_path, logs={"items": {"table": "shop.items", "key": "sku"}})
    nights.run(DAYS[0])
    assert nights.run(DAYS[1]).read is None
    assert nights.plan(DAYS[1]).first_seen == DAYS[1]
    assert nights.plan(DAYS[0]).inputs == {}
