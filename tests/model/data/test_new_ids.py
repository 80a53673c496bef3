"""New ids: found and masked as a loop over rows does, the same wherever an epoch starts, and better predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from deltalake import write_deltalake

from star_ctr.conf.contracts.encoded_row import UNKNOWN, Layout
from star_ctr.features.encoding.row_encoder import pack_rows
from star_ctr.model.data.batch_order import DataFile
from star_ctr.model.data.batches import iter_epoch
from star_ctr.model.data.new_ids import NewIds, find_new_ids
from star_ctr.model.data.reader import Rows, list_live_files, read_files
from star_ctr.model.training.trainer import Trainer
from tests.model.synthetic import LAYOUT, job, version_of

DAYS = ["2025-12-30", "2025-12-31", "2026-01-01"]
SMALL = LAYOUT.model_copy(update={"embeddings": {"user": 50, "item": 400}})


def write_days(folder: Path, ctr: float = 0.6, rows: int = 1_200) -> str:
    """Write rows of three days. Each day has old items with a CTR of 0.35, and its own new ones with `ctr`."""
    table, rng = str(folder / "split"), np.random.default_rng(0)
    for k in range(4):  # each file has rows of all days
        day = rng.integers(0, 3, rows)
        is_new = rng.random(rows) < 0.5
        item = np.where(is_new, 100 + 100 * day + rng.integers(0, 95, rows), rng.integers(2, 60, rows))
        lengths = np.zeros(rows, np.int64)
        ints = np.column_stack([rng.integers(0, 50, rows), item, lengths, np.zeros((rows, 4), np.int64)])
        data = {
            "impression_id": [f"{k}-{i}" for i in range(rows)],
            "user_id": ["u"] * rows,
            "day": [DAYS[d] for d in day],
            "label": pa.array((rng.random(rows) < np.where(is_new, ctr, 0.35)).astype(np.float32)),
            "label_final": [True] * rows,
            "domain_id": pa.array(np.full(rows, 1), pa.int32()),
            "ints": pack_rows(ints.astype(np.int32)),
            "floats": pack_rows(rng.normal(size=(rows, 1)).astype(np.float32)),
            "ds": [SMALL.ds] * rows,
            "part": ["train"] * rows,
            "domain": ["a"] * rows,
            "domain_number": pa.array(np.full(rows, 1), pa.int32()),
        }
        write_deltalake(table, pa.table(data), mode="append", partition_by=["ds", "part", "domain_number"])
    return table


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_days(tmp_path_factory.mktemp("days"))


def list_files(table: str, layout: Layout = SMALL) -> list[DataFile]:
    partitions = job(table, Path("unused")).train_partitions
    return list_live_files(table, version_of(table), partitions, layout)


def find(table: str, share: float = 0.5) -> NewIds:
    found = find_new_ids(list_files(table), SMALL, share)
    assert found is not None
    return found


def test_new_ids_are_those_of_no_earlier_day(table: str) -> None:
    files, new_ids = list_files(table), find(table)
    everything = list(read_files(files, SMALL, days=True))
    first: dict[tuple[int, int], str] = {}
    for rows in everything:
        for ints, day in zip(rows.ints.tolist(), rows.day, strict=True):  # type: ignore[arg-type]
            for position in (0, 1):
                key = position, ints[position]
                first[key] = min(first.get(key, day), day)
    masked = 0
    for rows in everything:
        found = new_ids.mask(rows)
        for before, after, day in zip(rows.ints.tolist(), found.ints.tolist(), rows.day, strict=True):  # type: ignore[arg-type]
            for position in (0, 1):
                is_new = before[position] >= 2 and day > DAYS[0] and first[position, before[position]] == day
                assert after[position] == (UNKNOWN if is_new else before[position])
                masked += is_new
            assert after[2:] == before[2:]
        assert found.label is rows.label
    assert 0.25 < masked / sum(f.rows for f in files) < 0.4
    some = new_ids.mask(everything[0], np.random.default_rng(0)).ints[:, 1] == UNKNOWN
    every = new_ids.mask(everything[0]).ints[:, 1] == UNKNOWN
    assert (some <= every).all()
    assert some.sum() / every.sum() == pytest.approx(0.5, abs=0.1)


def test_one_day_or_hashed_ids_have_no_new_ids(table: str, tmp_path: Path) -> None:
    hashed = SMALL.model_copy(update={"hashed": ["user", "item"]})
    assert find_new_ids(list_files(table), hashed, 0.5) is None
    rows = next(iter(read_files(list_files(table)[:1], SMALL, days=True)))
    assert rows.day is not None
    one_day = Rows(rows.ints, rows.floats, rows.label, rows.domain, np.full(len(rows), DAYS[0], object))
    assert (find(table).mask(one_day).ints == rows.ints).all(), "on the first day, every id would be new"


def test_ids_in_sequences_and_returning_values_are_not_new(tmp_path: Path) -> None:
    table, rng = str(tmp_path / "split"), np.random.default_rng(0)
    layout = SMALL.model_copy(
        update={"categorical": [SMALL.categorical[0].model_copy(update={"column": "weekday"}), SMALL.categorical[1]]}
    )
    ints = np.zeros((300, SMALL.int_count), np.int32)
    day = np.repeat(np.arange(3), 100)
    ints[:, 0] = 2 + day  # a weekday
    ints[:, 1] = 10 + day  # an item per day, and that of the second day is in sequences of the first
    ints[:100, 2], ints[:100, 3] = 1, 11
    data = {
        "impression_id": [str(k) for k in range(300)], "user_id": ["u"] * 300, "day": [DAYS[d] for d in day],
        "label": pa.array(np.zeros(300, np.float32)), "label_final": [True] * 300,
        "domain_id": pa.array(np.full(300, 1), pa.int32()), "ints": pack_rows(ints),
        "floats": pack_rows(rng.normal(size=(300, 1)).astype(np.float32)), "ds": [SMALL.ds] * 300,
        "part": ["train"] * 300, "domain": ["a"] * 300, "domain_number": pa.array(np.full(300, 1), pa.int32()),
    }  # fmt: skip
    write_deltalake(table, pa.table(data), partition_by=["ds", "part", "domain_number"])
    files = list_files(table, layout)
    rows = next(iter(read_files(files, layout, days=True)))
    found = find_new_ids(files, layout, 1.0)
    assert found is not None
    masked = found.mask(rows).ints
    assert (masked[:, 0] == rows.ints[:, 0]).all()
    assert sorted(set(masked[:, 1].tolist())) == [UNKNOWN, 10, 11], "only the item of the third day is new"


def test_grown_vocabularies_have_new_ids_at_their_end(table: str) -> None:
    """A returning user has a smaller id than those that were added on the last days."""
    files = list_files(table)
    found = find_new_ids(files, SMALL, 1.0, has_grown=True)
    assert found is not None
    rows = next(iter(read_files(files, SMALL, days=True)))
    assert rows.day is not None
    masked = found.mask(rows).ints[:, 1] == UNKNOWN
    largest = {0: 0, 1: 0, 2: 0}
    for part in read_files(files, SMALL, days=True):
        for item, day in zip(part.ints[:, 1].tolist(), part.day, strict=True):  # type: ignore[arg-type]
            for later in range(DAYS.index(day) + 1, 3):
                largest[later] = max(largest[later], item)
    plain = find(table).mask(rows).ints[:, 1] == UNKNOWN
    above = np.array([i > largest[DAYS.index(d)] for i, d in zip(rows.ints[:, 1].tolist(), rows.day, strict=True)])
    assert (masked == (plain & above)).all()
    assert 0 < masked.sum() <= plain.sum()


@pytest.mark.parametrize("mixed", [False, True])
def test_masks_do_not_depend_on_where_an_epoch_starts(table: str, mixed: bool) -> None:
    files, new_ids = list_files(table), find(table)

    def read(epoch: int, start: int = 0) -> list[bytes]:
        batches = iter_epoch(files, SMALL, 64, 500, 1, epoch, mixed, start, new_ids=new_ids)
        return [b.rows.ints.tobytes() for b in batches]

    whole = read(0)
    for start in (0, 1, 17, len(whole) - 1):
        assert read(0, start) == whole[start:]
    other = b"".join(read(1))
    masked = [
        np.frombuffer(b, np.int32).reshape(-1, SMALL.int_count)[:, 1] == UNKNOWN for b in (b"".join(whole), other)
    ]
    assert masked[0].sum() != masked[1].sum(), "another epoch masks other rows"


@pytest.mark.parametrize("ctr", [0.1, 0.6])
def test_predictions_for_new_ids_are_right_on_average(tmp_path: Path, ctr: float) -> None:
    """Without masks, no row has an unknown item, and both predictions are that of an untrained embedding."""
    predicted = {}
    for share in (0.0, 0.5):
        j = job(write_days(tmp_path / f"{share}", ctr), tmp_path / f"{share}-run", epochs=4, new_ids_as_unknown=share)
        trainer = Trainer(j.model_copy(update={"layout": SMALL}))
        trainer.train()
        trainer.finish()
        n, rng = 4_000, np.random.default_rng(1)
        ints = np.zeros((n, SMALL.int_count), np.int32)
        ints[:, 0], ints[:, 1] = rng.integers(0, 50, n), UNKNOWN
        floats = rng.normal(size=(n, 1)).astype(np.float32)
        rows = torch.from_numpy(ints), torch.from_numpy(floats), torch.ones(n, dtype=torch.int32)
        predicted[share] = float(trainer.model.predict(*rows).mean())
    assert predicted[0.5] == pytest.approx(ctr, abs=0.08)
    assert predicted[0.0] != pytest.approx(0.1, abs=0.08)
