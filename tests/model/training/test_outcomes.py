"""Further outcomes (`label.also`): their loss, heads, calibration and export; outcomes that are not known change nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.model.data.batches import iter_epoch
from star_ctr.model.data.reader import Rows, concat_rows, list_live_files, read_files
from star_ctr.model.parity_sample import read_sample
from star_ctr.model.predictor import Predictor
from star_ctr.model.training.callbacks import Callback, CallbackEvent
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.outcome_loss import OutcomeLoss
from star_ctr.model.training.run import train
from star_ctr.model.training.trainer import Trainer
from tests.model.processes import Processes
from tests.model.synthetic import (
    ALL,
    LAYOUT,
    assert_same_weights,
    job,
    record,
    version_of,
    without_dropout,
    write_split,
)

ROWS = {"a": 1500, "b": 500, "c": 40}
OUTCOMES = LAYOUT.model_copy(update={"outcomes": ["late", "view"]})
WEIGHTS = {"late": 0.5, "view": 0.3}
NAN = float("nan")


def draw_outcomes(label: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Draw `late`, which only clicked rows have and which is unknown in half of the rows, and `view`, which falls with x."""
    random = np.random.default_rng(len(label))
    late = label * (random.random(len(label)) < 0.5)
    late[random.random(len(label)) < 0.5] = NAN
    return np.column_stack([late, random.random(len(label)) < 1 / (1 + np.exp(2 * x - 1))])


class _StoppedError(Exception):
    pass


class _Stop(Callback):
    def step(self, event: CallbackEvent) -> None:
        if event.step == 25:
            raise _StoppedError


