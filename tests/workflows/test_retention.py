"""Retention: old data is deleted unless it is needed, and the journal records it."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake
from typer.testing import CliRunner

from star_ctr.conf.contracts.catalog import RECORD_FILE, TABLES, Warehouse
from star_ctr.conf.contracts.dates import list_days
from star_ctr.conf.contracts.run_id import make_reference_run_id, make_refit_run_id, make_run_id
from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.delta_rows import read_rows
from star_ctr.jobs.io.split_commits import find_split
from star_ctr.jobs.registry.attempts import Attempt, assign_attempt, get_published_attempt, list_attempts
from star_ctr.jobs.registry.decisions import Decision, Decisions, Outcome, find_serving
from star_ctr.jobs.tools import vacuum
from star_ctr.model.training.job import TrainingJob
from star_ctr.workflows import retention
from star_ctr.workflows.backfill import explain_why_needed
from star_ctr.workflows.cli import app
from star_ctr.workflows.journal import Entry, Journal
from star_ctr.workflows.lease import hold_lease
from star_ctr.workflows.staleness import Staleness
from star_ctr.workflows.status import read_staleness
from star_ctr.workflows.step_states import State
from tests.model.synthetic import job
from tests.published import publish
from tests.steps import EVERY_NIGHT

DAYS = list_days("2026-02-17", "2026-03-02")
AGES = tuple(
    f"retention.{name}={days}"
    for name, days in {"features": 6, "splits": 3, "scores": 3, "models": 8, "rollbacks": 1}.items()
)


class Nights:
    """Fourteen nights without Spark: one row per table and night, one promoted model per night."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.folder = folder
        self.settings = self.load(*overrides)
        self.tables = Warehouse(self.settings.paths)
        write_deltalake(str(folder / "other" / "split"), pa.table({"ds": ["x"]}))
        entries: list[Entry] = []
        for number, ds in enumerate(DAYS):
            name = make_run_id(self.settings, ds)
            self.write("features", {"ds": ds})
            self.write("vocabularies", {"ds": ds})
            version = self.write("split", {"ds": ds, "part": "test", "domain_number": "1"}, {"ds": ds})
            self.write("scores", {"run_id": name})
            self.pin(publish(self.settings, name, ds), version, number)
            self.decide(ds)
            for step in EVERY_NIGHT:
                staleness = Staleness(self.settings, entries, busy=False, decisions=Decisions(self.settings).read_all())
                at = dt.datetime(2026, 3, 3, tzinfo=dt.UTC)
                run = staleness.get_run_id(ds, step)
                entries.append(Entry(ds, step, run, "done", at, inputs=staleness.hash_inputs(ds, step)))
                Journal(self.settings).add(entries[-1])

    def load(self, *overrides: str) -> Settings:
        paths = (f"paths.warehouse={self.folder}", f"paths.logs={self.folder}/logs")
        return load("demo", [*paths, "window.days=3", *overrides])

    def write(self, table: str, row: dict[str, str], metadata: dict[str, object] | None = None) -> int:
        """Add a row to a table, and return the version."""
        path, keys = self.tables.table(table), list(TABLES[table].partitions)
        text = {"userMetadata": json.dumps(metadata)} if metadata else {}
        properties = CommitProperties(custom_metadata=text)
        rows = pa.Table.from_pylist([{**row, "x": "1"}])
        write_deltalake(path, rows, mode="append", partition_by=keys, commit_properties=properties)
        return DeltaTable(path).version()

    def pin(self, attempt: Attempt, split: int, vocabularies: int) -> None:
        """Write the job of an attempt."""
        self.job(attempt.run_id, split, vocabularies, attempt.folder)

    def job(self, run: str, split: int, vocabularies: int, folder: Path) -> TrainingJob:
        versions = {"split": split, "vocabularies": vocabularies}
        training = job(str(self.folder / "other" / "split"), folder).model_copy(
            update={
                "run_id": run, "ds": run[:10], "split": self.tables.table("split"),
                "vocabularies": self.tables.table("vocabularies"), "versions": versions,
            }
        )  # fmt: skip
        (folder / "job.json").write_text(training.model_dump_json())
        return training

    def decide(self, ds: str, attempt: int = 1) -> None:
        decisions = Decisions(self.settings)
        name = make_run_id(self.settings, ds)
        decisions.add(Decision(ds, name, attempt, "", None, Outcome.PROMOTED, "made up"), decisions.read_all())

    def nights(self, table: str) -> list[str]:
        """Return the nights that a table has rows for."""
        key = "run_id" if table == "scores" else "ds"
        return sorted({row[key][:10] for row in read_rows(self.tables.table(table))})

    def models(self) -> list[str]:
        return [run[:10] for run in self.tables.list_finished_runs()]

    def clean(self) -> list[dict[str, object]]:
        return retention.run(self.settings, dry_run=False)


