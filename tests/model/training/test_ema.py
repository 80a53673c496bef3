"""Compares the EMA of the weights with a dense EMA that updates every weight in every step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from star_ctr.model.embeddings.row_adam import RowUpdate
from star_ctr.model.embeddings.tables import EmbeddingTables
from star_ctr.model.training import ema, trainer_state
from star_ctr.model.training.callbacks import Callback, CallbackEvent
from star_ctr.model.training.ema import WeightEma, compute_averages, compute_log_decay
from star_ctr.model.training.trainer import Trainer
from tests.model.synthetic import LAYOUT, job, version_of, write_split

ROWS = 40
MANY = LAYOUT.model_copy(update={"embeddings": {"user": 2000, "item": 30}})
"""Most users occur in one or two rows of the split."""


class Model(nn.Module):
    """A model with a table and a dense parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = EmbeddingTables({"x": ROWS}, {"x": 3})
        self.dense = nn.Parameter(torch.randn(4))

    def ema(self, decay: float) -> WeightEma:
        return WeightEma(self, self.tables, decay)

    @property
    def storage(self) -> nn.Parameter:
        return self.tables.storages["3"]

    @torch.no_grad()
    def change(self, rng: np.random.Generator, rows: list[int]) -> dict[nn.Parameter, list[RowUpdate]]:
        """Change the given rows, and the dense parameter if there are any."""
        parts = [torch.tensor(part, dtype=torch.long) for part in (rows[:2], rows[2:])]
        changes = [RowUpdate(part, torch.from_numpy(rng.normal(size=(len(part), 3))).float()) for part in parts]
        for part, difference in changes:
            self.storage.index_add_(0, part, difference)
        self.dense.grad = torch.ones(4) if rows else None
        if rows:
            self.dense.add_(torch.from_numpy(rng.normal(size=4)).float())
        return {self.storage: changes}


class Dense:
    """Reference EMA in NumPy and float64, with a step counter per parameter."""

    def __init__(self, start: np.ndarray, decay: float) -> None:
        self.average, self.decay, self.step = start.astype(np.float64), decay, 0

    def update(self, weight: np.ndarray) -> None:
        self.step += 1
        d = min(self.decay, (1 + self.step) / (10 + self.step))
        self.average = d * self.average + (1 - d) * weight


@pytest.mark.parametrize("decay", [0.01, 0.1, 0.5, 0.9, 0.99, 0.999])
def test_the_closed_form_of_decay_products(decay: float) -> None:
    t = np.arange(1, 20_001)
    expected = np.concatenate([[0.0], np.cumsum(np.log(np.minimum(decay, (1 + t) / (10 + t))))])
    found = compute_log_decay(torch.arange(20_001, dtype=torch.int32), decay)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-11, atol=1e-11)


