"""Compares PLE and PEPNet with NumPy, row by row, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.models.pepnet import PEPNet
from star_ctr.model.models.ple import PLE
from tests.model.arrays import array, randomize

RNG = np.random.default_rng(5)
X = RNG.normal(size=(7, 5))
SEGMENTS = [(1, 0, 3), (2, 3, 7)]
DOMAINS = [1, 1, 1, 2, 2, 2, 2]


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum()


def expert(layers: torch.nn.ModuleList, k: int, x: np.ndarray) -> np.ndarray:
    """Compute the output of network k of stacked layers for one row."""
    for layer in layers:
        x = relu(x @ array(layer.weight[k]) + array(layer.bias[k]).reshape(-1))
    return x


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_ple_matches_numpy(levels: int) -> None:
    network = PLE(ModelSettings(layers=[4, 3, 3], levels=levels, experts=2), 5, domains=3)
    randomize(network, RNG)
    assert len(network.earlier) == levels - 1
    want = []
    for x, p in zip(X, DOMAINS, strict=True):
        own, shared = [x, x, x], x
        for layer in network.earlier:
            by_domain = [expert(layer.own.layers, d, own[d]) for d in range(3)]
            common = [expert(layer.shared.layers, s, shared) for s in range(2)]
            gates = [softmax(own[d] @ array(layer.gates.weight[d]) + array(layer.gates.bias[d, 0])) for d in range(3)]
            gate = softmax(shared @ array(layer.shared_gate.weight) + array(layer.shared_gate.bias))
            own = [sum(g * e for g, e in zip(gates[d], [by_domain[d], *common], strict=True)) for d in range(3)]
            shared = sum(g * e for g, e in zip(gate, [*by_domain, *common], strict=True))
        gate = softmax(own[p] @ array(network.gates.weight[p]) + array(network.gates.bias[p]))
        experts = [
            expert(network.own.layers, p, own[p]),
            *(expert(network.shared.layers, s, shared) for s in range(2)),
        ]
        mixed = sum(g * e for g, e in zip(gate, experts, strict=True))
        want.append((mixed @ array(network.last.weight[p]) + array(network.last.bias[p]))[0])
    np.testing.assert_allclose(array(network(torch.from_numpy(X), SEGMENTS)), want, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_pepnet_matches_numpy() -> None:
    network = PEPNet(ModelSettings(layers=[4, 3], domain_dim=2, gate_width=3), 5, domains=3, priors=2)
    randomize(network, RNG)

    def gate(module: torch.nn.Module, x: np.ndarray) -> np.ndarray:
        h = relu(x @ array(module.hidden.weight) + array(module.hidden.bias))  # type: ignore[union-attr,arg-type]
        return 2 / (1 + np.exp(-(h @ array(module.out.weight) + array(module.out.bias))))  # type: ignore[union-attr,arg-type]

    want = []
    for x, p in zip(X, DOMAINS, strict=True):
        h = gated = x * gate(network.domain_gate, np.concatenate([array(network.domain[p]), x]))
        for k, layer in enumerate(network.hidden):
            h = relu(h @ array(layer.weight) + array(layer.bias))
            h = h * gate(network.gates[k], np.concatenate([x[:2], gated]))
        want.append((h @ array(network.last.weight[p]) + array(network.last.bias[p]))[0])
    np.testing.assert_allclose(array(network(torch.from_numpy(X), SEGMENTS)), want, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_gates_of_pepnet_stop_the_gradient_of_their_inputs() -> None:
    network = PEPNet(ModelSettings(layers=[4], domain_dim=2, gate_width=3), 5, domains=3, priors=0)
    randomize(network, RNG)
    with torch.no_grad():
        network.hidden[0].weight.zero_()  # only the gates still depend on the features
    x = torch.from_numpy(X).requires_grad_()
    network(x, SEGMENTS).sum().backward()
    assert x.grad is not None
    assert not x.grad.abs().sum()


@pytest.mark.usefixtures("float64")
def test_gradients_of_pepnet_by_finite_differences() -> None:
    network = PEPNet(ModelSettings(layers=[3], domain_dim=2, gate_width=3, activation="silu"), 5, domains=3, priors=2)
    randomize(network, RNG)
    learned = [p for m in (network.hidden, network.gates, network.last) for p in m.parameters()]
    x = torch.from_numpy(X)
    assert torch.autograd.gradcheck(lambda *_: torch.tanh(network(x, SEGMENTS)), learned)
