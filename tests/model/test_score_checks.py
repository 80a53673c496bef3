"""Non-finite scores and weights are not sampled, exported or loaded, and models of other versions are not loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from star_ctr.conf.contracts.catalog import WEIGHTS_FILE
from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model import export, offline, score_checks
from star_ctr.model.layers.calibration_map import CalibrationMap
from star_ctr.model.models.multi_domain import MultiDomainModel
from star_ctr.model.predictor import Predictor
from star_ctr.model.tensor_files import read_metadata
from star_ctr.model.training import run
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.output_biases import _solve_bias
from star_ctr.model.training.trainer import Trainer
from tests.model.synthetic import LAYOUT, job, write_split

NAN = float("nan")
SETTINGS = ModelSettings(layers=[4, 3], dropout=0.0)


def short_job(folder: Path) -> TrainingJob:
    return job(str(folder / "split"), folder / "run", epochs=1)


def test_invalid_scores_are_counted_by_domain() -> None:
    scores = np.array([0.0, 1.0, NAN, np.inf, -1e-9, 1.1])
    score_checks.check_score_array(scores[:2], ["a", "b"], "here")
    with pytest.raises(DataError, match=r"here: 4 of 6 rows have a score .* \(b: 3, a: 1\)"):
        score_checks.check_score_array(scores, ["a", "a", "b", "b", "a", "b"], "here")
    assert score_checks.is_within_tolerance(1e-5)
    assert not any(map(score_checks.is_within_tolerance, (1.1e-5, NAN, np.inf)))


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
def test_non_finite_weights_are_neither_written_nor_read(tmp_path: Path, value: float) -> None:
    model = MultiDomainModel(LAYOUT, SETTINGS).eval()
    export.export(model, SETTINGS, LAYOUT, tmp_path / "good")
    before = (tmp_path / "good" / WEIGHTS_FILE).read_bytes()
    with torch.no_grad():
        model.output_bias(2).fill_(value)
    with pytest.raises(DataError, match=r"good: the trained model is not exported: non-finite weights in .*\(1 of"):
        export.export(model, SETTINGS, LAYOUT, tmp_path / "good")
    assert (tmp_path / "good" / WEIGHTS_FILE).read_bytes() == before
    Predictor(tmp_path / "good")
    tensors = load_file(str(tmp_path / "good" / WEIGHTS_FILE))
    name = next(n for n, t in tensors.items() if t.is_floating_point() and t.numel() > 1)
    tensors[name].view(-1)[1] = value
    save_file(tensors, str(tmp_path / "good" / WEIGHTS_FILE), metadata={"model": SETTINGS.model_dump_json()})
    with pytest.raises(DataError, match=rf"{WEIGHTS_FILE}: non-finite weights in {name} \(1 of"):
        Predictor(tmp_path / "good")


def test_a_model_of_another_version_is_an_error(tmp_path: Path) -> None:
    export.export(MultiDomainModel(LAYOUT, SETTINGS).eval(), SETTINGS, LAYOUT, tmp_path)
    tensors = load_file(str(tmp_path / WEIGHTS_FILE))
    tensors["another.weight"] = torch.zeros(1)
    save_file(tensors, str(tmp_path / WEIGHTS_FILE), metadata={"model": SETTINGS.model_dump_json()})
    with pytest.raises(DataError, match=rf"{WEIGHTS_FILE}: its tensors do not match .* another version of star-ctr"):
        Predictor(tmp_path)


def test_a_calibration_map_with_its_earlier_name_is_loaded(tmp_path: Path) -> None:
    model = MultiDomainModel(LAYOUT, SETTINGS).eval()
    model.calibration_map = CalibrationMap.from_maps([([0.0], [0.7], [0.0, 0.0])] * model.domains)
    export.export(model, SETTINGS, LAYOUT, tmp_path)
    rows = (
        np.zeros((3, LAYOUT.int_count), np.int32),
        np.zeros((3, LAYOUT.float_count), np.float32),
        np.ones(3, np.int32),
    )
    expected = Predictor(tmp_path).predict(*rows)
    metadata = read_metadata(tmp_path / WEIGHTS_FILE)
    tensors = load_file(str(tmp_path / WEIGHTS_FILE))
    renamed = {name.replace("calibration_map.", "score_map."): tensor for name, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, str(tmp_path / WEIGHTS_FILE), metadata=metadata)
    assert np.array_equal(Predictor(tmp_path).predict(*rows), expected)
    with pytest.raises(ValueError, match="3 rows of integers, 3 of numbers and 2 domains"):
        Predictor(tmp_path).predict(rows[0], rows[1], rows[2][:2])


def test_non_finite_running_statistics_are_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_split(tmp_path)
    finish = Trainer.finish

    def finish_with_nan(trainer: Trainer) -> object:
        found = finish(trainer)
        trainer.model.norm.var[1, 0] = NAN  # type: ignore[index,union-attr]
        return found

    monkeypatch.setattr(Trainer, "finish", finish_with_nan)
    training = short_job(tmp_path)
    with pytest.raises(DataError, match="not exported: non-finite weights in norm"):
        run.train(training)
    assert not (training.path / "result.json").exists()


def test_non_finite_logits_fail_the_calibration() -> None:
    logits, label, weight = torch.zeros(10), torch.ones(10), torch.ones(10)
    assert _solve_bias(logits.double(), label.double(), weight.double()) > 0
    logits[3:5] = NAN
    with pytest.raises(DataError, match="2 of 10 training rows have a non-finite logit"):
        _solve_bias(logits.double(), label.double(), weight.double())


def test_a_nan_score_of_the_exported_model_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_split(tmp_path)
    write_split(tmp_path, {"a": 30, "b": 20}, part="test")
    training = short_job(tmp_path)
    predict = Predictor.predict

    def predict_with_nan(self: Predictor, *args: np.ndarray) -> np.ndarray:
        scores = predict(self, *args)
        scores[-1] = NAN
        return scores

    monkeypatch.setattr(Predictor, "predict", predict_with_nan)
    with pytest.raises(DataError, match=r"the exported model: 6 of 50 rows have a score .*\(a: 3, b: 3\)"):
        offline.train_and_score(training)
    assert not (training.path / offline.SCORES).exists()
    monkeypatch.setattr(Predictor, "predict", predict)
    offline.train_and_score(training)
    assert (training.path / offline.SCORES).exists()


def test_a_job_without_test_rows_samples_training_rows(tmp_path: Path) -> None:
    write_split(tmp_path)
    record = run.train(short_job(tmp_path))
    assert {i.rpartition("-")[0].rpartition("-")[0] for i in record["sample_scores"]} == {
        "train-a",
        "train-b",
        "train-c",
    }
    model, rows = Predictor(short_job(tmp_path).path), record["sample_scores"]
    assert all(0 < score < 1 for score in rows.values())
    assert model.layout.domains == ["a", "b", "c"]