@settings(max_examples=10, deadline=None)
@given(
    decay=st.sampled_from([0.1, 0.9, 0.99, 0.999]),
    rare=st.sampled_from([0.002, 0.05, 0.9]),
    stops=st.sets(st.integers(1, 299), max_size=4),
    seed=st.integers(0, 1000),
)
def test_a_table_ema_matches_a_dense_ema_after_resume(decay: float, rare: float, stops: set[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = Model()
    whole, resumed = model.ema(decay), model.ema(decay)
    dense = {n: Dense(p.detach().numpy(), decay) for n, p in model.named_parameters()}
    for step in range(300):
        changes = model.change(rng, np.flatnonzero(rng.random(ROWS) < rare).tolist())
        whole.update(changes)
        resumed.update(changes)
        for name, parameter in model.named_parameters():
            if name != "dense" or parameter.grad is not None:
                dense[name].update(parameter.detach().numpy())
        if step in stops:
            saved = {n: t.clone() for n, t in resumed.state_dict().items()}
            resumed = model.ema(decay)
            resumed.load_state_dict(saved)
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    from_checkpoint = compute_averages(weights, dict(whole.state_dict()), decay)
    whole.swap_in()
    swapped = {n: p.detach().clone() for n, p in model.named_parameters()}
    for name, reference in dense.items():
        scale = max(1.0, np.abs(reference.average).max())
        np.testing.assert_allclose(swapped[name].numpy(), reference.average, atol=1e-5 * scale, err_msg=name)
        torch.testing.assert_close(from_checkpoint[name], swapped[name], atol=1e-6, rtol=1e-6)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    resumed.swap_in()
    assert all(torch.equal(p, swapped[n]) for n, p in model.named_parameters()), "a resumed run is not bit-identical"


@pytest.mark.parametrize(("first", "second"), [(0.9, 0.9999), (0.9999, 0.9), (0.9, 0.9), (0.99, 0.5)])
def test_a_loaded_ema_continues_with_another_decay(first: float, second: float) -> None:
    """Compare with a dense EMA for rows that change before the load, after it, both, or never."""
    rng = np.random.default_rng(0)
    model = Model()
    average = model.ema(first)
    dense = {n: Dense(p.detach().numpy(), first) for n, p in model.named_parameters()}
    rows = [*[range(10, 30)] * 100, *[range(10, 20)] * 20, *[range(5, 20)] * 60]
    for step, among in enumerate(rows):
        if step == 120:
            saved = {n: t.clone() for n, t in average.state_dict().items()}
            average = model.ema(second)
            average.load_state_dict(saved, decay=first)
            for reference in dense.values():
                reference.decay = second
        average.update(model.change(rng, sorted(rng.choice(list(among), 3, replace=False).tolist())))
        for name, parameter in model.named_parameters():
            dense[name].update(parameter.detach().numpy())
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    average.swap_in()
    for name, parameter in model.named_parameters():
        scale = max(1.0, np.abs(dense[name].average).max())
        np.testing.assert_allclose(parameter.detach().numpy(), dense[name].average, atol=1e-5 * scale, err_msg=name)
    assert not torch.allclose(weights["dense"], model.dense, atol=1e-3), "the average equals the weights"


def test_a_rarely_touched_row_is_exported_as_its_weight() -> None:
    rng = np.random.default_rng(0)
    model = Model()
    average = model.ema(0.99)
    start = model.storage.detach().clone()
    for step in range(2000):
        average.update(model.change(rng, [5, 6] if step % 100 == 50 and step < 1000 else [7]))
    weight = model.storage.detach().clone()
    average.swap_in()
    learned = (weight - start)[5:7].abs()
    assert learned.min() > 0.1
    assert ((model.storage - weight)[5:7].abs() < 1e-3 * learned).all()
    assert torch.equal(model.storage[8], start[8]), "a row that was never touched"
    before = model.storage.detach().clone()
    average.swap_in()
    assert torch.equal(model.storage, before), "a second flush changes nothing"


def test_flush_covers_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    swapped = []
    for block in (1 << 16, 7):
        monkeypatch.setattr(ema, "BLOCK", block)
        torch.manual_seed(0)
        rng = np.random.default_rng(0)
        model = Model()
        average = model.ema(0.9)
        for _ in range(20):
            average.update(model.change(rng, np.flatnonzero(rng.random(ROWS) < 0.2).tolist()))
        average.swap_in()
        swapped.append(model.storage.detach().clone())
    assert torch.equal(*swapped)


def test_no_decay_has_no_state() -> None:
    model = Model()
    average = model.ema(0.0)
    before = model.storage.detach().clone()
    average.update(model.change(np.random.default_rng(0), []))
    average.swap_in()
    assert not dict(average.state_dict())
    assert torch.equal(model.storage, before)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_split(tmp_path_factory.mktemp("many"), layout=MANY)


@pytest.mark.parametrize("decay", [0.9, 0.99])
def test_training_exports_the_dense_ema_of_its_weights(many: str, tmp_path: Path, decay: float) -> None:
    """Weights of a domain count the steps with its batches, all others count every step. Training stops twice."""

    class Reference(Callback):
        def __init__(self) -> None:
            self.averages: dict[str, Dense] = {}

        def step(self, event: CallbackEvent) -> None:
            for name, parameter in trainer.model.named_parameters():
                if parameter.grad is not None:
                    self.averages[name].update(parameter.detach().numpy())
            if event.step in (20, 50):
                raise InterruptedError

    reference = Reference()
    j = job(many, tmp_path, epochs=8, ema_decay=decay, norm_statistics_rows=0, lr=0.01)
    j = j.model_copy(update={"layout": MANY, "versions": {"split": version_of(many)}})
    for part in range(3):
        trainer = Trainer(j)
        if part == 0:
            reference.averages = {n: Dense(p.detach().numpy(), decay) for n, p in trainer.model.named_parameters()}
        assert trainer_state.resume(trainer) == (part > 0)
        try:
            trainer.train([reference])
        except InterruptedError:
            trainer_state.save(trainer)
    weights = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    assert trainer.step == trainer.steps > 100
    trainer.ema.swap_in()
    for name, parameter in trainer.model.named_parameters():
        np.testing.assert_allclose(
            parameter.detach().numpy(), reference.averages[name].average, atol=2e-6, rtol=1e-5, err_msg=name
        )
    table = "inputs.tables.storages.4"
    assert not torch.allclose(weights[table], trainer.model.state_dict()[table], atol=1e-3), (
        "the average equals the weights"
    )
