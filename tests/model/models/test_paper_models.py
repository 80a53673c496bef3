"""Compares the networks and normalizations with NumPy, in float64, both in training and folded for inference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.layers.normalization import BatchNorm, LayerNorm
from star_ctr.model.layers.per_domain import copy_domain
from star_ctr.model.layers.star_fcn import StarFCN
from star_ctr.model.models.base import BaseFCN
from star_ctr.model.models.cross_stitch import CrossStitch
from star_ctr.model.models.mmoe import MMoE
from star_ctr.model.models.mulann import MulANN
from star_ctr.model.models.ple import PLE
from star_ctr.model.models.shared_bottom import SharedBottom
from tests.model.arrays import array, randomize
from tests.model.synthetic import ALL

RNG = np.random.default_rng(3)
X = RNG.normal(size=(7, 5))
SEGMENTS = [(1, 0, 3), (2, 3, 7)]
DOMAINS = [1, 1, 1, 2, 2, 2, 2]
WIDTHS = ModelSettings(layers=[4, 3], dropout=0.0)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def logits(network: torch.nn.Module) -> np.ndarray:
    """Compute the logits of X, and assert that the network folded for inference computes the same."""
    out = array(network(torch.from_numpy(X), SEGMENTS))
    folded = array(network.eval().fold_for_inference()(torch.from_numpy(X), SEGMENTS))  # type: ignore[operator]
    np.testing.assert_allclose(folded, out, atol=1e-9)
    return out


@pytest.mark.usefixtures("float64")
def test_base_is_one_network() -> None:
    network = BaseFCN(WIDTHS, 5)
    randomize(network, RNG)
    h = X
    for k, layer in enumerate(network.layers):
        h = h @ array(layer.weight) + array(layer.bias)
        h = relu(h) if k < 2 else h
    np.testing.assert_allclose(logits(network), h[:, 0], atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_mulann_reverses_the_gradient_of_its_discriminator() -> None:
    network = MulANN(WIDTHS, 5, domains=3)
    randomize(network, RNG)
    network.discriminator.weight.data *= 0.3  # almost a guess: some domains are predicted well, others not
    network.discriminator.bias.data = torch.log(torch.tensor([0.1, 3.0, 4.0]))
    network(torch.from_numpy(X), SEGMENTS)
    loss = network.auxiliary_loss(SEGMENTS)
    h = X
    for layer in network.layers[:2]:
        h = relu(h @ array(layer.weight) + array(layer.bias))
    scores = h @ array(network.discriminator.weight) + array(network.discriminator.bias)
    entropy = np.log(np.exp(scores).sum(1)) - scores[np.arange(7), DOMAINS]
    guess = np.log(len(DOMAINS) / np.bincount(DOMAINS)[DOMAINS])
    known = entropy < guess  # better than a prediction from the shares of the domains
    assert 0 < known.sum() < len(known)
    assert loss.item() == pytest.approx(0.1 * (entropy - guess)[~known].sum(), abs=1e-9)
    loss.backward()
    share = np.exp(scores) / np.exp(scores).sum(1, keepdims=True) - np.eye(3)[DOMAINS]
    np.testing.assert_allclose(array(network.discriminator.weight.grad), 0.1 * h.T @ share, atol=1e-9)
    back = (0.1 * known[:, None] * share @ array(network.discriminator.weight).T) * (h > 0)
    before = relu(X @ array(network.layers[0].weight) + array(network.layers[0].bias))
    np.testing.assert_allclose(array(network.layers[1].weight.grad), -before.T @ back, atol=1e-9)  # reversed
    logits(network)


def test_mulann_stays_bounded_if_the_domain_is_easy_to_predict() -> None:
    torch.manual_seed(0)
    network = MulANN(ModelSettings(name="mulann", layers=[32, 16, 8], adversarial=1.0), 5, domains=3)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    x = torch.from_numpy(RNG.normal(size=(300, 5))).float()
    x[:, 0] += 2 * torch.arange(3).repeat_interleave(100)  # the domain is easy to predict
    for _ in range(600):
        optimizer.zero_grad()
        network(x, [(0, 0, 100), (1, 100, 200), (2, 200, 300)])
        network.auxiliary_loss([(0, 0, 100), (1, 100, 200), (2, 200, 300)]).backward()
        optimizer.step()
    assert network._hidden_BH is not None
    assert network._hidden_BH.abs().max() < 100  # 10^7 if the loss is maximized without a bound


@pytest.mark.usefixtures("float64")
def test_shared_bottom_is_one_network_per_domain() -> None:
    network = SharedBottom(WIDTHS, 5, domains=3)
    randomize(network, RNG)
    want = []
    for x, p in zip(X, DOMAINS, strict=True):
        h = x
        for k, layer in enumerate(network.layers):
            h = h @ array(layer.weight[p]) + array(layer.bias[p])
            h = relu(h) if k < 2 else h
        want.append(h[0])
    np.testing.assert_allclose(logits(network), want, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_mmoe_mixes_experts_by_the_gate_of_the_domain() -> None:
    network = MMoE(WIDTHS, 5, domains=3)
    randomize(network, RNG)
    assert len(network.hidden[0].weight) == 2  # one expert per known domain
    want = []
    for x, p in zip(X, DOMAINS, strict=True):
        gate = np.exp(x @ array(network.gates.weight[p]) + array(network.gates.bias[p]))
        gate /= gate.sum()
        mixed = np.zeros(3)
        for e in range(2):
            h = x
            for layer in network.hidden:
                h = relu(h @ array(layer.weight)[e] + array(layer.bias)[e, 0])
            mixed += gate[e] * h
        want.append((mixed @ array(network.last.weight[p]) + array(network.last.bias[p]))[0])
    np.testing.assert_allclose(logits(network), want, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_cross_stitch_mixes_the_networks_of_the_domains_after_each_hidden_layer() -> None:
    network = CrossStitch(WIDTHS, 5, domains=3)
    unit = array(network.units[0])
    assert np.allclose(unit.sum(1), 1)
    assert np.allclose(np.diag(unit), 0.9)
    randomize(network, RNG)
    want = []
    for x, p in zip(X, DOMAINS, strict=True):
        paths = [x, x, x]
        for layer, unit in zip(network.hidden, network.units, strict=True):
            h = [relu(paths[k] @ array(layer.weight)[k] + array(layer.bias)[k, 0]) for k in range(3)]
            paths = [sum(array(unit)[d, k] * h[k] for k in range(3)) for d in range(3)]
        want.append((paths[p] @ array(network.last.weight[p]) + array(network.last.bias[p]))[0])
    np.testing.assert_allclose(logits(network), want, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_star_weights_may_be_summed() -> None:
    network = StarFCN(5, [4, 3], domains=3, combine="sum")
    assert all((array(w) == 0).all() for layer in network.layers for w in layer.weight_p)
    randomize(network, RNG)
    want = []
    for x, p in zip(X, DOMAINS, strict=True):
        h = x
        for k, layer in enumerate(network.layers):
            h = h @ (array(layer.weight) + array(layer.weight_p[p])) + array(layer.bias) + array(layer.bias_p[p])
            h = relu(h) if k < 2 else h
        want.append(h[0])
    np.testing.assert_allclose(logits(network), want, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_batch_and_layer_normalization() -> None:
    batch, layer = BatchNorm(5), LayerNorm(5)
    randomize(batch, RNG)
    randomize(layer, RNG)
    g, b = array(batch.gamma), array(batch.beta)
    z = torch.from_numpy(X)
    standardized = (X - X.mean(0)) / np.sqrt(X.var(0) + 1e-5)
    np.testing.assert_allclose(array(batch(z, SEGMENTS)), g * standardized + b, atol=1e-9)
    moving = (X - array(batch.mean)[0]) / np.sqrt(array(batch.var)[0] + 1e-5)
    np.testing.assert_allclose(array(batch.mean)[0], X.mean(0), atol=1e-12)
    for form in (batch.eval(), batch.fold_for_inference()):
        np.testing.assert_allclose(array(form(z, SEGMENTS)), g * moving + b, atol=1e-9)
    rows = (X - X.mean(1, keepdims=True)) / np.sqrt(X.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(array(layer(z, SEGMENTS)), array(layer.weight) * rows + array(layer.bias), atol=1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", [n for n in ALL if n != "pepnet"])  # its gates stop the gradient by design
def test_gradients_by_finite_differences(name: str) -> None:
    settings = ModelSettings(name=name, layers=[3], activation="silu")  # type: ignore[arg-type]
    from star_ctr.model.models.multi_domain import make_network

    network = make_network(settings, 5, 3, priors=2)
    randomize(network, RNG)
    x = torch.from_numpy(X).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: torch.tanh(network(x, SEGMENTS)), (x,))
    parameters = [p for p in network.parameters() if p.shape]
    network(x, SEGMENTS).square().sum().backward()
    untouched = [p for p in parameters if p.grad is None or not p.grad.abs().sum()]
    assert len(untouched) <= len(parameters) / 2, "the batch has rows of two of the three domains"


def test_an_unknown_domain_is_scored_by_a_trained_one_and_others_are_not_changed() -> None:
    """The networks of Cross-Stitch and PLE also read the network of domain 0, so it must stay as it was trained."""
    for network in (SharedBottom(WIDTHS, 5, 3), MMoE(WIDTHS, 5, 3), CrossStitch(WIDTHS, 5, 3), PLE(WIDTHS, 5, 3)):
        randomize(network, RNG)
        x = torch.from_numpy(X).float()
        before = [network(x, [(p, 0, 7)]).detach() for p in (0, 1, 2)]
        copy_domain(network, 2, 0)
        after = [network(x, [(p, 0, 7)]).detach() for p in (0, 1, 2)]
        assert not torch.equal(after[0], before[0])
        assert torch.equal(after[0], before[2])
        assert torch.equal(after[1], before[1])
        assert torch.equal(after[2], before[2])
