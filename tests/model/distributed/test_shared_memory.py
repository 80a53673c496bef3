"""Shared memory of processes: tables, gradients, the EMA and batches."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from star_ctr.conf.contracts.encoded_row import IdField, Layout
from star_ctr.model.data.batches import Batch
from star_ctr.model.data.reader import Rows
from star_ctr.model.data.step_batches import SharedStepBatches
from star_ctr.model.distributed import shared_memory
from star_ctr.model.distributed.gradients import SharedTableGradients, split_rows
from star_ctr.model.distributed.process_group import all_gather, barrier
from star_ctr.model.distributed.shared_memory import is_on_one_machine, make_shared_zeros, share_tensor
from star_ctr.model.embeddings.row_adam import RowUpdate
from star_ctr.model.embeddings.tables import EmbeddingTables
from star_ctr.model.training.ema import WeightEma

ROWS = st.lists(st.sets(st.integers(0, 2000), max_size=600).map(sorted), min_size=1, max_size=4)


@given(touched=ROWS, processes=st.integers(1, 5))
def test_every_row_belongs_to_one_process_in_all_lists(touched: list[list[int]], processes: int) -> None:
    lists = [torch.tensor(rows, dtype=torch.long) for rows in touched]
    slices = split_rows(lists, processes)
    assert all(len(list_slices) == processes for list_slices in slices)
    for rows, list_slices in zip(touched, slices, strict=True):
        assert [row for part in list_slices for row in rows[part]] == rows
    rows_by_process = [
        {row for rows, list_slices in zip(touched, slices, strict=True) for row in rows[list_slices[k]]}
        for k in range(processes)
    ]
    assert sum(len(rows) for rows in rows_by_process) == len(set().union(*rows_by_process))


def test_processes_have_about_the_same_work() -> None:
    # One domain has low ids, the other one has high ids and twice as many.
    touched = [torch.arange(0, 20_000, 2), torch.arange(1_000_000, 1_020_000)]
    work = [sum(part[k].stop - part[k].start for part in split_rows(touched, 3)) for k in range(3)]
    assert max(work) < 1.05 * min(work)


def test_two_processes_share_memory_gradients_and_batches(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(_run_process, (str(tmp_path / "store"),), nprocs=2, start_method="spawn")


def _run_process(rank: int, store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    files = sorted(Path("/proc/self/fd").iterdir())
    _check_visibility(rank)
    _check_shared_tensors(rank)
    barrier()
    assert sorted(Path("/proc/self/fd").iterdir()) == files, "a descriptor is left open"
    _check_gradients(rank)
    _check_ema(rank)
    for a_step in (2, 12):
        _check_batches(rank, a_step)
    dist.destroy_process_group()


def _check_visibility(rank: int) -> None:
    assert not is_on_one_machine(), "by default, each process counts as one machine"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LOCAL_WORLD_SIZE", "2")
        assert is_on_one_machine()
        if rank == 1:
            patched.setattr(shared_memory, "_make_path", lambda process, file: "/nowhere")
        assert not is_on_one_machine(), "a process cannot read the file of the other"


def _check_shared_tensors(rank: int) -> None:
    zeros = make_shared_zeros([2, 3], torch.float64)
    assert zeros.tolist() == [[0.0] * 3] * 2
    barrier()
    zeros[rank] = rank + 1
    barrier()
    assert zeros.tolist() == [[1.0] * 3, [2.0] * 3]
    assert share_tensor(torch.full([3], rank)).tolist() == [0, 0, 0], "all processes have the values of the first one"


def _check_gradients(rank: int) -> None:
    """Check three steps: rows of both processes, of one process, and of none."""
    tables = EmbeddingTables({"a": 500, "b": 300}, {"a": 2, "b": 2})
    gradients = SharedTableGradients(tables)
    (storage,) = tables.parameters()
    random = torch.Generator().manual_seed(rank)
    for entries in ([400, 300], [200, 0], [0, 0]):
        n = entries[rank]
        rows = torch.randint(1, len(storage), (n,), generator=random)  # with repetitions
        values = torch.randn(n, 2, generator=random)
        gradient = torch.sparse_coo_tensor(rows[None], values, storage.shape, check_invariants=True)
        whole = sum(all_gather(gradient.to_dense()))
        storage.grad = gradient if n else None
        gradients.begin()
        gradients.finish()
        assert storage.grad is not None
        part = storage.grad.to_dense()
        torch.testing.assert_close(sum(all_gather(part)), whole)
        touched = torch.zeros(len(storage), dtype=torch.long)
        touched[storage.grad._indices()[0]] = 1
        by_process = torch.stack(all_gather(touched))
        assert int(by_process.sum(0).max()) == (1 if sum(entries) else 0), "each row is updated by one process"
        if min(entries):
            assert by_process.sum(1).min() > 0.3 * by_process.sum(), "both processes have rows to update"
        barrier()


def _check_ema(rank: int) -> None:
    """Each process changes its rows and flushes half of the table. The result is bit-identical to a single process."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.tables = EmbeddingTables({"a": 501}, {"a": 2})

    alone, together = Model(), Model()
    one, shared = (WeightEma(m, m.tables, 0.9) for m in (alone, together))
    (whole,), (table,) = alone.parameters(), together.parameters()
    random = torch.Generator().manual_seed(0)

    def step(only_rank: int | None) -> None:
        rows = torch.randperm(500, generator=random)[:60] + 1
        difference = torch.randn(60, 2, generator=random)
        with torch.no_grad():
            whole.index_add_(0, rows, difference)
            one.update({whole: [RowUpdate(rows, difference)]})
            own = slice(None) if only_rank is None else slice(30 * only_rank, 30 * only_rank + 30)
            table.index_add_(0, rows[own], difference[own])
            shared.update({table: [RowUpdate(rows[own], difference[own])]})

    for _ in range(10):
        step(None)
    table.data = share_tensor(table.data)
    shared.share()
    for _ in range(10):
        step(rank)
        barrier()
    assert torch.equal(table, whole)
    barrier()
    one.swap_in()
    flushed = torch.zeros(2, dtype=torch.long)
    (state,) = shared.tables.values()
    flush = state.flush

    def flush_and_record(table: torch.Tensor, step: int, decay: float, part: slice) -> None:
        flushed.copy_(torch.tensor([part.start, part.stop]))
        flush(table, step, decay, part)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(state, "flush", flush_and_record)
        shared.swap_in()
    assert torch.equal(table, whole)
    assert [part.tolist() for part in all_gather(flushed)] == [[0, 250], [250, 501]], "each row once"


