"""Vectors in the model: their place in z, their projection, export, warm start, and a signal that only they contain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from deltalake import write_deltalake
from sklearn.metrics import roc_auc_score

from star_ctr.conf.contracts.encoded_row import VectorField
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.features.encoding.row_encoder import pack_rows
from star_ctr.model.data.reader import Rows, list_live_files, read_files
from star_ctr.model.embeddings.shared_inputs import SharedInputs
from star_ctr.model.models.multi_domain import MultiDomainModel
from star_ctr.model.parity_sample import read_sample
from star_ctr.model.predictor import Predictor
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.run import train
from star_ctr.model.training.trainer import Trainer
from tests.model.synthetic import ALL, LAYOUT, job

LONG = VectorField(name="items", column="v", length=40, dim=5, mean=[0.0] * 40, scale=1.0)
SHORT = VectorField(name="short", column="w", length=3, dim=3, mean=[0.0] * 3, scale=1.0)
WITH_VECTORS = LAYOUT.model_copy(update={"vectors": [LONG, SHORT]})
ROWS = {"a": 2400, "b": 1200}


SPREAD = np.r_[np.full(10, 2.0), np.full(30, 0.5)]
DIRECTION = np.r_[np.zeros(10), np.random.default_rng(1).normal(size=30)]
"""Labels depend on this direction, in which vectors vary little."""


def compute_logits(vectors: np.ndarray) -> np.ndarray:
    return 1.5 * vectors @ DIRECTION / np.linalg.norm(DIRECTION * SPREAD) - 0.5


def write_table(path: str, with_vectors: bool) -> str:
    """Write a split whose labels depend only on the long vector; the rows are the same without vectors."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for domain, n in ROWS.items():
            number = LAYOUT.domain_index.get_number(domain)
            x = rng.normal(size=(n, 40)) * SPREAD
            x[rng.random(n) < 0.1] = 0
            floats = np.column_stack([rng.normal(size=n), x, rng.normal(size=(n, 3))]).astype(np.float32)
            ids = rng.integers(2, 30, (n, LAYOUT.int_count))
            ids[:, 2] = 4
            data = pa.table(
                {
                    "impression_id": [f"{part}-{domain}-{k}" for k in range(n)],
                    "user_id": [f"u{u}" for u in ids[:, 0]],
                    "day": ["2026-01-01"] * n,
                    "label": pa.array((rng.random(n) < 1 / (1 + np.exp(-compute_logits(x)))).astype(np.float32)),
                    "label_final": [True] * n,
                    "domain_id": pa.array([number] * n, pa.int32()),
                    "ints": pack_rows(ids.astype(np.int32)),
                    "floats": pack_rows(floats if with_vectors else floats[:, :1]),
                    "ds": [LAYOUT.ds] * n,
                    "part": [part] * n,
                    "domain": [domain] * n,
                    "domain_number": pa.array([number] * n, pa.int32()),
                }
            )
            write_deltalake(path, data, mode="append", partition_by=["ds", "part", "domain_number"])
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_table(str(tmp_path_factory.mktemp("vectors") / "split"), with_vectors=True)


def make_job(table: str, folder: Path, **trainer: object) -> TrainingJob:
    return job(table, folder, epochs=6, lr=0.01, **trainer).model_copy(update={"layout": WITH_VECTORS})


def read_test_rows(j: TrainingJob) -> Rows:
    parts = list(read_files(list_live_files(j.split, j.versions["split"], j.test_partitions, j.layout), j.layout))
    return Rows(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("ints", "floats", "label", "domain")))


def measure_auc(j: TrainingJob) -> float:
    rows = read_test_rows(j)
    return float(roc_auc_score(rows.label, Predictor(j.path).predict(rows.ints, rows.floats, rows.domain)))


def test_z_ends_with_numbers_and_vectors() -> None:
    torch.manual_seed(0)
    inputs = SharedInputs(WITH_VECTORS, ModelSettings(dim=4))
    ints, floats = torch.ones((2, LAYOUT.int_count), dtype=torch.int32), torch.randn(2, 44)
    floats[1, 1:41] = 0
    z = inputs(ints, floats)
    assert z.shape == (2, inputs.features) == (2, SharedInputs(LAYOUT, ModelSettings(dim=4)).features + 5 + 3)
    (weight,) = inputs.projections.parameters()
    assert weight.shape == (5, 40)
    expected = np.hstack([floats[:, :1], floats[:, 1:41] @ weight.detach().T, floats[:, 41:]])
    np.testing.assert_allclose(z[:, -9:].detach(), expected, atol=1e-6)
    assert not z[1, -8:-3].any(), "a missing vector stays zeros"


def test_other_weights_start_alike_without_vectors() -> None:
    torch.manual_seed(0)
    plain = SharedInputs(LAYOUT, ModelSettings(dim=4)).state_dict()
    torch.manual_seed(0)
    assert all(torch.equal(plain[n], t) for n, t in SharedInputs(WITH_VECTORS, ModelSettings(dim=4)).state_dict().items() if n in plain)  # fmt: skip
    assert not [name for name in plain if "projections" in name]


def test_a_signal_in_vectors_is_learned_and_the_export_has_the_same_scores(table: str, tmp_path: Path) -> None:
    j = make_job(table, tmp_path / "with")
    record = train(j)
    ids, rows = read_sample(list_live_files(table, j.versions["split"], j.test_partitions, j.layout), j.layout, 200)
    scores = Predictor(j.path).predict(rows.ints, rows.floats, rows.domain)
    assert np.abs(scores - np.array([record["sample_scores"][i] for i in ids])).max() < 1e-5
    test = read_test_rows(j)
    best = roc_auc_score(test.label, compute_logits(test.floats[:, 1:41]))
    without = make_job(write_table(str(tmp_path / "plain"), with_vectors=False), tmp_path / "without")
    without = without.model_copy(update={"layout": LAYOUT})
    train(without)
    assert np.array_equal(read_test_rows(without).label, test.label)
    assert best > 0.75
    assert measure_auc(j) > best - 0.03
    assert measure_auc(without) < 0.55


@pytest.mark.parametrize("name", ALL)
def test_all_models_have_vectors_and_scores_do_not_depend_on_the_batch(name: str) -> None:
    model = MultiDomainModel(WITH_VECTORS, ModelSettings(name=name, layers=[8], dim=4)).eval()  # type: ignore[arg-type]
    ints = torch.randint(0, 30, (6, LAYOUT.int_count), dtype=torch.int32) % 5
    floats, domains = torch.randn(6, WITH_VECTORS.float_count), torch.tensor([1, 2, 3, 1, 2, 0])
    whole = model.predict(ints, floats, domains)
    alone = torch.cat([model.predict(ints[i : i + 1], floats[i : i + 1], domains[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(whole, alone, atol=1e-6, rtol=0)
    changed = floats.clone()
    changed[:, 1:41] += 1
    assert (model.predict(ints, changed, domains) != whole).all()


def test_a_step_of_one_domain_trains_the_projection(table: str, tmp_path: Path) -> None:
    trainer = Trainer(make_job(table, tmp_path))
    (weight,) = trainer.model.inputs.projections.parameters()
    before = weight.detach().clone()
    trainer.train()
    assert not torch.equal(before, weight)
