"""Vectors in arrays and in text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from star_ctr.conf.settings.features import Vector
from star_ctr.features.cleaning.clean_log import clean_log
from star_ctr.features.cleaning.vectors import name_unparsable, parse_vectors
from tests.features.cleaning.test_clean_log import conf, frame

pytestmark = pytest.mark.spark


def make_vector(**more: Any) -> Vector:
    return Vector.model_validate({"name": "v", "kind": "vector", "column": "impressions.v", "length": 3} | more)


TEXTS: dict[str | None, list[float] | str | None] = {
    "1,2.5,-3e-2": [1, 2.5, -0.03],
    " [ 1, 2 ,3 ] ": [1, 2, 3],
    "(1,2,3)": [1, 2, 3],
    "7.038531e-26,0,1": [np.uint32(0x15AE43FD).view(np.float32), 0, 1],  # not that of the nearest double
    "3.4028235e38,-3.4028235e38,1e-45": [np.finfo(np.float32).max, -np.finfo(np.float32).max, 1e-45],
    "1,2": "1,2",
    "1,2,3,4": "1,2,3,4",
    "1,2,": "1,2,",
    "1,2,x": "1,2,x",
    "1,2,3f": "1,2,3f",
    "1,2,NaN": "1,2,NaN",
    "1,Infinity,3": "1,Infinity,3",
    "1,2,1e39": "1,2,1e39",
    "[1;2;3]": "1;2;3",
    "-" * 50: "-" * 40,
    "[]": None,
    "  ": None,
    None: None,
}


def test_text(spark: SparkSession) -> None:
    rows = spark.createDataFrame([(text,) for text in TEXTS], "v string")
    found = parse_vectors(rows, {"v": make_vector()}).collect()
    for row, (text, expected) in zip(found, TEXTS.items(), strict=True):
        vector, unparsable = row.v, row[name_unparsable("v")]
        if isinstance(expected, list):
            assert (np.float32(vector).tolist(), unparsable) == (np.float32(expected).tolist(), None), text
        else:
            assert (vector, unparsable) == (None, expected), text


@pytest.mark.parametrize(
    ("separator", "text"), [("|", "1|2|3"), (" ", "[1  2\n 3]"), (".", "1.2.3"), (", ", "1, 2, 3")]
)
def test_separators(spark: SparkSession, separator: str, text: str) -> None:
    rows = spark.createDataFrame([(text,)], "v string")
    assert parse_vectors(rows, {"v": make_vector(separator=separator)}).first().v == [1.0, 2.0, 3.0]  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["tinyint", "int", "bigint", "float", "double", "decimal(9, 4)", "string"])
def test_arrays_of_all_types_are_kept_by_ingest(spark: SparkSession, kind: str) -> None:
    """Ingest stores text; the numbers are those of the file, rounded once to 32 bits."""
    values = {
        "tinyint": [[1, -2, 127], [1, 2], [None, 1, 2], [], None],
        "string": [["1.5", "-2", "1e-30"], ["1", "2"], ["x", "1", "2"], [], None],
    }
    fractions = [[0.1, -2.25, 3000.0], [1.0, 2.0], [float("nan"), 1.0, 2.0], [], None]
    given = values.get(kind, values["tinyint"] if "int" in kind else fractions)
    if kind.startswith("decimal"):
        rows = frame(spark, [{"v": v} for v in given[:2]], "v array<double>").withColumn("v", _cast("v", kind))
    else:
        rows = frame(spark, [{"v": v} for v in given], f"v array<{kind}>")
    settings = conf()
    vector = make_vector()
    settings = settings.model_copy(update={"features": [vector]})
    cleaned = clean_log(settings, "impressions", rows)
    assert dict(cleaned.dtypes)["v"] == "array<string>"
    found = {r.impression_id: r for r in parse_vectors(cleaned, {"v": vector}).collect()}
    assert found["r0"].v == np.float32(np.array(given[0], dtype=float)).tolist()
    assert found["r1"].v is None
    assert found["r1"][name_unparsable("v")].startswith("1,2")
    if len(found) > 2:
        assert found["r2"][name_unparsable("v")].endswith(",1,2")
        assert [found[k].v for k in ("r2", "r3", "r4")] == [None] * 3
        assert [found[k][name_unparsable("v")] for k in ("r3", "r4")] == [None, None]


def _cast(column: str, kind: str) -> Any:
    from pyspark.sql import functions as F

    return F.col(column).cast(f"array<{kind}>")


def test_decimal_commas_and_files_with_text_and_arrays(spark: SparkSession) -> None:
    vector = make_vector(separator=";")
    settings = conf(format="csv", decimal=",").model_copy(update={"features": [vector]})
    texts = ["1,5;-2;1.000,25", "[0,5; 1;2]", "1.5;2;3", None]
    text = frame(spark, [{"id": f"t{k}", "v": v} for k, v in enumerate(texts)], "id string, v string")
    array = frame(spark, [{"id": "a", "v": [0.5, 1.0, 2.0]}], "id string, v array<float>")
    for given in ({"t": text}, {"a": array, "t": text}):
        cleaned = clean_log(settings, "impressions", given)
        found = {r.impression_id: r.v for r in parse_vectors(cleaned, {"v": vector}).collect()}
        assert [found[f"t{k}"] for k in range(4)] == [[1.5, -2.0, 1000.25], [0.5, 1.0, 2.0], [1.5, 2.0, 3.0], None]
        assert found.get("a", [0.5, 1.0, 2.0]) == [0.5, 1.0, 2.0]
