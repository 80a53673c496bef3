"""Compares DIN and DIEN with NumPy loops over the events of each row. Values after the length must not matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from star_ctr.conf.contracts.encoded_row import IdField, Layout, SequenceField
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.embeddings.shared_inputs import SharedInputs
from star_ctr.model.layers.attention_pooling import DienPooling, DinPooling
from tests.model.arrays import array, randomize

RNG = np.random.default_rng(11)
LENGTHS = np.array([4, 0, 2, 1, 3])
EVENTS = RNG.normal(size=(5, 6, 5))
"""Six events of five numbers per row. After the length of a row, they are noise; the encoder writes zeros there."""
TARGET = RNG.normal(size=(5, 3))
MATCHED = [slice(0, 2), slice(4, 5)]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def pool(pooling: torch.nn.Module, events: np.ndarray = EVENTS) -> torch.Tensor:
    out: torch.Tensor = pooling(torch.from_numpy(events), torch.from_numpy(LENGTHS), torch.from_numpy(TARGET))
    return out


@pytest.mark.usefixtures("float64")
def test_din_weights_each_event_by_the_candidate() -> None:
    pooling = DinPooling(ModelSettings(pooling="din", attention_width=4), 5, MATCHED, 3)
    randomize(pooling, RNG)
    want = np.zeros((5, 5))
    for b, length in enumerate(LENGTHS):
        t = TARGET[b]
        for e in EVENTS[b, :length]:
            same = e[[0, 1, 4]]
            pair = np.concatenate([e, t, same - t, same * t])
            hidden = np.maximum(array(pooling.hidden.weight) @ pair + array(pooling.hidden.bias), 0)
            want[b] += (array(pooling.out.weight) @ hidden + array(pooling.out.bias)) * e
    np.testing.assert_allclose(array(pool(pooling)), want, atol=1e-9)


def extract_states(pooling: DienPooling, events: np.ndarray) -> np.ndarray:
    """Compute the states of the interest extractor for the events of one row."""
    gru = pooling.extractor
    w, u, bw, bu = (array(p) for p in (gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0))
    h, states = np.zeros(5), []
    for e in events:
        (wr, wz, wn), (ur, uz, un) = np.split(w @ e + bw, 3), np.split(u @ h + bu, 3)
        r, z = sigmoid(wr + ur), sigmoid(wz + uz)
        h = (1 - z) * np.tanh(wn + r * un) + z * h
        states.append(h)
    return np.array(states).reshape(-1, 5)


@pytest.mark.usefixtures("float64")
def test_dien_evolves_interests_with_attention_to_the_candidate() -> None:
    pooling = DienPooling(ModelSettings(pooling="dien"), 5, MATCHED, 3)
    randomize(pooling, RNG)
    w, b = array(pooling.gates.weight), array(pooling.gates.bias)
    u = array(pooling.state_gates.weight)
    want = np.zeros((5, 5))
    for row, length in enumerate(LENGTHS):
        states = extract_states(pooling, EVENTS[row, :length])
        fit = np.array([h @ array(pooling.attention) @ TARGET[row] for h in states])
        weight = np.exp(fit - fit.max(initial=0)) / np.exp(fit - fit.max(initial=0)).sum() if length else fit
        state = np.zeros(5)
        for a, h in zip(weight, states, strict=True):
            (wu, wr, wn), (uu, ur, un) = np.split(w @ h + b, 3), np.split(u @ state, 3)
            update, reset = a * sigmoid(wu + uu), sigmoid(wr + ur)
            state = (1 - update) * state + update * np.tanh(wn + reset * un)
        want[row] = state
    np.testing.assert_allclose(array(pool(pooling)), want, atol=1e-9)
    assert not want[1].any()


@pytest.mark.usefixtures("float64")
def test_the_auxiliary_loss_of_dien_distinguishes_the_next_event_from_one_of_another_row() -> None:
    pooling = DienPooling(ModelSettings(pooling="dien", interest_loss=0.5), 5, MATCHED, 3)
    randomize(pooling, RNG)
    pool(pooling)
    want = 0.0
    for row, length in enumerate(LENGTHS):
        other = (row + 1) % 5
        states = extract_states(pooling, EVENTS[row, :length])
        terms = [
            -np.log(sigmoid(states[k] @ EVENTS[row, k + 1])) - np.log(1 - sigmoid(states[k] @ EVENTS[other, k + 1]))
            for k in range(min(length, LENGTHS[other]) - 1)
        ]
        want += 0.5 * np.mean(terms) if terms else 0
    assert want > 0
    assert pooling.auxiliary_loss().item() == pytest.approx(want, abs=1e-9)
    one = DienPooling(ModelSettings(pooling="dien"), 5, MATCHED, 3)
    one(*(torch.from_numpy(a[:1]) for a in (EVENTS, LENGTHS, TARGET)))
    assert one.auxiliary_loss().item() == 0  # a single row has no negative events


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("form", [DinPooling, DienPooling])
def test_values_after_the_length_do_not_matter(form: type[DinPooling | DienPooling]) -> None:
    pooling = form(ModelSettings(), 5, MATCHED, 3)
    randomize(pooling, RNG)
    is_event = np.arange(6) < LENGTHS[:, None]
    other = np.where(is_event[:, :, None], EVENTS, RNG.normal(size=EVENTS.shape))
    assert torch.equal(pool(pooling), pool(pooling, other))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("form", [DinPooling, DienPooling])
def test_gradients_of_pooling_by_finite_differences(form: type[DinPooling | DienPooling]) -> None:
    pooling = form(ModelSettings(activation="silu"), 5, MATCHED, 3)
    randomize(pooling, RNG)
    events, target = (torch.from_numpy(a).requires_grad_() for a in (EVENTS, TARGET))
    assert torch.autograd.gradcheck(lambda e, t: pooling(e, torch.from_numpy(LENGTHS), t), (events, target))


@pytest.mark.parametrize("pooling", ["din", "dien"])
def test_the_target_consists_of_the_ids_of_the_candidate_in_the_tables_of_the_events(pooling: str) -> None:
    layout = Layout(
        ds="2026-01-02", domains=["a"], embeddings={"item": 20, "tag": 9, "gap": 34, "user": 5}, numeric=[], buckets=[],
        categorical=[IdField(name=n, column=n, embedding=n) for n in ("user", "tag", "item")],
        sequences=[
            SequenceField(
                name="seen", length=3, sides=[IdField(name=n, column=n, embedding=n) for n in ("item", "gap", "tag")]
            ),
            SequenceField(name="words", length=2, separator=" ", sides=[IdField(name="w", column="w", embedding="tag")]),
        ],
    )  # fmt: skip
    settings = ModelSettings(dim=2, pooling=pooling, embeddings={"item": {"dim": 3}})  # type: ignore[arg-type,dict-item]
    inputs = SharedInputs(layout, settings)
    row = [4, 7, 11, 2, 5, 6, 0, 30, 31, 0, 2, 3, 0, 1, 8, 0]
    z = inputs(torch.tensor([row], dtype=torch.int32), torch.zeros(1, 0))
    assert z.shape == (1, inputs.features) == (1, 2 + 2 + 3 + 7 + 2)
    item, gap, tag = (inputs.tables.copy_table(n) for n in ("item", "gap", "tag"))
    events = torch.stack([torch.cat([item[i], gap[g], tag[t]]) for i, g, t in ((5, 30, 2), (6, 31, 3), (0, 0, 0))])
    target = torch.cat([item[11], tag[7]])
    expected = inputs.pooling["seen"](events[None], torch.tensor([2]), target[None])
    np.testing.assert_allclose(array(z[0, 9:]), array(expected[0]), atol=1e-6)
    np.testing.assert_allclose(array(z[0, 7:9]), array(tag[8]), atol=1e-6)  # a list of values is averaged


@pytest.mark.parametrize("name", ["items", "values", "type", "training", "forward"])
def test_a_sequence_may_have_any_name(name: str) -> None:
    """The name may be an attribute of PyTorch modules. The output does not depend on it."""
    layout = Layout(
        ds="2026-01-02", domains=["a"], embeddings={"item": 20}, numeric=[], buckets=[],
        categorical=[IdField(name="item", column="item", embedding="item")],
        sequences=[SequenceField(name="seen", length=2, sides=[IdField(name="i", column="i", embedding="item")])],
    )  # fmt: skip
    row, found = torch.tensor([[4, 2, 5, 6]], dtype=torch.int32), []
    for sequence_name in ("seen", name):
        torch.manual_seed(0)
        renamed = [layout.sequences[0].model_copy(update={"name": sequence_name})]
        inputs = SharedInputs(layout.model_copy(update={"sequences": renamed}), ModelSettings(dim=2, pooling="din"))
        found.append(inputs(row, torch.zeros(1, 0)))
    assert torch.equal(found[0], found[1])
