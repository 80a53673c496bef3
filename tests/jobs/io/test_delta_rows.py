"""Row-by-row appends: commit order, with clock skew and concurrent writers."""

from __future__ import annotations

import datetime as dt
import json
import multiprocessing
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from star_ctr.conf.errors import DataError, UserError
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io import delta_rows
from star_ctr.jobs.io.delta_rows import SEQUENCE, add_row, quote_literal, read_ordered_rows, read_rows, replace_rows
from star_ctr.jobs.refit import publish_refit
from star_ctr.jobs.registry.decisions import SERVING_FILE, Decision, Decisions, Outcome, find_serving, list_accepted
from star_ctr.workflows.journal import Entry, Journal
from tests import small_logs
from tests.jobs.row_writers import LEDGER, NOON, ROWS, SCHEMA, WRITERS, replace, row, write


def test_concurrent_writers_lose_and_duplicate_no_rows(tmp_path: Path) -> None:
    table = str(tmp_path / "table")  # does not exist yet
    with multiprocessing.get_context("spawn").Pool(WRITERS) as pool:
        numbers = pool.starmap(write, [(table, writer) for writer in range(WRITERS)], chunksize=1)
    assert sorted(chain.from_iterable(numbers)) == list(range(WRITERS * ROWS))
    by_number = {r[SEQUENCE]: (r["writer"], r["number"]) for r in read_rows(table)}
    assert len(read_rows(table)) == len(by_number) == WRITERS * ROWS
    for writer, written in enumerate(numbers):
        assert written == sorted(written), "a writer's rows keep their order"
        assert [by_number[n] for n in written] == [(writer, k) for k in range(ROWS)]
    assert [(r["writer"], r["number"]) for r in read_ordered_rows(table)] == [
        by_number[n] for n in range(WRITERS * ROWS)
    ]
    assert len(DeltaTable(table).file_uris()) <= 8, "files were compacted in between"


def test_a_conflicting_writer_retries_with_the_next_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = str(tmp_path / "table")
    add_row(table, row(0), SCHEMA)
    stale, open_table = DeltaTable(table), delta_rows._open_or_create
    add_row(table, row(1), SCHEMA)
    tables = iter([stale])
    monkeypatch.setattr(delta_rows, "_open_or_create", lambda *args: next(tables, None) or open_table(*args))
    assert add_row(table, row(2), SCHEMA) == 2
    assert [r["number"] for r in read_ordered_rows(table)] == [0, 1, 2]
    monkeypatch.setattr(delta_rows, "_open_or_create", lambda *_: stale)
    monkeypatch.setattr(delta_rows, "_PATIENCE", 0.0)
    with pytest.raises(UserError, match=r"other writers kept changing the table .* run the command again"):
        add_row(table, row(3), SCHEMA)
    assert len(read_rows(table)) == 3


@pytest.mark.parametrize("rewrite_at", [3, 1_000])
def test_the_row_order_survives_clock_skew_and_compaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rewrite_at: int
) -> None:
    table = str(tmp_path / "table")
    monkeypatch.setattr(delta_rows, "_REWRITE_AT", rewrite_at)
    for k in range(10):
        add_row(table, row(k, back=90.0), SCHEMA)
    assert [r["number"] for r in read_ordered_rows(table)] == list(range(10))
    DeltaTable(table).optimize.compact()
    DeltaTable(table).create_checkpoint()
    assert add_row(table, row(10, back=90.0), SCHEMA) == 10
    assert [r["number"] for r in read_ordered_rows(table)] == list(range(11))


