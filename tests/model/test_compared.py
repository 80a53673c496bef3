"""The compared networks and normalizations against NumPy, in float64; each in training, served, and in the trainer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from star_ctr.conf.training import ModelSettings
from star_ctr.model.compared import BaseFCN, CrossStitch, MMoE, MulANN, SharedBottom, adopt
from star_ctr.model.export import Predictor
from star_ctr.model.layers import StarFCN
from star_ctr.model.multi_domain import MultiDomainModel
from star_ctr.model.norms import BatchNorm, LayerNorm, cut_over_ranks, segments_of
from star_ctr.model.probe import probe_rows
from star_ctr.model.reading import live_files
from star_ctr.model.run import train
from star_ctr.model.stream import epoch_batches
from star_ctr.model.successors import PLE
from star_ctr.model.trainer import Trainer
from tests.model.arrays import array, randomise
from tests.model.synthetic import LAYOUT, ROWS, job, write_split

RNG = np.random.default_rng(3)
X = RNG.normal(size=(7, 5))
SEGMENTS = [(1, 0, 3), (2, 3, 7)]
OF_ROW = [1, 1, 1, 2, 2, 2, 2]
WIDTHS = ModelSettings(layers=[4, 3], dropout=0.0)
ALL = ("star", "base", "shared_bottom", "mmoe", "cross_stitch", "ple", "pepnet")


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def logits(network: torch.nn.Module) -> np.ndarray:
    """The network's logits of X, the same in its served form."""
    out = array(network(torch.from_numpy(X), SEGMENTS))
    served = array(network.eval().served()(torch.from_numpy(X), SEGMENTS))  # type: ignore[operator]
    np.testing.assert_allclose(served, out, atol=1e-9)
    return out


