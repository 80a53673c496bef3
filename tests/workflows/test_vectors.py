"""Nights with vectors from CSV, JSON and Parquet: tables, encoded rows, training, batch scoring, and importance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pyspark.sql import SparkSession

from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.contracts.run_id import make_run_id
from star_ctr.conf.errors import DataError
from star_ctr.conf.load import load
from star_ctr.jobs import features, ingest, split, train
from star_ctr.jobs.io.split_commits import read_split_commit
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.registry.models import find_scoring_model
from star_ctr.jobs.tools import batch_score, check, explain
from star_ctr.model.data.reader import unpack_columns
from star_ctr.model.predictor import Predictor
from tests import small_logs

pytestmark = [pytest.mark.spark, pytest.mark.slow]
FIRST, SECOND = small_logs.DAYS[1:3]
LENGTH = 40
SETTINGS = ["window.days=1", "split.vocabulary=grown"]
VECTORS = [
    {"name": "image", "kind": "vector", "column": "items.image", "length": LENGTH, "dim": 4},
    {"name": "place", "kind": "vector", "column": "impressions.place", "length": 2},
]


def make_images() -> dict[str, np.ndarray | list[float] | None]:
    """Return the images by item: 40 items, of which some have none, or something that is not a vector."""
    rng = np.random.default_rng(0)
    images = {f"s{k}": rng.normal(k % 3, 1.0, LENGTH).astype(np.float32) for k in range(40)}
    nan = images["s9"].copy()
    nan[3] = np.nan
    return {**images, "s3": None, "s5": images["s5"][:-1], "s9": nan, "s10": np.array([]), "s12": None}


def write_logs(folder: Path) -> Path:
    """Write the items to files of three formats, and vectors to the impressions."""
    logs = small_logs.frames(rows_a_day=150)
    rng = np.random.default_rng(1)
    logs["views"]["place"] = list(rng.normal(size=(len(logs["views"]), 2)))
    logs["views"].loc[logs["views"].index % 11 == 0, "place"] = None
    conf = small_logs.write(folder, logs)
    images = {sku: None if v is None else np.asarray(v).tolist() for sku, v in make_images().items()}
    skus, price = sorted(images), 2.0
    text = [None if images[sku] is None else f"[{', '.join(map(repr, images[sku]))}]" for sku in skus[0::3]]
    (folder / "logs" / "skus.csv").unlink()
    pd.DataFrame({"sku": skus[0::3], "price": price, "labels": "new", "image": text}).to_csv(
        folder / "logs" / "skus_csv.csv", index=False
    )
    lines = [json.dumps({"sku": s, "price": price, "labels": "new", "image": images[s]}) for s in skus[1::3]]
    (folder / "logs" / "skus_json.jsonl").write_text("\n".join(lines).replace("NaN", "null") + "\n")
    table = {"sku": skus[2::3], "price": [price] * len(skus[2::3]), "labels": ["new"] * len(skus[2::3])}
    vectors = pa.array([images[s] for s in skus[2::3]], pa.list_(pa.float32()))
    pq.write_table(pa.table({**table, "image": vectors}), folder / "logs" / "skus_parquet.parquet")
    settings = yaml.safe_load(conf.read_text())
    sources = {
        "csv": {"path": "skus_csv.csv", "format": "csv"},
        "json": {"path": "skus_json.jsonl", "format": "json"},
        "parquet": {"path": "skus_parquet.parquet", "format": "parquet"},
    }
    settings["logs"]["items"] = {"sources": sources, "key": "sku", "types": {"price": "double"}}
    settings["features"] += VECTORS
    conf.write_text(yaml.safe_dump(settings, sort_keys=False))
    return conf


def is_vector(image: object) -> bool:
    return image is not None and len(image) == LENGTH and bool(np.isfinite(image).all())  # type: ignore[arg-type]


def encode(vectors: list[np.ndarray | None], fitted: list[np.ndarray | None]) -> np.ndarray:
    """Encode vectors with scales that are fitted on others, by hand."""
    train_rows = np.array([v for v in fitted if v is not None], np.float64)
    mean = train_rows.mean(0)
    scale = np.sqrt(np.square(train_rows - mean).mean())
    found = np.zeros((len(vectors), len(mean)))
    for k, vector in enumerate(vectors):
        if vector is not None:
            found[k] = (vector - mean) / scale
            found[k] /= max(1.0, np.sqrt(np.square(found[k]).mean()) / 4)
    return found


def test_nights_with_vectors(tmp_path: Path, spark: SparkSession) -> None:
    conf = write_logs(tmp_path)
    images = {sku: v if is_vector(v) else None for sku, v in make_images().items()}
    bad_settings = load(conf, [*SETTINGS, f"features.image.length={LENGTH - 1}", "features.place.separator=;"])
    problems = [line for report in check.run(bad_settings, spark) for line in report["problems"]]
    assert len(problems) == 1
    assert "features.image: 9" in problems[0]
    assert f"are not vectors of {LENGTH - 1} numbers, such as `{LENGTH} elements: " in problems[0]
    reports = check.run(load(conf, SETTINGS), spark)
    assert not [line for report in reports for line in report["problems"]]
    assert any("so they count as missing" in line for report in reports for line in report["warnings"])

    settings = load(conf, [*SETTINGS, "checks.max_unparsable=0.6"])
    for step in (ingest, features, split):
        step.run(settings, spark, FIRST)
    store = WarehouseTables(settings, spark)
    rows = store.read("features").toPandas().set_index("impression_id")
    for sku, image in rows.groupby("item_id")["items_image"].first().items():
        expected = images.get(str(sku))
        assert (image is None) == (expected is None), sku
        if expected is not None:
            assert np.array_equal(np.float32(image), expected), sku
    unparsed = {sku: json.loads(text)["items.image"] for sku, text in zip(rows["item_id"], rows["unparsed"], strict=True) if text}  # fmt: skip
    assert set(unparsed) == {"s5", "s9"} & set(rows["item_id"])
    assert all(len(text) == 40 for text in unparsed.values())
    bad = store.read("profile").where("measure = 'unparsable' AND name = 'items.image'").toPandas()
    counts = rows[rows["item_id"].isin(unparsed)].groupby("ds").size()
    assert dict(zip(bad["ds"], bad["hits"], strict=True)) == counts.to_dict()

    # Rows, compared with an encoding by hand that is fitted on the training rows.
    _, metadata = read_split_commit(store.warehouse.table("split"), FIRST)
    layout = Layout.model_validate(metadata["layout"])
    assert [(v.name, v.length, v.dim) for v in layout.vectors] == [("image", LENGTH, 4), ("place", 2, 2)]
    encoded = store.read("split").toPandas().set_index("impression_id").loc[rows.index]
    _, floats = unpack_columns(pa.array(encoded["ints"]), pa.array(encoded["floats"]), layout)
    is_train = (rows["ds"] < FIRST).to_numpy()
    for name, column in (("image", "items_image"), ("place", "impressions_place")):
        vectors = [None if v is None else np.float32(v).astype(float) for v in rows[column]]
        by_hand = encode(vectors, [v for v, t in zip(vectors, is_train, strict=True) if t])
        offset = next(offset for vector, offset in layout.iter_vector_offsets() if vector.name == name)
        np.testing.assert_allclose(floats[:, offset : offset + by_hand.shape[1]], by_hand, atol=2e-6)
        position = next(k for k, n in enumerate(layout.numeric) if n.name == f"{name}__missing")
        missing = np.array([v is None for v in vectors], float)
        flag = (missing - missing[is_train].mean()) / missing[is_train].std()
        np.testing.assert_allclose(floats[:, position], np.clip(flag, -4, 4), rtol=1e-5)

    # The scores of raw rows are those of the exported model.
    train.run(settings, spark, FIRST)
    run_id = make_run_id(settings, FIRST)
    log = tmp_path / "logs" / "views" / f"{FIRST.replace('-', '')}.parquet"
    batch_score.run(settings, spark, run_id=run_id, source=str(log), target=str(tmp_path / "scored"))
    scored = small_logs.read(tmp_path / "scored").set_index("impression_id")["score"]
    attempt = find_scoring_model(settings, run_id).attempt
    test = encoded[~is_train]
    ints, floats = unpack_columns(pa.array(test["ints"]), pa.array(test["floats"]), layout)
    predicted = Predictor(attempt.folder).predict(ints, floats, test["domain_id"].to_numpy().astype(np.int32))
    np.testing.assert_allclose(scored.loc[test.index], predicted, atol=1e-5)
    parts = {row["name"] for row in explain.run(settings, spark, run_id=run_id)}
    assert {"image", "place", "items"} <= parts

    # The next night keeps the scales.
    for step in (ingest, features, split):
        step.run(settings, spark, SECOND)
    _, metadata = read_split_commit(store.warehouse.table("split"), SECOND)
    assert Layout.model_validate(metadata["layout"]).vectors == layout.vectors

    strict = load(conf, [*SETTINGS, "features.image.length=7"])
    with pytest.raises(
        DataError, match=r"features.image: .* of the .* `items.image` on .* are not vectors of 7 numbers"
    ):
        features.run(strict, spark, SECOND)