def _check_batches(rank: int, a_step: int) -> None:
    """Check 61 batches: each is intact until a slow process has used it, and the last step has one batch."""

    def make_batches() -> Iterator[Batch]:
        for k in range(61):
            n = 1 + k % 7
            numbers = np.arange(n, dtype=np.int32) + 100 * k
            ints = np.repeat(numbers[:, None], 3, axis=1)
            rows = Rows(ints, np.empty((n, 0), np.float32), numbers.astype(np.float32), np.full_like(numbers, k % 3))
            yield Batch(k % 3, rows, numbers)

    layout = Layout(ds="2026-01-02", domains=["a", "b"], embeddings={}, numeric=[], buckets=[], sequences=[],
                    categorical=[IdField(name=n, column=n, embedding=n) for n in "xyz"])  # fmt: skip
    steps = SharedStepBatches(make_batches(), a_step, layout, 7)
    seen = 0
    updated = make_shared_zeros([2], torch.long)
    expected = list(make_batches())
    while together := steps.take():
        assert int(updated.min()) >= seen, "writes of the other process before it took the step are visible"
        time.sleep(0.02 * rank)  # meanwhile, the first process prepares as many batches as it may
        for batch, other in zip(together, expected[seen : seen + a_step], strict=True):
            assert batch.domain == other.domain
            for name in ("ints", "floats", "label", "domain"):
                np.testing.assert_array_equal(getattr(batch.rows, name), getattr(other.rows, name))
            np.testing.assert_array_equal(batch.file, other.file)
        seen += len(together)
        updated[rank] = seen
    assert seen == 61
    assert steps.take() == []
    steps.close()
