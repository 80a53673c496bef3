"""Vectors: exact sums, encoding and fit, compared with NumPy and with integers and fractions of Python."""

from __future__ import annotations

from fractions import Fraction
from math import isqrt

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.contracts.encoded_row import Layout, NumericField, NumericSource, VectorField
from star_ctr.features.encoding import vector_encoder
from star_ctr.features.encoding.row_encoder import RowEncoder
from star_ctr.features.encoding.vector_encoder import encode_vectors
from star_ctr.features.encoding.vector_fitting import VectorColumn, VectorScale, fit_vectors
from star_ctr.features.encoding.vector_sums import VectorSums

SINGLES = st.floats(width=32, allow_nan=False, allow_infinity=False)


def make_column(vectors: list[list[float] | None]) -> pa.Array:
    return pa.array(vectors, pa.list_(pa.float32()))


def encode(vectors: list[list[float] | None], field: VectorField) -> np.ndarray:
    target = np.zeros((len(vectors), field.length), np.float32)
    encode_vectors(make_column(vectors), field, target)
    return target


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(SINGLES, min_size=3, max_size=3), min_size=1, max_size=20), st.integers(1, 19))
def test_sums_are_exact_over_the_full_range(values: list[list[float]], cut: int) -> None:
    x = np.array(values, np.float32)
    sums, rest = VectorSums(3), VectorSums(3)
    sums.add(x[:cut])
    rest.add(x[cut:][::-1])
    sums.merge(VectorSums(3, rest.pack()))
    n, exact = len(x), [[Fraction(v) for v in row] for row in x.astype(float).tolist()]
    means = [sum(column) / n for column in zip(*exact, strict=True)]
    assert sums.count == n
    assert sums.compute_mean() == [float(mean) for mean in means]
    square = sum((v - mean) ** 2 for row in exact for v, mean in zip(row, means, strict=True)) / (3 * n)
    root = Fraction(isqrt((square.numerator << 2000) // square.denominator), 1 << 1000)
    assert sums.compute_scale() == pytest.approx(float(root), rel=1e-15, abs=0)


def test_sums_span_blocks_and_digits_with_carries() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(1500, 300)) * 2.0 ** rng.integers(-30, 30, (1500, 300))).astype(np.float32)
    x[:, 0] = -np.finfo(np.float32).max
    sums = VectorSums(300)
    for part in np.array_split(x, 4):
        sums.add(part)
    assert vector_encoder._BLOCK < 1500 * 300
    integers = [[int(Fraction(v) * 2**172) for v in column] for column in x.T.astype(float).tolist()]
    assert sums.list_totals() == [sum(column) for column in integers]
    squares = sum(v * v for column in integers for v in column)
    variance = 1500 * squares - sum(sum(column) ** 2 for column in integers)
    assert sums.compute_scale() == pytest.approx(float(Fraction(isqrt(variance // 300), 1500 << 172)), rel=1e-14)


def test_vectors_are_standardized_with_one_scale() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(50, 4)) * [9, 3, 1, 0.1] + [5, 0, -5, 1]).astype(np.float32)
    field = VectorField(name="v", column="v", length=4, dim=4, mean=x.mean(0).tolist(), scale=2.0)
    found = encode([*x.tolist(), None], field)
    by_hand = (x - np.array(field.mean)) / 2
    size = np.sqrt((by_hand**2).mean(1))
    assert 0 < (size > 4).sum() < 10
    by_hand[size > 4] *= 4 / size[size > 4, None]
    np.testing.assert_allclose(found[:-1], by_hand, rtol=1e-6, atol=1e-6)
    assert not found[-1].any()
    inside = np.flatnonzero(size <= 4)
    pairs = inside[:-1], inside[1:]
    before, after = (np.linalg.norm(v[pairs[0]] - v[pairs[1]], axis=1) for v in (x, found))
    np.testing.assert_allclose(before, 2 * after, rtol=1e-5)


def test_a_vector_of_length_1_is_clipped_like_a_number_and_a_huge_one_is_finite() -> None:
    field = VectorField(name="v", column="v", length=1, dim=1, mean=[1.0], scale=0.5)
    assert encode([[1.5], [100.0], [-100.0], [3.4e38]], field).ravel().tolist() == [1.0, 4.0, -4.0, 4.0]
    tiny = VectorField(name="v", column="v", length=2, dim=2, mean=[0.0, 0.0], scale=1e-45)
    found = encode([[3.4e38, -3.4e38], [1e-44, 0.0]], tiny)
    np.testing.assert_allclose(found[0], [4.0, -4.0], rtol=1e-6)
    assert np.isfinite(found).all()


def test_rows_have_numbers_then_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if vectors are encoded in several blocks, and in several chunks of a table."""
    flag = NumericField(name="a__missing", source=NumericSource(column="a", missing=True), mean=0.5, std=0.5)
    layout = Layout(
        ds="2026-01-01", domains=["d"], embeddings={}, categorical=[], buckets=[], sequences=[],
        numeric=[NumericField(name="x", source=NumericSource(column="x")), flag],
        vectors=[
            VectorField(name="a", column="a", length=2, dim=2, mean=[1.0, 2.0], scale=2.0),
            VectorField(name="still", column="a", length=2, dim=2, mean=[1.0, 2.0], scale=0.0),
            VectorField(name="b", column="b", length=3, dim=1, mean=[0.0, 0.0, 0.0], scale=1.0),
        ],
    )  # fmt: skip
    assert (layout.float_count, layout.columns) == (9, ["x", "a", "b"])
    rows = pa.table(
        {
            "x": [0.5, None, 1.0],
            "a": make_column([[1.0, 4.0], None, [3.0, 2.0]]),
            "b": make_column([[1.0, 2.0, 3.0], [-1.0, 0.0, 1.0], None]),
        }
    )
    expected = [[0.5, -1, 0, 1, 0, 0, 1, 2, 3], [0, 1, 0, 0, 0, 0, -1, 0, 1], [1, -1, 1, 0, 0, 0, 0, 0, 0]]
    for block in (vector_encoder._BLOCK, 2):
        monkeypatch.setattr(vector_encoder, "_BLOCK", block)
        for table in (rows, pa.concat_tables([rows.slice(0, 1), rows.slice(1)])):
            _, floats = RowEncoder(layout, {}).encode(table)
            assert np.frombuffer(b"".join(floats.to_pylist()), np.float32).reshape(3, 9).tolist() == expected
    assert "vectors" not in layout.model_copy(update={"vectors": []}).model_dump()


N = 6_000


def make_vectors() -> dict[str, list[list[float] | None]]:
    rng = np.random.default_rng(0)
    usual = rng.normal(size=(N, 8)) * 2.0 ** -np.arange(8) + np.arange(8)
    wild = usual.copy()
    wild[:3] = [[3e38] * 8, [0.0] * 7 + [1e18], [-1e9] * 8]
    signs = np.where(rng.random((N, 8)) < 0.5, 1.0, -1.0)  # all vectors have the same length
    signs[-1] = 1e18
    return {
        "usual": [None if k % 10 == 3 else v for k, v in enumerate(usual.tolist())],
        "wild": wild.tolist(),
        "signs": signs.tolist(),
        "still": [[0.25] * 8] * N,
        "empty": [None] * N,
    }


@pytest.fixture(scope="module")
def rows(spark: SparkSession) -> DataFrame:
    columns = make_vectors()
    values = [(k, *(columns[name][k] for name in columns)) for k in range(N)]
    schema = ", ".join(["n int", *(f"{name} array<float>" for name in columns)])
    return spark.createDataFrame(values, schema).persist()


def fit_with_numpy(vectors: list[list[float] | None]) -> tuple[np.ndarray, float]:
    x = np.array([v for v in vectors if v is not None], np.float32).astype(float)
    return x.mean(0), float(np.sqrt(np.square(x - x.mean(0)).mean()))


@pytest.mark.spark
def test_scales_do_not_depend_on_order_partitions_or_outliers(rows: DataFrame) -> None:
    columns = {name: VectorColumn(name, 8) for name in make_vectors()}
    batch = "spark.sql.execution.arrow.maxRecordsPerBatch"
    rows.sparkSession.conf.set(batch, "999")
    try:
        fits = [
            fit_vectors(frame, columns)
            for frame in (rows.repartition(1), rows.repartition(5, "n"), rows.orderBy(F.xxhash64("n")))
        ]
    finally:
        rows.sparkSession.conf.unset(batch)
    assert fits[0] == fits[1] == fits[2]
    made = make_vectors()
    without = {"usual": made["usual"], "wild": made["wild"][3:], "signs": made["signs"][:-1]}
    for name, vectors in without.items():
        mean, scale = fit_with_numpy(vectors)
        np.testing.assert_allclose(fits[0][name].mean, mean, rtol=1e-12, atol=1e-12)
        assert fits[0][name].scale == pytest.approx(scale, rel=1e-12)
    assert fits[0]["usual"].missing == (0.1, pytest.approx(0.3))
    assert fits[0]["wild"].missing == (0.0, 0.0)
    assert fits[0]["still"] == VectorScale([0.25] * 8, 0.0, (0.0, 0.0))  # type: ignore[arg-type]
    assert fits[0]["empty"] == VectorScale([0.0] * 8, 0.0, (1.0, 0.0))  # type: ignore[arg-type]
    none = fit_vectors(rows.limit(0), {"usual": VectorColumn("usual", 8)})
    assert none["usual"] == VectorScale([0.0] * 8, 0.0, (0.0, 0.0))  # type: ignore[arg-type]
