"""Compares the layers with the equations of the paper, computed with NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from star_ctr.model.layers.auxiliary import AuxiliaryNetwork
from star_ctr.model.layers.partitioned_norm import PartitionedNorm
from star_ctr.model.layers.stack import Dropout
from star_ctr.model.layers.star_fcn import StarFCN, StarLinear
from tests.model.arrays import array, randomize

RNG = np.random.default_rng(0)


pytestmark = pytest.mark.usefixtures("float64")


def test_partitioned_norm_in_training_is_eq_3_and_updates_only_its_domain() -> None:
    norm = PartitionedNorm(5, domains=3, momentum=0.1)
    randomize(norm, RNG)
    z = RNG.normal(size=(7, 5))
    out = array(norm(torch.from_numpy(z), [(1, 0, 7)]))
    mu, var = z.mean(0), z.var(0)
    gamma, beta = array(norm.gamma) * array(norm.gamma_p[1]), array(norm.beta) + array(norm.beta_p[1])
    np.testing.assert_allclose(out, gamma * (z - mu) / np.sqrt(var + 1e-5) + beta, atol=1e-9)
    np.testing.assert_allclose(array(norm.mean)[1], mu, atol=1e-12)  # the first batch sets the statistics
    norm(torch.from_numpy(z + 1), [(1, 0, 7)])
    np.testing.assert_allclose(array(norm.mean)[1], 0.9 * mu + 0.1 * (mu + 1), atol=1e-12)
    for other in (0, 2):
        assert (array(norm.mean)[other] == 0).all()
        assert (array(norm.var)[other] == 1).all()


def test_partitioned_norm_in_evaluation_is_eq_4_for_rows_of_several_domains() -> None:
    norm = PartitionedNorm(4, domains=2).eval()
    randomize(norm, RNG)
    norm.mean.copy_(torch.from_numpy(RNG.normal(size=(2, 4))))
    norm.var.copy_(torch.from_numpy(RNG.uniform(0.5, 2, size=(2, 4))))
    z = RNG.normal(size=(6, 4))
    segments = [(0, 0, 2), (1, 2, 6)]
    out = array(norm(torch.from_numpy(z), segments))
    folded = norm.fold_for_inference()
    scale, shift = array(folded.scale), array(folded.shift)
    for p, start, stop in segments:
        g, b = array(norm.gamma) * array(norm.gamma_p[p]), array(norm.beta) + array(norm.beta_p[p])
        want = g * (z[start:stop] - array(norm.mean)[p]) / np.sqrt(array(norm.var)[p] + 1e-5) + b
        np.testing.assert_allclose(out[start:stop], want, atol=1e-9)
        np.testing.assert_allclose(z[start:stop] * scale[p] + shift[p], want, atol=1e-9)


def test_a_batch_of_one_row_is_normalized_with_running_statistics_and_counted() -> None:
    norm = PartitionedNorm(3, domains=2)
    z = torch.tensor([[1.0, 2.0, 3.0]])
    out = norm(z, [(1, 0, 1)])
    np.testing.assert_allclose(array(out), array(z) / np.sqrt(1 + 1e-5), atol=1e-12)
    assert norm.single_row_batches.tolist() == [0, 1]
    assert norm.steps.tolist() == [0, 0]


def test_star_layer_is_eq_5_and_6() -> None:
    layer = StarLinear(4, 3, domains=2)
    randomize(layer, RNG)
    x = RNG.normal(size=(5, 4))
    out = array(layer(torch.from_numpy(x), [(0, 0, 2), (1, 2, 5)]))
    for p, rows in ((0, slice(0, 2)), (1, slice(2, 5))):
        weight = array(layer.weight_p[p]) * array(layer.weight)
        want = (weight.T @ x[rows].T).T + array(layer.bias_p[p]) + array(layer.bias)
        np.testing.assert_allclose(out[rows], want, atol=1e-9)
        combined, bias = array(layer.fold_for_inference().weight), array(layer.fold_for_inference().bias)
        np.testing.assert_allclose(x[rows] @ combined[p] + bias[p], want, atol=1e-9)


def test_every_domain_starts_as_the_shared_model() -> None:
    fcn = StarFCN(4, [8, 4], domains=3)
    x = torch.from_numpy(RNG.normal(size=(5, 4)))
    logits = [array(fcn(x, [(p, 0, 5)])) for p in range(3)]
    assert (logits[0] == logits[1]).all()
    assert (logits[0] == logits[2]).all()


def test_the_last_layer_is_a_plain_logit() -> None:
    fcn = StarFCN(3, [4], domains=1)
    randomize(fcn, RNG)
    x = RNG.normal(size=(50, 3))
    w = [array(layer.fold_for_inference().weight)[0] for layer in fcn.layers]
    b = [array(layer.fold_for_inference().bias)[0] for layer in fcn.layers]
    want = (np.maximum(x @ w[0] + b[0], 0) @ w[1] + b[1])[:, 0]
    np.testing.assert_allclose(array(fcn(torch.from_numpy(x), [(0, 0, 50)])), want, atol=1e-9)
    assert (want < 0).any()


def test_dropout_keeps_the_mean_and_depends_only_on_the_seed() -> None:
    dropout, x = Dropout(0.25), torch.ones(400, 500)
    torch.manual_seed(3)
    out = dropout(x)
    assert out.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (out == 0).double().mean().item() == pytest.approx(0.25, abs=0.005)
    torch.manual_seed(3)
    assert dropout(x).equal(out)
    assert dropout.eval()(x) is x


def test_auxiliary_network_has_two_layers_over_domain_and_z() -> None:
    aux = AuxiliaryNetwork(3, domains=2, domain_dim=2, width=4)
    randomize(aux, RNG)
    z = RNG.normal(size=(4, 3))
    out = array(aux(torch.from_numpy(z), [(0, 0, 1), (1, 1, 4)]))
    domain = np.stack([array(aux.domain[p]) for p in (0, 1, 1, 1)])
    hidden = np.maximum(np.concatenate([domain, z], 1) @ array(aux.hidden.weight).T + array(aux.hidden.bias), 0)
    np.testing.assert_allclose(out, (hidden @ array(aux.out.weight).T + array(aux.out.bias))[:, 0], atol=1e-9)


def test_gradients_by_finite_differences() -> None:
    norm, layer = PartitionedNorm(3, domains=2), StarLinear(3, 2, domains=2)
    randomize(norm, RNG)
    randomize(layer, RNG)

    def f(z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        segments = [(0, 0, 3), (1, 3, 6)]
        return torch.tanh(layer(norm(z, segments), segments) @ weight)

    z = torch.from_numpy(RNG.normal(size=(6, 3))).requires_grad_()
    weight = torch.from_numpy(RNG.normal(size=(2, 1))).requires_grad_()
    norm.momentum = 0.0
    assert torch.autograd.gradcheck(f, (z, weight))


def test_a_spread_applies_to_known_domains_and_not_to_the_unknown_domain() -> None:
    layer = StarLinear(40, 30, domains=3, spread=0.2)
    assert torch.equal(layer.weight_p[0], torch.ones(40, 30))
    for p in (1, 2):
        assert layer.weight_p[p].mean().item() == pytest.approx(1.0, abs=0.03)
        assert layer.weight_p[p].std().item() == pytest.approx(0.2, abs=0.03)