@pytest.fixture(scope="module")
def read_only_nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """Create nights that tests must not change."""
    return Nights(tmp_path_factory.mktemp("nights"), *AGES)


@pytest.fixture
def nights(read_only_nights: Nights, tmp_path: Path) -> Nights:
    """Copy the nights, so that a test may change them."""
    copy = object.__new__(Nights)
    shutil.copytree(read_only_nights.folder, tmp_path / "copy")
    copy.folder = tmp_path / "copy"
    copy.settings = copy.load(*AGES)
    copy.tables = Warehouse(copy.settings.paths)
    return copy


def test_the_defaults_delete_nothing_recent(nights: Nights) -> None:
    nights.settings = nights.load()
    assert nights.clean() == []
    assert nights.models() == nights.nights("split") == nights.nights("features") == DAYS


def test_a_dry_run_deletes_nothing_and_reports_what_a_real_run_deletes(nights: Nights) -> None:
    before = sorted(str(f) for f in nights.folder.rglob("*"))
    planned = retention.run(nights.settings, dry_run=True)
    assert sorted(str(f) for f in nights.folder.rglob("*")) == before
    assert nights.clean() == planned
    assert {row["what"] for row in planned} == {"features", "split", "vocabularies", "scores", "models"}
    assert nights.clean() == [], "nothing is left to delete"


def test_old_nights_are_deleted_unless_needed(nights: Nights) -> None:
    nights.clean()
    assert nights.nights("features") == DAYS[-7:]
    assert nights.nights("split") == nights.nights("vocabularies") == nights.nights("scores") == DAYS[-4:]
    # One model more than the age allows, because the next night may start from it.
    assert nights.models() == DAYS[-10:]
    now = find_serving(Decisions(nights.settings).read_all())
    assert now is not None
    assert get_published_attempt(nights.tables, *now.model).run_id == make_run_id(nights.settings, DAYS[-1])
    Decisions(nights.settings).rollback("a rollback still works", by="ann")


def test_the_window_of_the_next_night_is_kept(nights: Nights) -> None:
    nights.settings = nights.load("retention.features=1", "window.days=7")
    nights.clean()
    assert nights.nights("features") == DAYS[-8:]


def test_pinned_and_serving_models_are_kept_at_any_age(nights: Nights) -> None:
    pinned, served = (make_run_id(nights.settings, ds) for ds in DAYS[:2])
    Decisions(nights.settings).promote(served, "the best one", by="ann")
    nights.settings = nights.load(*AGES, f"retention.pinned=[{pinned}]")
    nights.clean()
    assert nights.models() == [*DAYS[:2], *DAYS[-10:]]
    assert nights.nights("scores") == [*DAYS[:2], *DAYS[-4:]]


def test_table_versions_of_kept_models_stay_readable(nights: Nights) -> None:
    served = get_published_attempt(nights.tables, make_run_id(nights.settings, DAYS[0]))
    version = json.loads((served.folder / "job.json").read_text())["versions"]["split"]
    Decisions(nights.settings).promote(served.run_id, "the best one", by="ann")
    nights.settings = nights.load(*AGES, "retention.replaced=0", "retention.models=3")
    nights.clean()
    table = nights.tables.table("split")
    files = {v: [Path(uri).exists() for uri in DeltaTable(table, version=v).file_uris()] for v in (version, 6)}
    assert files[version] == [True]
    assert not all(files[6])


def test_superseded_attempts_are_deleted_and_their_numbers_not_reused(nights: Nights) -> None:
    run = make_run_id(nights.settings, DAYS[-2])
    for number in (2, 3):
        nights.pin(publish(nights.settings, run, DAYS[-2], number), 0, 0)
    nights.decide(DAYS[-2], attempt=1)  # attempt 1 is served
    nights.clean()
    assert [a.number for a in list_attempts(nights.tables, run)] == [1, 2, 3]
    newest = list_attempts(nights.tables, run)[-1]
    old = time.time() - 31 * 24 * 3600
    os.utime(newest.folder / RECORD_FILE, (old, old))
    nights.clean()
    assert [a.number for a in list_attempts(nights.tables, run)] == [1, 3]
    nights.settings = nights.load(*AGES, "retention.models=1")
    other = make_run_id(nights.settings, DAYS[6])
    assert list_attempts(nights.tables, other)
    nights.clean()
    assert list_attempts(nights.tables, other) == []
    folder = Path(nights.tables.run_folder(other))
    again = assign_attempt(nights.tables, nights.job(other, 0, 0, folder))
    assert again.attempt == 2, "decisions refer to attempt 1"