@pytest.mark.usefixtures("float64")
def test_base_is_one_network() -> None:
    network = BaseFCN(WIDTHS, 5)
    randomise(network, RNG)
    h = X
    for k, layer in enumerate(network.layers):
        h = h @ array(layer.weight) + array(layer.bias)
        h = relu(h) if k < 2 else h
    np.testing.assert_allclose(logits(network), h[:, 0], atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_mulann_hides_the_domain_that_its_discriminator_looks_for() -> None:
    network = MulANN(WIDTHS, 5, domains=3)
    randomise(network, RNG)
    network.discriminator.weight.data *= 0.3  # near a guess: it knows some rows' domains, and others it does not
    network.discriminator.bias.data = torch.log(torch.tensor([0.1, 3.0, 4.0]))
    network(torch.from_numpy(X), SEGMENTS)
    loss = network.own_loss(SEGMENTS)
    h = X
    for layer in network.layers[:2]:
        h = relu(h @ array(layer.weight) + array(layer.bias))
    scores = h @ array(network.discriminator.weight) + array(network.discriminator.bias)
    entropy = np.log(np.exp(scores).sum(1)) - scores[np.arange(7), OF_ROW]
    guess = np.log(len(OF_ROW) / np.bincount(OF_ROW)[OF_ROW])
    known = entropy < guess  # better than by the domains' shares
    assert 0 < known.sum() < len(known)
    assert loss.item() == pytest.approx(0.1 * (entropy - guess)[~known].sum(), abs=1e-9)
    loss.backward()
    share = np.exp(scores) / np.exp(scores).sum(1, keepdims=True) - np.eye(3)[OF_ROW]
    np.testing.assert_allclose(array(network.discriminator.weight.grad), 0.1 * h.T @ share, atol=1e-9)
    back = (0.1 * known[:, None] * share @ array(network.discriminator.weight).T) * (h > 0)
    before = relu(X @ array(network.layers[0].weight) + array(network.layers[0].bias))
    np.testing.assert_allclose(array(network.layers[1].weight.grad), -before.T @ back, atol=1e-9)  # turned round
    logits(network)


def test_mulann_does_not_run_away_from_its_discriminator() -> None:
    torch.manual_seed(0)
    network = MulANN(ModelSettings(name="mulann", layers=[32, 16, 8], adversarial=1.0), 5, domains=3)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    x = torch.from_numpy(RNG.normal(size=(300, 5))).float()
    x[:, 0] += 2 * torch.arange(3).repeat_interleave(100)  # the domain is easily told
    for _ in range(600):
        optimizer.zero_grad()
        network(x, [(0, 0, 100), (1, 100, 200), (2, 200, 300)])
        network.own_loss([(0, 0, 100), (1, 100, 200), (2, 200, 300)]).backward()
        optimizer.step()
    assert network._hidden_BH is not None
    assert network._hidden_BH.abs().max() < 100  # 10^7 where its loss is raised without end


@pytest.mark.usefixtures("float64")
def test_shared_bottom_is_a_network_a_domain() -> None:
    network = SharedBottom(WIDTHS, 5, domains=3)
    randomise(network, RNG)
    want = []
    for x, p in zip(X, OF_ROW, strict=True):
        h = x
        for k, layer in enumerate(network.layers):
            h = h @ array(layer.weight[p]) + array(layer.bias[p])
            h = relu(h) if k < 2 else h
        want.append(h[0])
    np.testing.assert_allclose(logits(network), want, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_mmoe_mixes_experts_by_the_gate_of_the_domain() -> None:
    network = MMoE(WIDTHS, 5, domains=3)
    randomise(network, RNG)
    assert len(network.hidden[0].weight) == 2  # one a domain that there is
    want = []
    for x, p in zip(X, OF_ROW, strict=True):
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
def test_cross_stitch_mixes_the_domains_networks_after_each_hidden_layer() -> None:
    network = CrossStitch(WIDTHS, 5, domains=3)
    unit = array(network.units[0])
    assert np.allclose(unit.sum(1), 1)
    assert np.allclose(np.diag(unit), 0.9)
    randomise(network, RNG)
    want = []
    for x, p in zip(X, OF_ROW, strict=True):
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
    randomise(network, RNG)
    want = []
    for x, p in zip(X, OF_ROW, strict=True):
        h = x
        for k, layer in enumerate(network.layers):
            h = h @ (array(layer.weight) + array(layer.weight_p[p])) + array(layer.bias) + array(layer.bias_p[p])
            h = relu(h) if k < 2 else h
        want.append(h[0])
    np.testing.assert_allclose(logits(network), want, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_batch_and_layer_normalization() -> None:
    batch, layer = BatchNorm(5), LayerNorm(5)
    randomise(batch, RNG)
    randomise(layer, RNG)
    g, b = array(batch.gamma), array(batch.beta)
    z = torch.from_numpy(X)
    standardised = (X - X.mean(0)) / np.sqrt(X.var(0) + 1e-5)
    np.testing.assert_allclose(array(batch(z, SEGMENTS)), g * standardised + b, atol=1e-9)
    moving = (X - array(batch.mean)[0]) / np.sqrt(array(batch.var)[0] + 1e-5)
    np.testing.assert_allclose(array(batch.mean)[0], X.mean(0), atol=1e-12)
    for form in (batch.eval(), batch.served()):
        np.testing.assert_allclose(array(form(z, SEGMENTS)), g * moving + b, atol=1e-9)
    rows = (X - X.mean(1, keepdims=True)) / np.sqrt(X.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(array(layer(z, SEGMENTS)), array(layer.weight) * rows + array(layer.bias), atol=1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", [n for n in ALL if n != "pepnet"])  # its gates stop the gradient on purpose
def test_gradients_by_finite_differences(name: str) -> None:
    settings = ModelSettings(name=name, layers=[3], activation="silu")  # type: ignore[arg-type]
    from star_ctr.model.multi_domain import make_network

    network = make_network(settings, 5, 3, priors=2)
    randomise(network, RNG)
    x = torch.from_numpy(X).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: torch.tanh(network(x, SEGMENTS)), (x,))
    own = [p for p in network.parameters() if p.shape]
    network(x, SEGMENTS).square().sum().backward()
    untouched = [p for p in own if p.grad is None or not p.grad.abs().sum()]
    assert len(untouched) <= len(own) / 2, "domains 1 and 2 of three learn"


def test_an_unknown_domain_is_scored_by_a_trained_one() -> None:
    for network in (SharedBottom(WIDTHS, 5, 3), MMoE(WIDTHS, 5, 3), CrossStitch(WIDTHS, 5, 3), PLE(WIDTHS, 5, 3)):
        randomise(network, RNG)
        adopt(network, 2)
        x = torch.from_numpy(X).float()
        a, b = (network(x, [(p, 0, 7)]).detach() for p in (0, 2))
        if not isinstance(network, CrossStitch | PLE):  # their networks see domain 0's as well
            assert torch.equal(a, b)
        np.testing.assert_allclose(a, b, rtol=1e-4)


def test_segments_of_sorted_domains() -> None:
    assert segments_of(np.array([0, 0, 2, 5, 5], dtype=np.int32)) == [(0, 0, 2), (2, 2, 3), (5, 3, 5)]


# --- in the trainer


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("split")
    write_split(folder, part="test", rows={"a": 60, "b": 20})
    return write_split(folder)


@pytest.mark.parametrize(
    ("name", "norm", "batches"),
    [(n, "pn", "single_domain") for n in ALL[1:]]
    + [("base", "bn", "mixed"), ("star", "bn", "mixed"), ("star", "ln", "mixed"), ("star", "bn", "single_domain")]
    + [("mulann", "bn", "mixed"), ("mmoe", "bn", "mixed"), ("cross_stitch", "ln", "single_domain")],
)
def test_every_model_trains_and_its_export_scores_as_it_does(
    table: str, tmp_path: Path, name: str, norm: str, batches: str
) -> None:
    j = job(table, tmp_path, batches=batches, epochs=2)
    j = j.model_copy(update={"model": j.model.model_copy(update={"name": name, "norm": norm})})
    record = train(j)
    assert record["rows"] == {d: 2 * n for d, n in ROWS.items()}
    ids, rows = probe_rows(live_files(table, j.versions["split"], j.ds, "test", LAYOUT), LAYOUT, 200)
    predictor = Predictor(j.place)
    together = predictor.predict(rows.ints, rows.floats, rows.domain)
    assert np.abs(together - np.array([record["probe"][i] for i in ids])).max() < 1e-5
    order = np.random.default_rng(0).permutation(len(ids))
    shuffled = predictor.predict(rows.ints[order], rows.floats[order], rows.domain[order])
    assert np.abs(shuffled - together[order]).max() < 1e-5
    assert np.isfinite(predictor.predict(rows.ints, rows.floats, np.zeros_like(rows.domain))).all()


def test_mixed_batches_hold_all_domains_in_proportion_and_every_row_once(table: str, tmp_path: Path) -> None:
    trainer = Trainer(job(table, tmp_path, batches="mixed").model_copy(update={"model": ModelSettings(norm="bn")}))
    batches = list(epoch_batches(trainer.files, LAYOUT, 100, 10_000, 0, 0, mixed=True))
    assert [len(b.rows) for b in batches] == [100] * 8 + [51]
    domains = np.concatenate([b.rows.domain for b in batches])
    assert {LAYOUT.domains[p - 1]: int(n) for p, n in zip(*np.unique(domains, return_counts=True), strict=True)} == ROWS
    assert all((np.diff(b.rows.domain) >= 0).all() for b in batches)
    assert all(5 < (b.rows.domain == 2).sum() < 35 for b in batches[:-1])  # 150 of 851, so some 18 of 100


def test_a_step_of_shared_bottom_leaves_other_domains_networks_untouched(table: str, tmp_path: Path) -> None:
    j = job(table, tmp_path, weight_decay=0.1)
    trainer = Trainer(j.model_copy(update={"model": j.model.model_copy(update={"name": "shared_bottom"})}))
    batches = list(epoch_batches(trainer.files, LAYOUT, 64, 200, 0, 0))
    for batch in batches[:6]:
        trainer.train_step(batch)

    def own(p: int) -> list[torch.Tensor]:
        return [
            t.detach().clone() for n, t in trainer.model.named_parameters() if n.endswith((f"weight.{p}", f"bias.{p}"))
        ]

    before = {p: own(p) for p in range(4)}
    trainer.train_step(next(b for b in batches[6:] if b.domain == 1))
    for p in range(4):
        same = [torch.equal(a, b) for a, b in zip(before[p], own(p), strict=True)]
        assert len(same) == 6
        assert all(same) == (p != 1)


def test_the_model_is_the_same_in_any_batch_in_evaluation(table: str) -> None:
    for name in ALL:
        model = MultiDomainModel(LAYOUT, ModelSettings(name=name, layers=[8], dim=4)).eval()  # type: ignore[arg-type]
        ints = torch.randint(0, 30, (9, LAYOUT.ints), dtype=torch.int32) % 5
        floats, domains = torch.randn(9, LAYOUT.floats), torch.tensor([1, 2, 3, 1, 2, 3, 1, 2, 0])
        whole = model.predict(ints, floats, domains)
        alone = torch.cat([model.predict(ints[i : i + 1], floats[i : i + 1], domains[i : i + 1]) for i in range(9)])
        torch.testing.assert_close(whole, alone, atol=1e-6, rtol=0)
    assert segments_of(np.array([], dtype=np.int32)) == []


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_every_rank_keeps_every_segment_and_holds_its_rows_of_it(ranks: int) -> None:
    domains = np.array([0, 0, 0, 0, 2, 5, 5], dtype=np.int32)
    for rank in range(ranks):
        mine = cut_over_ranks(segments_of(domains), rank, ranks)
        assert [p for p, _, _ in mine] == [0, 2, 5]
        held = domains[rank::ranks]
        assert [p for p, start, stop in mine for _ in held[start:stop]] == held.tolist()
        assert mine[-1][2] == len(held)


@pytest.mark.parametrize("pooling", ["din", "dien"])
def test_attention_to_the_candidate_trains_and_its_export_scores_as_it_does(
    table: str, tmp_path: Path, pooling: str
) -> None:
    j = job(table, tmp_path)
    j = j.model_copy(update={"model": j.model.model_copy(update={"pooling": pooling})})
    trainer = Trainer(j)
    before = {n: p.clone() for n, p in trainer.model.inputs.pooling.named_parameters()}
    trainer.train()
    still = [n for n, p in trainer.model.inputs.pooling.named_parameters() if torch.equal(p, before[n])]
    assert not still
    record = train(j)
    ids, rows = probe_rows(live_files(table, j.versions["split"], j.ds, "test", LAYOUT), LAYOUT, 200)
    scores = Predictor(j.place).predict(rows.ints, rows.floats, rows.domain)
    assert np.abs(scores - np.array([record["probe"][i] for i in ids])).max() < 1e-5
    alone = [
        Predictor(j.place).predict(*(a[k : k + 1] for a in (rows.ints, rows.floats, rows.domain))) for k in range(5)
    ]
    assert np.abs(np.concatenate(alone) - scores[:5]).max() < 1e-5
