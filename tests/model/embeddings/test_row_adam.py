"""Compares Adam on rows with a gradient with the sparse Adam of PyTorch, and checks that other rows do not change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from star_ctr.model.embeddings import row_adam as row_adam
from star_ctr.model.embeddings.row_adam import RowAdam, sum_by_row

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("chunk_rows", [3, 4096])
def test_steps_match_sparse_adam(monkeypatch: pytest.MonkeyPatch, chunk_rows: int) -> None:
    monkeypatch.setattr(row_adam, "ROWS_PER_CHUNK", chunk_rows)
    actual, reference = (torch.nn.Embedding(50, 4, sparse=True) for _ in range(2))
    reference.load_state_dict(actual.state_dict())
    optimizers = RowAdam(actual.parameters(), lr=0.01), torch.optim.SparseAdam(reference.parameters(), lr=0.01)
    for _ in range(30):
        ids, weight = torch.from_numpy(RNG.integers(0, 50, 20)), torch.from_numpy(RNG.normal(size=(20, 4))).float()
        for table, optimizer in zip((actual, reference), optimizers, strict=True):
            optimizer.zero_grad()
            ((table(ids) * weight).sum() + table(ids[:5]).square().sum()).backward()  # two uses, ids repeated
            optimizer.step()
    torch.testing.assert_close(actual.weight, reference.weight, atol=1e-6, rtol=0)


def test_rows_without_a_gradient_keep_weights_and_optimizer_state_to_the_bit() -> None:
    table = torch.nn.Embedding(10, 3, sparse=True)
    optimizer = RowAdam(table.parameters(), lr=0.1)
    for ids in ([1, 2, 3], [3, 4]):
        before = [t.clone() for t in (table.weight.detach(), *_get_optimizer_state(optimizer, table))]
        optimizer.zero_grad()
        table(torch.tensor(ids)).square().sum().backward()
        optimizer.step()
        after = table.weight.detach(), *_get_optimizer_state(optimizer, table)
        others = [row for row in range(10) if row not in ids]
        assert all(torch.equal(a[others], b[others]) for a, b in zip(before, after, strict=True))
        assert not torch.equal(before[0][ids], after[0][ids])
        changed = optimizer.changes[table.weight]
        assert [row for rows, _ in changed for row in rows.tolist()] == ids
        difference = torch.cat([d for _, d in changed])
        # Not `after - before`, whose rounding error depends on the size of the weights.
        torch.testing.assert_close(before[0][ids] + difference, after[0][ids], atol=1e-7, rtol=1e-7)


def _get_optimizer_state(optimizer: RowAdam, table: torch.nn.Embedding) -> list[torch.Tensor]:
    state = optimizer.state[table.weight]
    return [state.get(name, torch.zeros(10, 3)) for name in ("exp_avg", "exp_avg_sq")]


@pytest.mark.parametrize("ids", [[], [7], [0, 2, 2, 7], [7, 2, 7, 7, 0, 2]])
def test_a_gradient_is_summed_by_row(ids: list[int]) -> None:
    values = RNG.normal(size=(len(ids), 2))
    gradient = torch.sparse_coo_tensor(
        torch.tensor([ids], dtype=torch.long), torch.from_numpy(values), (9, 2), check_invariants=True
    )
    rows, summed = sum_by_row(gradient)
    expected = np.zeros((9, 2))
    np.add.at(expected, ids, values)
    assert rows.tolist() == sorted(set(ids))
    np.testing.assert_allclose(summed.numpy(), expected[sorted(set(ids))], atol=1e-12)
