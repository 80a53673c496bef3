"""Compares embedding tables with shared storages, and the means that rows look up in them, with NumPy and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from star_ctr.conf.contracts.encoded_row import IdField, Layout, SequenceField
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.conf.settings.trainer import TrainerSettings
from star_ctr.model.distributed.process_group import seed_device
from star_ctr.model.embeddings import tables as tables_module
from star_ctr.model.embeddings.row_adam import group_rows
from star_ctr.model.embeddings.sharding import count_rows_of_part, reshard
from star_ctr.model.embeddings.shared_inputs import SharedInputs
from star_ctr.model.embeddings.tables import EmbeddingTables, MeanLookup
from star_ctr.model.training.optimizers import Optimizers
from tests.model.arrays import array

RNG = np.random.default_rng(0)
SIZES, WIDTHS = {"user": 6, "item": 9, "tag": 4}, {"user": 3, "item": 2, "tag": 3}


def layout() -> Layout:
    """Create a layout with single ids of three tables with two widths, and two sequences."""
    side = {n: IdField(name=n, column=n, embedding=n) for n in SIZES}
    return Layout(
        ds="2026-01-02", domains=["a"], embeddings=SIZES, numeric=[], buckets=[],
        categorical=[side["user"], side["item"], side["tag"]],
        sequences=[
            SequenceField(name="seen", length=3, sides=[side["item"], side["tag"]]),
            SequenceField(name="words", length=2, separator=" ", sides=[side["tag"]]),
        ],
    )  # fmt: skip


def random_rows(n: int) -> torch.Tensor:
    """Create packed rows: three ids, then length and ids of each sequence. Some ids are padding."""
    columns = [RNG.integers(0, SIZES[t], (n, 1)) for t in ("user", "item", "tag")]
    columns += [RNG.integers(0, 4, (n, 1)), RNG.integers(0, 9, (n, 3)), RNG.integers(0, 4, (n, 3))]
    columns += [RNG.integers(0, 3, (n, 1)), RNG.integers(0, 4, (n, 2))]
    return torch.from_numpy(np.concatenate(columns, axis=1).astype(np.int32))


def compute_means(inputs: SharedInputs, row: list[int]) -> np.ndarray:
    """Compute the input z of one row with a loop."""
    slots = [("user", 0, 1), ("item", 1, 1), ("tag", 2, 1), ("item", 4, 3), ("tag", 7, 3), ("tag", 11, 2)]
    parts = []
    for table, start, length in slots:
        ids = [i for i in row[start : start + length] if i]
        weight = array(inputs.tables.copy_table(table))
        parts.append(weight[ids].mean(axis=0) if ids else np.zeros(WIDTHS[table]))
    return np.concatenate(parts)


@pytest.mark.usefixtures("float64")
def test_inputs_are_means_of_lists_in_the_order_of_the_layout() -> None:
    settings = ModelSettings.model_validate({"dim": 3, "embeddings": {"item": {"dim": 2}}})
    inputs = SharedInputs(layout(), settings)
    rows = random_rows(40)
    z = array(inputs(rows, torch.zeros(40, 0)))
    np.testing.assert_allclose(z, [compute_means(inputs, row) for row in rows.tolist()], atol=1e-12)
    assert inputs.singles == 3 + 2 + 3
    assert inputs(rows[:0], torch.zeros(0, 0)).shape == (0, z.shape[1])


@pytest.mark.usefixtures("float64")
def test_the_gradient_matches_a_dense_table_and_is_zero_for_padding() -> None:
    tables = EmbeddingTables(SIZES, dict.fromkeys(SIZES, 2))
    storage = tables.storages["2"]
    lookup = MeanLookup([(0, 1, tables.offset["user"]), (1, 4, tables.offset["item"])])
    rows = torch.tensor([[5, 8, 0, 8, 1], [0, 0, 0, 0, 0], [1, 2, 0, 0, 0]], dtype=torch.int32)
    weight = torch.from_numpy(RNG.normal(size=(3, 2, 2)))
    (lookup(tables, 2, rows) * weight).sum().backward()
    assert storage.grad is not None
    gradient = storage.grad.to_dense()
    expected = np.zeros(storage.shape)
    for row, w in zip(rows.tolist(), weight.numpy(), strict=True):
        for ids, table, k in ((row[:1], "user", 0), (row[1:], "item", 1)):
            known = [i for i in ids if i]
            for i in known:
                expected[i + tables.offset[table]] += w[k] / len(known)
    np.testing.assert_allclose(gradient.numpy(), expected, atol=1e-12)
    assert not expected[0].any()


def test_tables_share_only_the_padding_row() -> None:
    tables = EmbeddingTables(SIZES, WIDTHS)
    for width, storage in tables.storages.items():
        rows = [i + tables.offset[n] for n, size in SIZES.items() if WIDTHS[n] == int(width) for i in range(1, size)]
        assert sorted(rows) == list(range(1, len(storage)))
        assert not storage[0].any()


@given(st.integers(0, 40), st.integers(1, 4), st.integers(1, 4))
def test_resharding_restores_all_rows_for_any_number_of_parts(rows: int, before: int, after: int) -> None:
    table = torch.arange(rows, dtype=torch.float32)[:, None].repeat(1, 2)
    parts = [table[rank::before] for rank in range(before)]
    assert [len(p) for p in parts] == [count_rows_of_part(rows, (rank, before)) for rank in range(before)]
    for rank in range(after):
        part = torch.full((count_rows_of_part(rows, (rank, after)), 2), -1.0)
        for other, source in enumerate(parts):
            reshard(source, (other, before), part, (rank, after))
        assert part.equal(table[rank::after])


def test_a_part_is_initialized_with_its_rows_of_the_whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables_module, "ROWS_PER_SEED", 4)
    torch.manual_seed(5)
    whole = EmbeddingTables({"user": 27}, {"user": 3}).storages["3"]
    for rank in range(3):
        assert EmbeddingTables({"user": 27}, {"user": 3}, (rank, 3)).storages["3"].equal(whole[rank::3])
    assert whole[1:].std().item() == pytest.approx(0.01, rel=0.3)


@given(st.lists(st.integers(0, 30), max_size=40), st.sampled_from([31, 2**40]))
def test_entries_are_grouped_by_row_for_any_table_size(ids: list[int], size: int) -> None:
    rows = torch.tensor(ids, dtype=torch.long) * (size // 31)
    groups = group_rows(rows, size)
    assert groups.rows.tolist() == sorted(set(rows.tolist()))
    assert groups.rows[groups.compute_inverse()].equal(rows)
    value_index = torch.arange(len(ids)) // 2  # two entries share a value
    values = torch.from_numpy(RNG.normal(size=(len(ids) // 2 + 1, 3)))
    expected = np.zeros((31, 3))
    np.add.at(expected, ids, values.numpy()[value_index.numpy()])
    summed = groups.sum_entries(values, value_index)
    np.testing.assert_allclose(summed.numpy(), expected[sorted(set(ids))], atol=1e-12)


def test_steps_keep_padding_at_zero_and_seeds_queue_no_calls() -> None:
    inputs = SharedInputs(layout(), ModelSettings(dim=2))
    model = torch.nn.ModuleDict({"inputs": inputs})
    optimizers = Optimizers(model, TrainerSettings.from_names(embedding_lr=0.1), 3)
    queued = len(torch.cuda._queued_calls)  # without a GPU, calls for it are queued here
    for step in range(3):
        seed_device(torch.device("cpu"), step)
        inputs(random_rows(20), torch.zeros(20, 0)).square().sum().backward()
        optimizers.step(step)
        optimizers.zero_grad()
    assert not inputs.tables.storages["2"][0].any()
    assert inputs.tables.storages["2"][1:].any(dim=1).all()
    assert len(torch.cuda._queued_calls) == queued
