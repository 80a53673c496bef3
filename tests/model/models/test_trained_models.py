"""Training of every model: it uses all rows, and the exported model computes the same scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.data.batches import iter_epoch
from star_ctr.model.data.reader import list_live_files
from star_ctr.model.models.multi_domain import MultiDomainModel
from star_ctr.model.parity_sample import read_sample
from star_ctr.model.predictor import Predictor
from star_ctr.model.training.run import train
from star_ctr.model.training.trainer import Trainer
from tests.model.synthetic import ALL, LAYOUT, ROWS, job


@pytest.mark.parametrize(
    ("name", "norm", "batches"),
    [(n, "pn", "single_domain") for n in ALL[1:]]
    + [("base", "bn", "mixed"), ("star", "bn", "mixed"), ("star", "ln", "mixed"), ("star", "bn", "single_domain")]
    + [("mulann", "bn", "mixed"), ("mmoe", "bn", "mixed"), ("cross_stitch", "ln", "single_domain")],
)
def test_every_model_trains_and_its_export_has_the_same_scores(
    table: str, tmp_path: Path, name: str, norm: str, batches: str
) -> None:
    j = job(table, tmp_path, batches=batches, epochs=2)
    j = j.model_copy(update={"model": j.model.model_copy(update={"name": name, "norm": norm})})
    record = train(j)
    assert record["rows"] == {d: 2 * n for d, n in ROWS.items()}
    ids, rows = read_sample(list_live_files(table, j.versions["split"], j.test_partitions, LAYOUT), LAYOUT, 200)
    predictor = Predictor(j.path)
    together = predictor.predict(rows.ints, rows.floats, rows.domain)
    assert np.abs(together - np.array([record["sample_scores"][i] for i in ids])).max() < 1e-5
    order = np.random.default_rng(0).permutation(len(ids))
    shuffled = predictor.predict(rows.ints[order], rows.floats[order], rows.domain[order])
    assert np.abs(shuffled - together[order]).max() < 1e-5
    assert np.isfinite(predictor.predict(rows.ints, rows.floats, np.zeros_like(rows.domain))).all()


def test_mixed_batches_have_all_domains_in_proportion_and_every_row_once(table: str, tmp_path: Path) -> None:
    trainer = Trainer(job(table, tmp_path, batches="mixed").model_copy(update={"model": ModelSettings(norm="bn")}))
    batches = list(iter_epoch(trainer.files, LAYOUT, 100, 10_000, 0, 0, mixed=True))
    assert [len(b.rows) for b in batches] == [100] * 8 + [51]
    domains = np.concatenate([b.rows.domain for b in batches])
    assert {LAYOUT.domains[p - 1]: int(n) for p, n in zip(*np.unique(domains, return_counts=True), strict=True)} == ROWS
    assert all((np.diff(b.rows.domain) >= 0).all() for b in batches)
    assert all(5 < (b.rows.domain == 2).sum() < 35 for b in batches[:-1])  # 150 of 851, so about 18 of 100


def test_a_step_of_shared_bottom_does_not_change_the_networks_of_other_domains(table: str, tmp_path: Path) -> None:
    j = job(table, tmp_path, weight_decay=0.1)
    trainer = Trainer(j.model_copy(update={"model": j.model.model_copy(update={"name": "shared_bottom"})}))
    batches = list(iter_epoch(trainer.files, LAYOUT, 64, 200, 0, 0))
    for batch in batches[:6]:
        trainer.train_step([batch])

    def copy_weights(p: int) -> list[torch.Tensor]:
        return [
            t.detach().clone() for n, t in trainer.model.named_parameters() if n.endswith((f"weight.{p}", f"bias.{p}"))
        ]

    before = {p: copy_weights(p) for p in range(4)}
    trainer.train_step([next(b for b in batches[6:] if b.domain == 1)])
    for p in range(4):
        same = [torch.equal(a, b) for a, b in zip(before[p], copy_weights(p), strict=True)]
        assert len(same) == 6
        assert all(same) == (p != 1)


def test_scores_in_evaluation_do_not_depend_on_the_batch(table: str) -> None:
    for name in ALL:
        model = MultiDomainModel(LAYOUT, ModelSettings(name=name, layers=[8], dim=4)).eval()  # type: ignore[arg-type]
        ints = torch.randint(0, 30, (9, LAYOUT.int_count), dtype=torch.int32) % 5
        floats, domains = torch.randn(9, LAYOUT.float_count), torch.tensor([1, 2, 3, 1, 2, 3, 1, 2, 0])
        whole = model.predict(ints, floats, domains)
        alone = torch.cat([model.predict(ints[i : i + 1], floats[i : i + 1], domains[i : i + 1]) for i in range(9)])
        torch.testing.assert_close(whole, alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("pooling", ["din", "dien"])
def test_attention_pooling_trains_and_its_export_has_the_same_scores(table: str, tmp_path: Path, pooling: str) -> None:
    j = job(table, tmp_path)
    j = j.model_copy(update={"model": j.model.model_copy(update={"pooling": pooling})})
    trainer = Trainer(j)
    before = {n: p.clone() for n, p in trainer.model.inputs.pooling.named_parameters()}
    trainer.train()
    unchanged = [n for n, p in trainer.model.inputs.pooling.named_parameters() if torch.equal(p, before[n])]
    assert not unchanged
    record = train(j)
    ids, rows = read_sample(list_live_files(table, j.versions["split"], j.test_partitions, LAYOUT), LAYOUT, 200)
    scores = Predictor(j.path).predict(rows.ints, rows.floats, rows.domain)
    assert np.abs(scores - np.array([record["sample_scores"][i] for i in ids])).max() < 1e-5
    alone = [
        Predictor(j.path).predict(*(a[k : k + 1] for a in (rows.ints, rows.floats, rows.domain))) for k in range(5)
    ]
    assert np.abs(np.concatenate(alone) - scores[:5]).max() < 1e-5