def test_rows_without_numbers_come_first_by_time(tmp_path: Path) -> None:
    table = str(tmp_path / "table")
    old = [{"at": NOON + dt.timedelta(days=1, seconds=k), "writer": 0, "number": k} for k in range(4)]
    for k in (1, 0, 3, 2):
        write_deltalake(table, pa.Table.from_pylist([old[k]], SCHEMA), mode="append")
    assert [r["number"] for r in read_ordered_rows(table)] == [0, 1, 2, 3]
    for k in (4, 5):
        add_row(table, row(k, back=60.0), SCHEMA)  # with a clock one day behind the old rows
    assert [r["number"] for r in read_ordered_rows(table)] == [0, 1, 2, 3, 4, 5]
    assert [r[SEQUENCE] for r in read_ordered_rows(table)] == [None, None, None, None, 0, 1]


def test_a_copied_table_continues_after_its_last_number(tmp_path: Path) -> None:
    for k in range(3):
        add_row(str(tmp_path / "one"), row(k), SCHEMA)
    write_deltalake(
        str(tmp_path / "two"),
        pa.Table.from_pylist(read_rows(str(tmp_path / "one")), SCHEMA.append(pa.field(SEQUENCE, pa.int64()))),
    )
    assert add_row(str(tmp_path / "two"), row(3), SCHEMA) == 3


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(small_logs.write(tmp_path, small_logs.frames()))


def decision(run_id: str, against: str, outcome: Outcome, behind: float) -> Decision:
    at = NOON - dt.timedelta(seconds=behind)
    return Decision("2026-03-02", run_id, 1, against, 1 if against else None, outcome, "made up", at=at)


def add(decisions: Decisions, new: Decision) -> None:
    decisions.add(new, decisions.read_all())


def test_a_clock_that_is_90_s_behind_does_not_change_the_serving_run(settings: Settings) -> None:
    decisions = Decisions(settings)
    add(decisions, decision("a", "", Outcome.PROMOTED, behind=0))
    add(decisions, decision("b", "a", Outcome.PROMOTED_MANUALLY, behind=90))
    now = find_serving(decisions.read_all())
    assert now is not None
    assert now.run_id == "b"
    add(decisions, decision("a", "b", Outcome.ROLLED_BACK, behind=180))
    assert [d.run_id for d in list_accepted(decisions.read_all())] == ["a"]
    add(decisions, decision("c", "a", Outcome.PROMOTED, behind=400))
    assert [d.run_id for d in list_accepted(decisions.read_all())] == ["a", "c"]


def test_the_pointer_to_a_refit_is_written_again_after_a_kill(settings: Settings) -> None:
    """A refit that is killed between the decision and `serving.json` must be served when it runs again."""
    decisions = Decisions(settings)
    add(decisions, decision("a", "", Outcome.PROMOTED, behind=0))
    pointer = Path(decisions.warehouse.root) / SERVING_FILE
    before = pointer.read_text()
    refit = decision("a-refit", "a", Outcome.REFIT, behind=0)
    add(decisions, refit)
    pointer.write_text(before)
    assert publish_refit(decisions, refit, [])[2] == "a-refit"
    assert json.loads(pointer.read_text())["run_id"] == "a-refit"
    assert len(decisions.read_all()) == 2


def test_a_rollback_without_a_promotion() -> None:
    assert list_accepted([decision("a", "b", Outcome.ROLLED_BACK, 0)]) == []
    assert find_serving([decision("a", "b", Outcome.ROLLED_BACK, 0)]) is None


def test_the_last_journal_entry_counts_despite_clock_skew(settings: Settings) -> None:
    journal = Journal(settings)
    for state, behind in (("running", 0), ("failed", 10), ("running", 120), ("done", 90)):
        journal.add(Entry("2026-03-02", "split", "", state, NOON - dt.timedelta(seconds=behind)))
    assert [e.state for e in journal.read_entries()] == ["running", "failed", "running", "done"]


# --- replaced rows


def contents(table: str) -> list[tuple[object, ...]]:
    return sorted((r["run_id"], r["ds"], r["number"]) for r in read_rows(table))


