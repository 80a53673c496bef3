"""Warm starts with fitted vocabularies: numbers keep the encoding of the run on days with another distribution."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from star_ctr.conf.contracts.catalog import NIGHT_TABLES
from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.contracts.vocabulary import list_vocabulary_files
from star_ctr.conf.errors import UserError
from star_ctr.conf.files import hash_file
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs import features, ingest, split, train
from star_ctr.jobs.io.encoder_cache import load_encoder
from star_ctr.jobs.io.split_commits import read_split_commit
from star_ctr.jobs.io.split_inputs import is_encoded_for, is_written
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.registry.attempts import get_attempt_folder
from tests import small_logs
from tests.published import newest_folder

pytestmark = [pytest.mark.spark, pytest.mark.slow]
FIRST, SECOND = small_logs.DAYS[2:]


class Nights:
    """A night that was trained from scratch, and the next night, whose numbers have another distribution."""

    def __init__(self, folder: Path, spark: SparkSession) -> None:
        logs = small_logs.frames()
        views = logs["views"]
        views.loc[views["day"] == small_logs.DAYS[2], "slot"] += 40
        expensive = views["sku"].str[1:].astype(int) % 5 == 4
        logs["views"] = views[(views["day"] != small_logs.DAYS[2]) | expensive]
        self.conf, self.spark = small_logs.write(folder, logs), spark
        self.first = self.load()
        ingest.run(self.first, spark, FIRST)
        features.run(self.first, spark, FIRST)
        split.run(self.first, spark, FIRST)
        self.run = str(train.run(self.first, spark, FIRST)["run_id"])
        ingest.run(self.first, spark, SECOND)
        features.run(self.first, spark, SECOND)

    def load(self, *overrides: str) -> Settings:
        return load(self.conf, ["window.days=1", "model.embeddings={sku: {min_count: 1}}", *overrides])

    def split(self, *overrides: str) -> Layout:
        settings = self.load(*overrides)
        split.run(settings, self.spark, SECOND)
        return self.layout(SECOND)

    def layout(self, ds: str) -> Layout:
        _, metadata = read_split_commit(WarehouseTables(self.first, self.spark).warehouse.table("split"), ds)
        return Layout.model_validate(metadata["layout"])

    def folder(self, run: str) -> Path:
        return newest_folder(self.first, run)


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Nights:
    return Nights(tmp_path_factory.mktemp("nights"), spark)


@pytest.mark.parametrize("vocabulary", ["fitted", "grown"])
def test_rows_keep_the_encoding_of_the_run(nights: Nights, vocabulary: str) -> None:
    run_layout, warm = nights.layout(FIRST), (f"split.vocabulary={vocabulary}", f"trainer.warm_start={nights.run}")
    fitted = nights.split()
    slot = {layout.ds: next(n for n in layout.numeric if n.name == "slot") for layout in (run_layout, fitted)}
    assert slot[SECOND].mean > slot[FIRST].mean + 30
    assert fitted.buckets[0].bounds != run_layout.buckets[0].bounds
    now = nights.split(*warm)
    known = [(n.name, n.source, n.mean, n.std) for n in run_layout.numeric if n.std > 0]
    assert len(known) > 3
    assert [k for k in ((n.name, n.source, n.mean, n.std) for n in now.numeric) if k in known] == known
    assert now.buckets == run_layout.buckets
    # The rows that the run was trained on, encoded with both layouts.
    store = WarehouseTables(nights.first, nights.spark)
    trained_on = store.read("features").where(f"ds = '{small_logs.DAYS[1]}'").toPandas()
    rows = pa.Table.from_pandas(trained_on[run_layout.columns])
    _, metadata = read_split_commit(store.warehouse.table("split"), SECOND)
    files = list_vocabulary_files(store.warehouse.table("vocabularies"), metadata["vocabularies"], SECOND)
    run_files = [str(f) for f in sorted((nights.folder(nights.run) / "vocabularies").glob("*.parquet"))]
    encoded = {}
    for name, layout, values in (("run", run_layout, run_files), ("now", now, files)):
        ints, floats = load_encoder(layout, values, list(nights.first.history)).encode(rows)
        bucket = np.frombuffer(b"".join(ints.to_pylist()), np.int32).reshape(len(rows), -1)[:, len(layout.categorical)]
        encoded[name] = bucket, np.frombuffer(b"".join(floats.to_pylist()), np.float32).reshape(len(rows), -1)
    varied = [k for k, n in enumerate(run_layout.numeric) if n.std > 0]
    assert len(set(encoded["run"][0])) > 3
    np.testing.assert_array_equal(encoded["now"][0], encoded["run"][0])
    np.testing.assert_array_equal(encoded["now"][1][:, varied], encoded["run"][1][:, varied])
    assert train.run(nights.load(*warm), nights.spark, SECOND)["steps"] > 0


def test_a_different_start_requires_a_new_split(nights: Nights) -> None:
    """Neither the split nor training on it continues silently with the old encoding."""
    store = WarehouseTables(nights.first, nights.spark)
    cold, warm = nights.load(), nights.load(f"trainer.warm_start={nights.run}")
    nights.split()
    _, metadata = read_split_commit(store.warehouse.table("split"), SECOND)
    assert is_written(cold, store, SECOND, NIGHT_TABLES)
    assert is_encoded_for(cold, SECOND, metadata)
    assert not is_written(warm, store, SECOND, NIGHT_TABLES)
    assert not is_encoded_for(warm, SECOND, metadata)
    with pytest.raises(UserError, match=f"the split of {SECOND} does not encode numbers like {nights.run}.*slot.mean"):
        train.run(warm, nights.spark, SECOND)
    nights.split(f"trainer.warm_start={nights.run}")
    assert is_written(warm, store, SECOND, NIGHT_TABLES)
    # A copy of the run has the same encoding, so the split stays up to date; a run with other scales does not.
    name = "2026-03-03-twin"
    twin = get_attempt_folder(store.warehouse, name, 1)
    shutil.copytree(nights.folder(nights.run), twin)
    assert is_written(nights.load(f"trainer.warm_start={name}"), store, SECOND, NIGHT_TABLES)
    layout = json.loads((twin / "layout.json").read_text())
    next(n for n in layout["numeric"] if n["name"] == "slot")["mean"] += 1
    (twin / "layout.json").write_text(json.dumps(layout))
    record = json.loads((twin / "record.json").read_text())
    record["files"]["layout.json"] = hash_file(twin / "layout.json")
    (twin / "record.json").write_text(json.dumps(record))
    other = nights.load(f"trainer.warm_start={name}")
    assert not is_written(other, store, SECOND, NIGHT_TABLES)
    with pytest.raises(UserError, match=f"run `star-ctr split --ds {SECOND}` again"):
        train.run(other, nights.spark, SECOND)


def test_an_incompatible_start_is_rejected(nights: Nights) -> None:
    _, before = read_split_commit(WarehouseTables(nights.first, nights.spark).warehouse.table("split"), SECOND)
    with pytest.raises(UserError, match="trainer.warm_start: gone-run is not a finished run"):
        nights.split("trainer.warm_start=gone-run")
    changed = "features.slot.log=true"
    features.run(nights.load(changed), nights.spark, SECOND)
    with pytest.raises(
        UserError, match=f"trainer.warm_start: {nights.run} was trained with different features.*slot.*log"
    ):
        nights.split(f"trainer.warm_start={nights.run}", changed)
    features.run(nights.first, nights.spark, SECOND)
    _, after = read_split_commit(WarehouseTables(nights.first, nights.spark).warehouse.table("split"), SECOND)
    assert after == before, "the previous split is kept"
