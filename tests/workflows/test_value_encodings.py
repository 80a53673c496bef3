"""Nights with crosses and hashed embeddings: rows of the split, training, a warm start, and batch scoring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from star_ctr.conf.contracts.run_id import make_run_id
from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from star_ctr.features.encoding.value_index import hash_values
from star_ctr.jobs import features, ingest, split, train
from star_ctr.jobs.io.split_commits import read_split_commit
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.tools import batch_score
from tests import small_logs

pytestmark = [pytest.mark.spark, pytest.mark.slow]
FIRST, SECOND = small_logs.DAYS[1:3]
CROSSES = [
    {"name": "cross", "kind": "categorical", "column": ["items.labels", "domain"]},
    {"name": "hashed_cross", "kind": "categorical", "column": ["users.tier", "item_id"]},
]
EMBEDDINGS = "model.embeddings={visitor: {encode: hash, rows: 17}, hashed_cross: {encode: hash, rows: 1000}}"


def hash_text(value: str | None, rows: int) -> int:
    return 0 if value is None else 2 + int(hash_values(pa.array([value]))[0]) % rows


def test_nights_with_crosses_and_hashed_values(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(small_logs.CONF, "features", [*small_logs.CONF["features"], *CROSSES])  # type: ignore[misc]
    conf = small_logs.write(tmp_path, small_logs.frames(rows_a_day=150))
    settings = load(conf, ["window.days=1", EMBEDDINGS])
    for step in (ingest, features, split):
        step.run(settings, spark, FIRST)
    store = WarehouseTables(settings, spark)
    _, metadata = read_split_commit(store.warehouse.table("split"), FIRST)
    layout = metadata["layout"]
    assert layout["hashed"] == ["hashed_cross", "visitor"]
    assert (layout["embeddings"]["visitor"], layout["embeddings"]["hashed_cross"]) == (19, 1002)
    vocabularies = store.read("vocabularies").toPandas()
    assert set(vocabularies["embedding"]) == {"sku", "labels", "tier", "cross"}

    # Rows, compared with an encoding by hand.
    rows = (
        store.read("features").where(f"ds in ('{small_logs.DAYS[0]}', '{FIRST}')").toPandas().set_index("impression_id")
    )
    encoded = store.read("split").toPandas().set_index("impression_id").loc[rows.index]
    width = len(encoded["ints"].iloc[0]) // 4
    ids = np.frombuffer(b"".join(encoded["ints"]), np.int32).reshape(-1, width)
    position = {field["name"]: k for k, field in enumerate(layout["categorical"])}
    known = vocabularies[vocabularies["embedding"] == "cross"].set_index("value")["id"]
    texts = [
        None if pd.isna(label) else label.replace("|", "\\|") + "|" + domain
        for label, domain in zip(rows["items_labels"], rows["domain"], strict=True)
    ]
    train_values = {text for text, ds in zip(texts, rows["ds"], strict=True) if ds != FIRST and text}
    assert set(known.index) == train_values
    assert any("\\|" in text for text in train_values)
    assert ids[:, position["cross"]].tolist() == [0 if text is None else known.get(text, 1) for text in texts]
    assert ids[:, position["visitor"]].tolist() == [hash_text(user, 17) for user in rows["user_id"]]
    pairs = [
        None if pd.isna(tier) else f"{tier}|{item}"
        for tier, item in zip(rows["users_tier"], rows["item_id"], strict=True)
    ]
    assert ids[:, position["hashed_cross"]].tolist() == [hash_text(pair, 1000) for pair in pairs]

    # Training, a warm start, and batch scoring of raw rows.
    train.run(settings, spark, FIRST)
    warm = load(conf, ["window.days=1", EMBEDDINGS, "trainer.warm_start=" + make_run_id(settings, FIRST)])
    for step in (ingest, features, split):
        step.run(warm, spark, SECOND)
    assert train.run(warm, spark, SECOND)["steps"] > 0
    other = load(
        conf, ["window.days=1", EMBEDDINGS.replace("17", "18"), "trainer.warm_start=" + make_run_id(settings, FIRST)]
    )
    with pytest.raises(
        UserError, match="the embedding `visitor` has 17 hashed rows in .* but 18 hashed rows in the split"
    ):
        split.run(other, spark, SECOND)
    log = tmp_path / "logs" / "views" / f"{FIRST.replace('-', '')}.parquet"
    scored = batch_score.run(
        settings, spark, run_id=make_run_id(settings, FIRST), source=str(log), target=str(tmp_path / "scored")
    )
    assert scored["rows"] == scored["scored"] == 150