def draw_nothing(label: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.full((len(label), 2), NAN)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("outcomes")
    write_split(folder, {"a": 400, "b": 200}, part="test", draw_outcomes=draw_outcomes)
    return write_split(folder, ROWS, draw_outcomes=draw_outcomes)


def make_job(
    table: str, folder: Path, weights: dict[str, float] = WEIGHTS, layout: Layout = OUTCOMES, **trainer: object
) -> TrainingJob:
    update = {"layout": layout, "outcome_weights": weights}
    return without_dropout(table, folder, lr=0.01, **trainer).model_copy(update=update)


def read_part(j: TrainingJob, part: str) -> Rows:
    partitions = j.train_partitions if part == "train" else j.test_partitions
    files = list_live_files(j.split, j.versions["split"], partitions, j.layout)
    return concat_rows(list(read_files(files, j.layout)))


def get_weights(j: TrainingJob) -> dict[str, torch.Tensor]:
    return {name: t for name, t in Predictor(j.path).model.state_dict().items() if not name.startswith("heads.")}


def test_the_loss_equals_a_weighted_cross_entropy_over_known_outcomes() -> None:
    random = np.random.default_rng(1)
    logit, label = random.normal(size=(50, 2)), (random.random(50) < 0.4).astype(np.float64)
    outcome = np.where(random.random((50, 2)) < 0.3, NAN, random.random((50, 2)) < 0.5)
    weight, rates = random.gamma(1, size=50), {0: 1.0, 1: 0.1, 2: 0.5, 3: 1.0}
    segments = [(1, 0, 20), (2, 20, 45), (3, 45, 50)]
    loss = OutcomeLoss({"view": 0.3, "late": 0.5}, OUTCOMES, rates)
    tensors = [torch.tensor(a, dtype=torch.float32) for a in (logit, outcome, label, weight)]
    expected = 0.0
    for p, start, stop in segments:
        for row in range(start, stop):
            for k, share in enumerate((0.5, 0.3)):  # in the order of the layout: late, view
                if not np.isnan(outcome[row, k]):
                    q = 1 / (1 + np.exp(-logit[row, k]))
                    cross_entropy = -np.log(q if outcome[row, k] else 1 - q)
                    expected += share * weight[row] * (1 if label[row] else 1 / rates[p]) * cross_entropy
    assert float(loss(*tensors, segments)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_every_model_learns_outcomes_and_predicts_them_calibrated(name: str, split: str, tmp_path: Path) -> None:
    j = make_job(split, tmp_path)
    j = j.model_copy(update={"model": j.model.model_copy(update={"name": name})})
    train(j)
    predictor, rows = Predictor(j.path), read_part(j, "train")
    assert predictor.outcomes == ["late", "view"]
    assert rows.outcomes is not None
    score, outcomes = predictor.predict_all(rows.ints, rows.floats, rows.domain)
    assert np.array_equal(score, predictor.predict(rows.ints, rows.floats, rows.domain))
    for k in range(2):
        known = ~np.isnan(rows.outcomes[:, k])
        assert roc_auc_score(rows.outcomes[known, k], outcomes[known, k]) > 0.6
        for p in (1, 2):
            mine = known & (rows.domain == p)
            assert outcomes[mine, k].sum() == pytest.approx(rows.outcomes[mine, k].sum(), abs=1.5)
    test = read_part(j, "test")
    assert test.outcomes is not None
    _, held_out = predictor.predict_all(test.ints, test.floats, test.domain)
    assert roc_auc_score(test.outcomes[:, 1], held_out[:, 1]) > 0.7


def test_outcomes_that_are_not_known_leave_the_label_unchanged_to_the_bit(tmp_path: Path) -> None:
    table = write_split(tmp_path, ROWS, draw_outcomes=draw_nothing)
    alone, unknown = make_job(table, tmp_path / "alone", {}), make_job(table, tmp_path / "unknown")
    for j in (alone, unknown):
        train(j)
    found, expected = get_weights(unknown), get_weights(alone)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name
    assert Predictor(alone.path).outcomes == []
    assert not any(n.startswith("heads.") for n in Predictor(alone.path).model.state_dict())


def test_a_domain_without_known_outcomes_keeps_its_initial_head(tmp_path: Path) -> None:
    write_split(tmp_path, {"a": 300}, draw_outcomes=draw_outcomes)
    table = write_split(tmp_path, {"b": 300}, draw_outcomes=draw_nothing)
    trainer = Trainer(make_job(table, tmp_path / "run", weight_decay=0.0))
    trainer.train()
    assert trainer.model.heads is not None
    heads = trainer.model.heads.state_dict()
    assert torch.equal(heads["weight_p.2"], torch.ones_like(heads["weight_p.2"]))
    assert torch.equal(heads["bias_p.2"], torch.zeros(2))
    assert not torch.equal(heads["weight_p.1"], torch.ones_like(heads["weight_p.1"]))


def test_downsampled_negatives_do_not_change_the_rates_of_outcomes(split: str, tmp_path: Path) -> None:
    j = make_job(split, tmp_path, negatives=0.3, epochs=8)
    # Without calibration, the rates come from the loss alone.
    trainer = j.trainer.model_copy(
        update={"calibration": j.trainer.calibration.model_copy(update={"output_biases": False})}
    )
    j = j.model_copy(update={"trainer": trainer})
    train(j)
    rows = read_part(j, "train")
    assert rows.outcomes is not None
    _, outcomes = Predictor(j.path).predict_all(rows.ints, rows.floats, rows.domain)
    for k in range(2):
        known = (rows.domain == 1) & ~np.isnan(rows.outcomes[:, k])
        # Uncorrected, the rate of `late` would be about twice as high.
        assert outcomes[known, k].mean() == pytest.approx(rows.outcomes[known, k].mean(), rel=0.2)


def test_an_epoch_that_starts_in_the_middle_has_the_same_outcomes(split: str, tmp_path: Path) -> None:
    j = make_job(split, tmp_path)
    files = Trainer(j).files
    whole, rest = (list(iter_epoch(files, OUTCOMES, 64, 200, 0, 0, start=start)) for start in (0, 11))
    for one, other in zip(whole[11:], rest, strict=True):
        assert one.rows.outcomes is not None
        np.testing.assert_array_equal(one.rows.outcomes, other.rows.outcomes)
        np.testing.assert_array_equal(one.rows.label, other.rows.label)
    drawn = np.concatenate([np.column_stack([b.rows.label, b.rows.outcomes]) for b in whole])
    stored = read_part(j, "train")
    expected = np.column_stack([stored.label, stored.outcomes])
    np.testing.assert_array_equal(np.sort(np.nan_to_num(drawn, nan=2), 0), np.sort(np.nan_to_num(expected, nan=2), 0))


def test_the_record_has_the_samples_and_the_exported_model_agrees(split: str, tmp_path: Path) -> None:
    j = make_job(split, tmp_path)
    train(j)
    found = record(j)
    assert found["sample_outcome_scores"].keys() == {"late", "view"}
    assert found["outcome_bias_shifts"]["view"].keys() == {"a", "b", "c", "other"}
    files = list_live_files(j.split, j.versions["split"], j.test_partitions, j.layout)
    ids, rows = read_sample(files, j.layout, 200)
    _, outcomes = Predictor(j.path).predict_all(rows.ints, rows.floats, rows.domain)
    for k, name in enumerate(j.layout.outcomes):
        sample = found["sample_outcome_scores"][name]
        assert set(sample) == set(ids) == set(found["sample_scores"])
        np.testing.assert_allclose(outcomes[:, k], [sample[i] for i in ids], atol=1e-5)


def test_two_processes_train_the_same_heads_as_one(split: str, tmp_path: Path) -> None:
    one, two = make_job(split, tmp_path / "one"), make_job(split, tmp_path / "two", processes=2)
    processes = Processes(tmp_path, 2)
    try:
        processes.train(two)
    finally:
        processes.close()
    train(one)
    assert_same_weights(one, two)


def test_a_killed_run_continues_with_the_same_bits(split: str, tmp_path: Path) -> None:
    whole, resumed = make_job(split, tmp_path / "whole"), make_job(split, tmp_path / "resumed")
    train(whole)
    with pytest.raises(_StoppedError):
        train(resumed, [_Stop()])
    train(resumed)
    assert record(resumed)["resumed"]
    a, b = (Predictor(j.path).model.state_dict() for j in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_without_outcomes_the_identity_of_a_job_is_unchanged(split: str, tmp_path: Path) -> None:
    plain = job(split, tmp_path)
    assert "outcome_weights" not in plain.identity()
    assert "outcomes" not in plain.layout.model_dump(mode="json")
    assert plain.fingerprint() != make_job(split, tmp_path).fingerprint()
    assert version_of(split) == plain.versions["split"]
