"""Training on a sample of the rows without a click: which rows are used, and predictions for all rows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from star_ctr.conf.contracts.domains import DomainIndex
from star_ctr.conf.contracts.encoded_row import SplitPartition
from star_ctr.conf.errors import UserError
from star_ctr.jobs.io.delta_rows import read_rows
from star_ctr.model.data.batches import iter_epoch
from star_ctr.model.data.negative_downsampling import downsample_files, resolve_rates
from star_ctr.model.data.reader import concat_rows, list_live_files, read_files
from star_ctr.model.predictor import Predictor
from star_ctr.model.training.job import WarmStart
from star_ctr.model.training.run import train
from star_ctr.model.training.trainer import Trainer
from tests.model.synthetic import LAYOUT, job, version_of, with_vocabularies, write_split

MANY = {"a": 6_000, "b": 2_000, "c": 3}


@pytest.fixture(scope="module")
def large_table(tmp_path_factory: pytest.TempPathFactory) -> str:
    table = write_split(tmp_path_factory.mktemp("split"), MANY)
    write_split(Path(table).parent, {"a": 4_000, "b": 2_000}, part="test")
    return table


def test_all_clicked_rows_and_a_share_of_the_others_are_used(large_table: str) -> None:
    files = list_live_files(large_table, version_of(large_table), [SplitPartition(LAYOUT.ds, "train")], LAYOUT)
    everything = concat_rows(list(read_files(files, LAYOUT)))
    rates = resolve_rates({"a": 0.25}, LAYOUT.domain_index)
    assert rates == {0: 1.0, 1: 0.25, 2: 1.0, 3: 1.0}
    sampled, _ = downsample_files(files, rates, seed=3)
    used = concat_rows(list(read_files(sampled, LAYOUT)))
    assert [f.rows for f in sampled] == [len(rows) for rows in read_files(sampled, LAYOUT)]

    def sort(rows: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> list[bytes]:
        return sorted(row.tobytes() for row in rows)

    for p in (1, 2, 3):
        before, after = everything.domain == p, used.domain == p
        clicked = everything.label > 0
        assert sort(everything.ints[before & clicked]) == sort(used.ints[after & (used.label > 0)])
        share = (after & (used.label == 0)).sum() / max((before & ~clicked).sum(), 1)
        assert share == pytest.approx(rates[p], abs=0.03) if p == 1 else share in (0.0, 1.0)

    again = concat_rows(list(read_files(downsample_files(files[::-1], rates, seed=3)[0][::-1], LAYOUT)))
    assert np.array_equal(again.ints, used.ints)
    other = concat_rows(list(read_files(downsample_files(files, rates, seed=4)[0], LAYOUT)))
    assert not np.array_equal(other.ints, used.ints)


def test_an_epoch_of_sampled_files_resumes_at_any_batch(large_table: str) -> None:
    files = list_live_files(large_table, version_of(large_table), [SplitPartition(LAYOUT.ds, "train")], LAYOUT)
    sampled, _ = downsample_files(files, resolve_rates(0.2, LAYOUT.domain_index), seed=0)
    batches = list(iter_epoch(sampled, LAYOUT, 64, 500, seed=1, epoch=0))
    assert sum(len(b.rows) for b in batches) == sum(f.rows for f in sampled)
    for start in (1, len(batches) // 2, len(batches) - 1):
        rest = list(iter_epoch(sampled, LAYOUT, 64, 500, seed=1, epoch=0, start=start))
        assert [b.rows.ints.tobytes() for b in rest] == [b.rows.ints.tobytes() for b in batches[start:]]


@pytest.mark.parametrize("negatives", [0.1, {"a": 0.1, "b": 0.5}])
@pytest.mark.parametrize("output_biases", [True, False])
def test_predictions_are_those_for_all_rows(
    large_table: str, tmp_path: Path, negatives: float | dict[str, float], output_biases: bool
) -> None:
    more = {"epochs": 8, "output_biases": output_biases}
    j = job(large_table, tmp_path, negatives=negatives, **more)
    record = train(j)
    assert {d: record["rows"].get(d, 0) // 8 + record["left_out"].get(d, 0) for d in MANY} == MANY
    assert record["left_out"]["a"] > 2_000
    test = concat_rows(
        list(read_files(list_live_files(j.split, j.versions["split"], j.test_partitions, LAYOUT), LAYOUT))
    )
    scores = Predictor(j.path).predict(test.ints, test.floats, test.domain)
    for p in (1, 2):
        own = test.domain == p
        pcoc = scores[own].sum() / test.label[own].sum()
        assert pcoc == pytest.approx(1, abs=0.1 if output_biases else 0.2), f"domain {p}"


def test_without_calibration_the_logits_are_shifted_by_the_log_of_the_rate(large_table: str, tmp_path: Path) -> None:
    trainer = Trainer(job(large_table, tmp_path, negatives={"a": 0.1}, norm_statistics_rows=0, ema_decay=0.0))
    before = {p: trainer.model.output_bias(p).item() for p in range(4)}
    trainer.finish()
    shifts = {p: trainer.model.output_bias(p).item() - before[p] for p in range(4)}
    assert shifts == pytest.approx({0: 0.75 * math.log(0.1), 1: math.log(0.1), 2: 0.0, 3: 0.0}, abs=1e-3)


def test_unknown_domains_get_the_corrected_bias_of_the_copied_domain(large_table: str, tmp_path: Path) -> None:
    j = job(large_table, tmp_path, negatives={"a": 0.1}, norm_statistics_rows=0, ema_decay=0.0, batches="mixed")
    trainer = Trainer(
        j.model_copy(update={"model": j.model.model_copy(update={"name": "shared_bottom", "norm": "bn"})})
    )
    for largest, rate in ((1, 0.1), (2, 1.0)):
        trainer.rows_by_domain = {1: 10, 2: 10, largest: 20}
        before = trainer.model.output_bias(largest).item()
        trainer.finish()
        assert trainer.model.output_bias(largest).item() == pytest.approx(before + math.log(rate), abs=1e-6)
        assert torch.equal(trainer.model.output_bias(0), trainer.model.output_bias(largest))


def test_one_bias_for_all_domains_needs_one_rate(large_table: str, tmp_path: Path) -> None:
    j = job(large_table, tmp_path, negatives={"a": 0.1}, batches="mixed")
    j = j.model_copy(update={"model": j.model.model_copy(update={"name": "base", "norm": "bn"})})
    with pytest.raises(UserError, match="share one output bias; set a single rate"):
        Trainer(j)
    j = job(large_table, tmp_path, negatives=0.1, batches="mixed", norm_statistics_rows=0, ema_decay=0.0)
    trainer = Trainer(j.model_copy(update={"model": j.model.model_copy(update={"name": "base", "norm": "bn"})}))
    bias = trainer.model.output_bias(0).item()
    trainer.finish()
    assert trainer.model.output_bias(0).item() == pytest.approx(bias + math.log(0.1), abs=1e-6)


@pytest.mark.parametrize("output_biases", [True, False])
def test_unknown_domains_are_corrected_too(large_table: str, tmp_path: Path, output_biases: bool) -> None:
    """The predictions of domain 0 come from weights that were trained on the kept rows of the other domains."""
    totals = []
    for name, negatives in (("all", 1.0), ("one", 0.1), ("each", {"a": 0.1, "b": 0.1, "c": 0.1})):
        j = job(large_table, tmp_path / name, negatives=negatives, epochs=8, output_biases=output_biases)
        train(j)
        files = list_live_files(j.split, j.versions["split"], j.test_partitions, LAYOUT)
        test = concat_rows(list(read_files(files, LAYOUT)))
        scores = Predictor(j.path).predict(test.ints, test.floats, np.zeros(len(test), np.int32))
        totals.append(scores.sum() / test.label.sum())
    assert totals[1] == pytest.approx(totals[2], rel=0.02)
    assert totals == pytest.approx([1, 1, 1], abs=0.1 if output_biases else 0.35)


def test_a_rate_of_an_unknown_domain_is_an_error() -> None:
    with pytest.raises(UserError, match="domain `bb`; did you mean `b`"):
        resolve_rates({"a": 0.5, "bb": 0.1}, DomainIndex(["a", "b"]))


def test_a_domain_without_clicks_keeps_its_rows(tmp_path: Path) -> None:
    table = write_split(tmp_path, {"a": 3_000, "c": 2})
    files = list_live_files(table, version_of(table), [SplitPartition(LAYOUT.ds, "train")], LAYOUT)
    kept, rates = downsample_files(files, resolve_rates(0.001, LAYOUT.domain_index), seed=0)
    assert sum(f.rows for f in kept if f.domain == 3) in (1, 2)
    if not any(rows.label.any() for rows in read_files([f for f in files if f.domain == 3], LAYOUT)):
        assert rates[3] == 1.0


@pytest.mark.parametrize("before", [1.0, 0.05])
def test_a_warm_start_adjusts_to_another_rate(large_table: str, tmp_path: Path, before: float) -> None:
    now = 0.05 if before == 1 else 1.0
    first = with_vocabularies(job(large_table, tmp_path / "first", negatives=before, epochs=6), tmp_path)
    first = first.model_copy(update={"settings": {"history": {}, "model": first.model.model_dump(mode="json")}})
    train(first)
    (first.path / "vocabularies").mkdir()
    values = pa.Table.from_pylist(read_rows(first.vocabularies, columns=["embedding", "value", "id"]))
    pq.write_table(values.set_column(2, "id", values["id"].cast(pa.int32())), first.path / "vocabularies" / "0.parquet")
    start = WarmStart(run_id="first", folder=str(first.path), weights="")
    second = job(large_table, tmp_path / "second", negatives=now, output_biases=False)
    update = {
        "start": start,
        "vocabularies": first.vocabularies,
        "versions": first.versions,
        "settings": first.settings,
    }
    second = second.model_copy(update=update)
    train(second)
    files = list_live_files(second.split, second.versions["split"], second.test_partitions, LAYOUT)
    test = concat_rows(list(read_files(files, LAYOUT)))
    scores = Predictor(second.path).predict(test.ints, test.floats, test.domain)
    for p in (1, 2):
        own = test.domain == p
        assert scores[own].sum() / test.label[own].sum() == pytest.approx(1, abs=0.2), f"domain {p}"