def test_replacing_rows_changes_no_others(tmp_path: Path) -> None:
    table = str(tmp_path / "table")
    replace_rows(table, [("a", "1", 1), ("a", "2", 2)], LEDGER, "run_id = 'a'", ["run_id"])
    replace_rows(table, [("it's", "1", 3)], LEDGER, "run_id = " + quote_literal("it's"))
    replace_rows(table, [("a", "1", 5), ("a", "1", 6)], LEDGER, "run_id = 'a' AND (ds IN ('1') OR ds <= '0')")
    assert contents(table) == [("a", "1", 5), ("a", "1", 6), ("a", "2", 2), ("it's", "1", 3)]
    replace_rows(table, [], LEDGER, "run_id = 'a' AND ds = '1'")
    assert contents(table) == [("a", "2", 2), ("it's", "1", 3)]
    with pytest.raises(DeltaError):
        replace_rows(table, [("b", "1", 5)], LEDGER, "run_id = 'a'")
    wide = LEDGER.append(pa.field("why", pa.string()))
    replace_rows(table, [("a", "2", 2, "none")], wide, "run_id = 'a'")
    assert {r["run_id"]: r["why"] for r in read_rows(table)} == {"a": "none", "it's": None}
    metadata = DeltaTable(table).metadata()
    assert metadata.partition_columns == ["run_id"]
    assert metadata.configuration["delta.logRetentionDuration"] == "interval 400 days"


def test_concurrent_replacements_lose_and_duplicate_no_rows(tmp_path: Path) -> None:
    table = str(tmp_path / "table")
    with multiprocessing.get_context("spawn").Pool(WRITERS) as pool:
        pool.starmap(replace, [(table, writer) for writer in range(WRITERS)], chunksize=1)
    last = {"common": ROWS - 1} | {f"own {w}": ROWS - 2 for w in range(WRITERS)}
    assert contents(table) == sorted((key, ds, number) for key, number in last.items() for ds in "12")


def test_a_replacement_that_conflicts_with_another_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The conflict is about the same rows, or about other rows in the same files. No row is duplicated or restored."""
    table = str(tmp_path / "table")
    replace_rows(table, [("a", "1", 1), ("a", "2", 1)], LEDGER, "run_id = 'a'")
    open_table = delta_rows._open_or_create
    for where, new in (("run_id = 'a'", [("a", "1", 3)]), ("ds = '9'", [("b", "9", 3)])):
        stale = DeltaTable(table)
        replace_rows(table, [("a", "1", 2)], LEDGER, "run_id = 'a' AND ds <> '9'")
        tables = iter([stale])
        monkeypatch.setattr(
            delta_rows, "_open_or_create", lambda *args, tables=tables: next(tables, None) or open_table(*args)
        )
        replace_rows(table, new, LEDGER, where)
    assert contents(table) == [("a", "1", 2), ("b", "9", 3)]


def test_a_commit_that_is_reported_as_failed_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise, a rollback could be written twice."""
    table = str(tmp_path / "table")
    add_row(table, row(0), SCHEMA)
    write = delta_rows.write_deltalake
    failures = iter([True])

    def write_and_fail(*arguments: object, **more: object) -> None:
        write(*arguments, **more)
        if next(failures, False):
            raise CommitFailedError("the answer was lost")

    monkeypatch.setattr(delta_rows, "write_deltalake", write_and_fail)
    assert add_row(table, row(1), SCHEMA, after=0) == 1
    assert [r["number"] for r in read_ordered_rows(table)] == [0, 1]


def test_columns_of_another_version_are_an_error(tmp_path: Path) -> None:
    table = str(tmp_path / "table")
    schema = pa.schema([("number", pa.int64()), ("against", pa.string())])
    add_row(table, {"number": 1, "against": "a"}, schema)
    assert len(read_ordered_rows(table, schema)) == 1
    with pytest.raises(DataError, match=r"unknown columns against; .* written by another version"):
        read_ordered_rows(table, schema.remove(1))