def test_a_served_refit_and_the_attempt_that_it_was_made_from_are_kept(nights: Nights) -> None:
    night = DAYS[-2]  # the last accepted night of a configuration is kept for another reason
    run = make_run_id(nights.settings, night)
    old = time.time() - 31 * 24 * 3600
    for name, number in ((run, 2), (make_refit_run_id(run), 1), (make_refit_run_id(run), 2)):
        attempt = publish(nights.settings, name, night, number)
        nights.pin(attempt, 0, 0)
        os.utime(attempt.folder / RECORD_FILE, (old, old))
    decisions = Decisions(nights.settings)
    refit = Decision(night, make_refit_run_id(run), 1, run, 1, Outcome.REFIT, "made up")
    decisions.add(refit, decisions.read_all())
    nights.settings = nights.load("retention.rollbacks=0")
    nights.clean()
    assert [a.number for a in list_attempts(nights.tables, make_refit_run_id(run))] == [1, 2]
    assert [a.number for a in list_attempts(nights.tables, run)] == [1, 2]


def test_references_are_removed_like_runs_and_their_training_days_are_kept(nights: Nights) -> None:
    night = DAYS[-8]
    run = make_run_id(nights.settings, night)
    for ds in (night, DAYS[-2]):
        name = make_reference_run_id(make_run_id(nights.settings, ds))
        nights.pin(publish(nights.settings, name, ds), 0, 0)
        nights.write("scores", {"run_id": name})
    incremental = ("split.vocabulary=grown", "trainer.warm_start=previous", "retention.splits=1", "retention.scores=3")
    nights.settings = nights.load(*incremental, "retention.models=4")
    assert len(vacuum.plan_removals(nights.settings).names("split")) == len(DAYS) - 1 - 1 - 3, "window.days is 3"
    nights.settings = nights.load(*incremental, "retention.models=4", "reference.window_days=5")
    nights.clean()
    assert nights.nights("split") == DAYS[-1 - 1 - 5 :]
    assert list_attempts(nights.tables, make_reference_run_id(run)) == [], "no night starts from it"
    kept = make_reference_run_id(make_run_id(nights.settings, DAYS[-2]))
    kept = kept.replace(kept[10:], make_reference_run_id(run)[10:])
    assert [a.number for a in list_attempts(nights.tables, kept)] == [1]
    assert make_reference_run_id(run) not in {row["run_id"] for row in read_rows(nights.tables.table("scores"))}


def test_removed_steps_run_again_only_for_later_steps(nights: Nights) -> None:
    nights.clean()
    staleness = read_staleness(nights.settings, busy=False)
    old, new = DAYS[5], DAYS[-1]
    assert {step: staleness.get_state(old, step)[0] for step in ("features", "split", "score", "train", "evaluate")} == {
        "features": State.REMOVED, "split": State.REMOVED, "score": State.REMOVED, "train": State.DONE,
        "evaluate": State.DONE,
    }  # fmt: skip
    assert [explain_why_needed(staleness, old, step) for step in EVERY_NIGHT] == [None] * 7
    assert all(staleness.get_state(new, step)[0] is State.DONE for step in EVERY_NIGHT)
    assert find_split(nights.tables.table("split"), old) is None
    assert find_split(nights.tables.table("split"), new) is not None
    other = nights.load(*AGES, "trainer.optimizer.lr=0.5")  # another run of the same night
    again = read_staleness(other, busy=False)
    assert "removed, but needed by train" in str(explain_why_needed(again, old, "split"))
    assert "removed, but needed by train" in str(explain_why_needed(again, old, "features"))


def test_an_interrupted_clean_is_finished_by_the_next_one(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(3))
    remove = shutil.rmtree

    def remove_or_stop(path: Path, **more: object) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        remove(path)

    monkeypatch.setattr(shutil, "rmtree", remove_or_stop)
    with pytest.raises(KeyboardInterrupt):
        nights.clean()
    monkeypatch.setattr(shutil, "rmtree", remove)
    nights.clean()
    assert nights.models() == DAYS[-10:]
    assert not list(Path(nights.tables.models).rglob("*.deleted"))


