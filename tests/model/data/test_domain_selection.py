"""Training on some of the domains: which rows are used, the identity of the run, and scores of the other domains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file

from star_ctr.conf.errors import DataError, UserError
from star_ctr.conf.load import load
from star_ctr.conf.settings.trainer import DataSettings
from star_ctr.model.data.batches import iter_epoch
from star_ctr.model.data.reader import concat_rows, list_live_files, read_files
from star_ctr.model.predictor import Predictor
from star_ctr.model.training.run import train
from star_ctr.model.training.trainer import Trainer
from tests.model.processes import Processes
from tests.model.synthetic import ALL, EPOCHS, ROWS, assert_same_weights, job, record, without_dropout, write_split

WITHOUT_B = {"exclude_domains": ["b"]}


def test_each_selected_row_is_read_once_an_epoch_and_no_other_row(table: str, tmp_path: Path) -> None:
    everything = job(table, tmp_path)
    layout = everything.layout
    files = list_live_files(table, everything.versions["split"], everything.train_partitions, layout)
    assert len(files) == 7, "several files per domain"
    rows = concat_rows(list(read_files(files, layout)))
    for more, numbers in (
        ({"domains": ["b"]}, [2]),
        ({"domains": ["a", "c"]}, [1, 3]),
        ({"exclude_domains": ["a"]}, [2, 3]),
        (WITHOUT_B, [1, 3]),
        ({}, [1, 2, 3]),
    ):
        trainer = Trainer(job(table, tmp_path, **more))
        for mixed in (False, True):
            batches = list(iter_epoch(trainer.files, layout, 64, 200, seed=0, epoch=0, mixed=mixed))
            read = sorted(row.tobytes() for batch in batches for row in batch.rows.floats)
            assert read == sorted(row.tobytes() for row in rows.floats[np.isin(rows.domain, numbers)])


def test_the_record_counts_trained_and_excluded_rows(table: str, tmp_path: Path) -> None:
    found = train(job(table, tmp_path, epochs=2, negatives=0.5, **WITHOUT_B))
    assert found["excluded"] == {"b": ROWS["b"]}
    assert set(found["left_out"]) <= {"a", "c"}
    assert {d: found["rows"].get(d, 0) // 2 + found["left_out"].get(d, 0) for d in ("a", "c")} == {"a": 700, "c": 1}
    assert set(found["statistics_rows"]) == {"a", "c"}


def test_a_model_does_not_depend_on_the_rows_of_an_excluded_domain(tmp_path: Path) -> None:
    weights = []
    for name, rows in (("one", {"a": 700, "b": 150}), ("other", {"a": 700, "b": 40})):
        table = write_split(tmp_path / name, rows)
        write_split(tmp_path / name, {"a": 60}, part="test")
        j = job(table, tmp_path / name / "run", **WITHOUT_B)
        train(j)
        weights.append(load_file(j.path / "model.safetensors"))
    for name, values in weights[0].items():
        np.testing.assert_array_equal(values, weights[1][name], err_msg=name)


def test_the_selection_is_part_of_the_identity(table: str, tmp_path: Path) -> None:
    jobs = [job(table, tmp_path, **more) for more in ({}, {"domains": ["a"]}, {"domains": ["b"]}, WITHOUT_B)]
    assert len({j.fingerprint() for j in jobs}) == 4
    every, subset = load("demo"), load("demo", ["trainer.data.exclude_domains=[d14]"])
    from star_ctr.conf.contracts.run_id import hash_split_settings, make_run_id

    assert hash_split_settings(every) == hash_split_settings(subset)
    ids = [make_run_id(s, "2026-01-08") for s in (every, subset)]
    assert ids[0].startswith("2026-01-08-star-pn-aux-s0-")
    assert ids[1].startswith("2026-01-08-star-pn-aux-subset-s0-")


@pytest.mark.parametrize("name", ALL)
def test_rows_of_an_excluded_domain_are_scored_like_those_of_unknown_domains(
    table: str, tmp_path: Path, name: str
) -> None:
    mixed = {} if name == "star" else {"batches": "mixed"}
    j = job(table, tmp_path, **WITHOUT_B, **mixed)
    model = {"name": name, "norm": "pn" if name == "star" else "bn"}
    j = j.model_copy(update={"model": j.model.model_copy(update=model)})
    train(j)
    files = list_live_files(table, j.versions["split"], j.test_partitions, j.layout)
    test = concat_rows(list(read_files(files, j.layout)))
    ints, floats = test.ints, test.floats
    scores = {p: Predictor(j.path).predict(ints, floats, np.full(len(test), p, np.int32)) for p in (0, 1, 2)}
    np.testing.assert_allclose(scores[2], scores[0], rtol=0, atol=1e-6)
    if name != "base":
        assert np.abs(scores[1] - scores[0]).max() > 1e-4


def test_two_processes_train_the_same_model_as_one(table: str, tmp_path: Path, pair: Processes) -> None:
    one, two = (without_dropout(table, tmp_path / name, domains=["a", "c"]) for name in ("one", "two"))
    train(one)
    pair.train(two)
    assert_same_weights(one, two)
    assert record(two)["rows"] == {"a": EPOCHS * 700, "c": EPOCHS}
    assert record(two)["excluded"] == {"b": ROWS["b"]}


@pytest.mark.parametrize("key", ["domains", "exclude_domains"])
def test_an_unknown_domain_is_an_error_that_names_the_nearest(table: str, tmp_path: Path, key: str) -> None:
    with pytest.raises(UserError, match=rf"trainer.data.{key}: .* domain `bb`; did you mean `b`\?"):
        Trainer(job(table, tmp_path, **{key: ["a", "bb"]}))


def test_a_selection_without_rows_is_an_error(table: str, tmp_path: Path) -> None:
    for more in ({"domains": ["other"]}, {"exclude_domains": ["a", "b", "c"]}):
        with pytest.raises(DataError, match="no training rows are selected"):
            Trainer(job(table, tmp_path, **more))


def test_domains_may_be_numbers_in_yaml_and_only_one_of_the_keys_is_used() -> None:
    assert DataSettings.model_validate({"domains": [1, "b"]}).domains == ["1", "b"]
    for wrong in ({"domains": ["a"], "exclude_domains": ["b"]}, {"domains": []}, {"exclude_domains": [True]}):
        with pytest.raises(ValidationError):
            DataSettings.model_validate(wrong)