def test_the_command_deletes_only_with_yes_and_the_lease(nights: Nights) -> None:
    options = ["--conf", "demo", *(w for o in (f"paths.warehouse={nights.folder}", *AGES) for w in ("--set", o))]
    dry_run_result = CliRunner().invoke(app, ["clean", *options])
    assert dry_run_result.exit_code == 0, dry_run_result.output
    assert nights.models() == DAYS
    assert "pass --yes to delete" in dry_run_result.output
    with hold_lease(nights.settings):
        rejected = CliRunner().invoke(app, ["clean", "--yes", *options])
        assert isinstance(rejected.exception, UserError)
    assert nights.models() == DAYS
    done = CliRunner().invoke(app, ["clean", "--yes", *options])
    assert done.exit_code == 0, done.output
    assert len(nights.models()) < len(DAYS)


def test_the_newest_attempt_of_a_kept_run_stays(nights: Nights) -> None:
    """The run refers to it, and its scores are those of this attempt."""
    run = make_run_id(nights.settings, DAYS[1])
    nights.pin(publish(nights.settings, run, DAYS[1], 2), 0, 0)
    Decisions(nights.settings).promote(run, "the older one", by="ann", attempt=1)
    nights.clean()
    assert [a.number for a in list_attempts(nights.tables, run)] == [1, 2]


def test_rows_of_models_that_are_kept_only_for_their_age_are_deleted(nights: Nights) -> None:
    nights.settings = nights.load("retention.splits=3", "retention.replaced=0", "retention.rollbacks=0")
    before = sum(f.stat().st_size for f in Path(nights.tables.table("split")).rglob("*.parquet"))
    nights.clean()
    assert nights.models() == DAYS
    left = list(Path(nights.tables.table("split")).rglob("*.parquet"))
    assert len(left) == 4
    assert sum(f.stat().st_size for f in left) < before / 2


def test_a_pinned_run_that_does_not_exist_is_an_error(nights: Nights) -> None:
    nights.settings = nights.load(*AGES, f"retention.pinned=[{make_run_id(nights.settings, DAYS[0])}x]")
    with pytest.raises(UserError, match=r"retention\.pinned: .*x has no published attempt; did you mean"):
        nights.clean()
    assert nights.models() == DAYS


def test_a_kept_version_that_cannot_be_read_keeps_all_files(nights: Nights) -> None:
    served = get_published_attempt(nights.tables, make_run_id(nights.settings, DAYS[-1]))
    nights.pin(served, 1000, 1000)
    nights.settings = nights.load(*AGES, "retention.replaced=0")
    files = sorted(Path(nights.tables.table("split")).rglob("*.parquet"))
    rows = nights.clean()
    assert sorted(Path(nights.tables.table("split")).rglob("*.parquet")) == files
    assert any("nothing is deleted, because a version of a kept run cannot be read" in str(r["reason"]) for r in rows)


def test_a_removed_start_of_a_night_is_found(nights: Nights) -> None:
    nights.settings = nights.load(*AGES, "trainer.warm_start=previous")
    start, ds = DAYS[4], DAYS[5]
    for day in (start, ds):
        entry = Entry(day, "train", make_run_id(nights.settings, day), "removed", dt.datetime.now(dt.UTC))
        Journal(nights.settings).add(entry)
    staleness = read_staleness(nights.settings, busy=False)
    assert staleness.find_removed_start(ds, "train") == staleness.find_removed_start(ds, "split") == start
    assert staleness.find_removed_start(ds, "score") is None


def test_a_changed_gate_does_not_rebuild_removed_nights(nights: Nights) -> None:
    nights.clean()
    other = nights.load(*AGES, "gate.gauc_margin=0.5")
    staleness = read_staleness(other, busy=False)
    assert [explain_why_needed(staleness, DAYS[2], step) for step in EVERY_NIGHT] == [None] * 7
    assert explain_why_needed(staleness, DAYS[-1], "gate") == "stale: inputs changed: settings"


def test_checksum_files_are_deleted_with_their_data_files(nights: Nights) -> None:
    """Spark writes them next to the files on a local disk. They belong to no version of the table."""

    def write_checksums() -> set[Path]:
        data = set((nights.folder / "split").rglob("*.parquet"))
        for file in data:
            file.with_name(f".{file.name}.crc").write_bytes(b"crc")
        return data

    before = write_checksums()
    settings = nights.load("retention.replaced=0", "retention.splits=3")
    retention.run(settings, dry_run=False)
    live = {Path(uri.removeprefix("file://")) for uri in DeltaTable(nights.tables.table("split")).file_uris()}
    after = set((nights.folder / "split").rglob("*.parquet"))
    assert live <= after < before
    checksums = {file.name for file in (nights.folder / "split").rglob(".*.crc")}
    assert checksums == {f".{file.name}.crc" for file in after}
