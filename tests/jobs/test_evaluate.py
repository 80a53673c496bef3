"""Compares intervals and differences computed with Spark with a bootstrap in NumPy, and tests external scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from sklearn.metrics import roc_auc_score

from star_ctr.conf.errors import DataError
from star_ctr.conf.load import load
from star_ctr.conf.settings.evaluate import EvaluateSettings
from star_ctr.conf.settings.root import Settings
from star_ctr.features.evaluation.bootstrap import estimate
from star_ctr.features.evaluation.metrics import compute_totals
from star_ctr.features.evaluation.poisson_bootstrap import draw_weights
from star_ctr.features.evaluation.reliability import BIN_EDGES
from star_ctr.jobs.evaluate import ScoredRun, evaluate_runs, read_metrics
from star_ctr.jobs.io.warehouse import WarehouseTables, make_in_condition
from star_ctr.jobs.tools import differences, evaluate_table

pytestmark = pytest.mark.spark
EVALUATE = EvaluateSettings(bootstrap_samples=30, level=0.9, seed=4)
DS = "2026-03-04"


def make_scores(n: int = 3_000, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=n)
    rows = pd.DataFrame(
        {
            "run_id": "a",
            "ds": DS,
            "impression_id": [f"i{k}" for k in range(n)],
            "user_id": [f"u{int(u)}" for u in rng.zipf(1.5, n) % 200],
            "domain": rng.choice(["1", "2", "10"], n, p=[0.7, 0.29, 0.01]),
            "label": (rng.random(n) < 1 / (1 + np.exp(1 - taste))).astype(float),
            "score": np.round(1 / (1 + np.exp(1 - 0.5 * taste - 0.5 * rng.normal(size=n))), 2),  # many ties
        }
    )
    rows.loc[rows["domain"] == "10", "label"] = 0.0  # only one class in this domain
    return rows


def make_other_scores(rows: pd.DataFrame) -> pd.DataFrame:
    noise = 0.1 * np.random.default_rng(9).random(len(rows))
    return rows.assign(run_id="b", score=np.round(0.9 * rows["score"] + noise, 3))


def bootstrap_in_numpy(spark: SparkSession, rows: pd.DataFrame, evaluate: EvaluateSettings) -> dict[str, np.ndarray]:
    """Compute AUC and GAUC of the data and of every bootstrap sample by domain, each of shape (2, 1 + samples)."""
    keys = spark.createDataFrame(rows[["user_id"]]).select("user_id", F.xxhash64("user_id").alias("key")).distinct()
    key = {r.user_id: r.key for r in keys.collect()}
    users = rows["user_id"].unique()
    drawn = draw_weights(np.array([key[u] for u in users]), evaluate.bootstrap_samples, evaluate.seed)
    found = {}
    for domain in (*rows["domain"].unique(), "overall"):
        part = rows if domain == "overall" else rows[rows["domain"] == domain]
        values = np.full((2, 1 + evaluate.bootstrap_samples), np.nan)
        both = [(u, p) for u, p in part.groupby("user_id") if p["label"].nunique() == 2]
        auc_by_user = {u: (len(p), roc_auc_score(p["label"], p["score"])) for u, p in both}
        for c, column in enumerate(drawn):
            times = dict(zip(users, column, strict=True))
            weight = part["user_id"].map(times).to_numpy(dtype=float)
            if len(set(part["label"][weight > 0])) == 2:
                values[0, c] = roc_auc_score(part["label"], part["score"], sample_weight=weight)
            counted = [(times[u] * n, a) for u, (n, a) in auc_by_user.items()]
            total = sum(n for n, _ in counted)
            values[1, c] = sum(n * a for n, a in counted) / total if total else np.nan
        found[domain] = values
    return found


def test_bootstrap_samples_match_numpy_with_the_same_draws(spark: SparkSession) -> None:
    rows = make_scores()
    found = estimate(spark.createDataFrame(pd.concat([rows, make_other_scores(rows)])), EVALUATE).collect()
    assert len(found) == 8
    for run_id, frame in (("a", rows), ("b", make_other_scores(rows))):
        want = bootstrap_in_numpy(spark, frame, EVALUATE)
        for r in (r for r in found if r.run_id == run_id):
            np.testing.assert_allclose(r.auc_all, want[r.domain][0], rtol=0, atol=1e-12)
            np.testing.assert_allclose(r.gauc_all, want[r.domain][1], rtol=0, atol=1e-10)


def test_bootstrap_samples_do_not_depend_on_partitions(spark: SparkSession) -> None:
    rows = spark.createDataFrame(make_scores())
    before = spark.conf.get("spark.sql.shuffle.partitions")
    assert before is not None
    one = estimate(rows.repartition(1), EVALUATE).orderBy("domain").collect()
    try:
        spark.conf.set("spark.sql.adaptive.coalescePartitions.enabled", "false")
        spark.conf.set("spark.sql.shuffle.partitions", "7")
        many = estimate(rows.repartition(5, "impression_id"), EVALUATE).orderBy("domain").collect()
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", before)
        spark.conf.unset("spark.sql.adaptive.coalescePartitions.enabled")
    assert str(one) == str(many)  # as text: NaN is not equal to itself


def test_ece_and_the_reliability_curve_match_pandas(spark: SparkSession) -> None:
    rows = make_scores()
    # Scores on the bounds of bins, and the smallest and largest possible ones.
    rows.loc[: len(BIN_EDGES) + 1, "score"] = [*BIN_EDGES, 1.0, np.nextafter(BIN_EDGES[3], 0)]
    rows = pd.concat([rows, make_other_scores(rows).assign(score=lambda r: r["score"] / 100)])
    found = {(r.run_id, r.domain): r for r in compute_totals(spark.createDataFrame(rows).repartition(5)).collect()}
    assert len(found) == 8
    for (run_id, domain), r in found.items():
        part = rows[(rows["run_id"] == run_id) & (rows["domain"].eq(domain) | (domain == "overall"))]
        lower = part["score"].map(lambda score: max(edge for edge in BIN_EDGES if edge <= score))
        bins = part.groupby(lower).agg(
            rows=("label", "size"), clicks=("label", "sum"), score=("score", "mean"), ctr=("label", "mean")
        )
        want = ((bins["score"] - bins["ctr"]).abs() * bins["rows"]).sum() / len(part)
        assert r.ece == pytest.approx(want, abs=1e-12)
        assert [b.lower for b in r.reliability] == list(bins.index)
        assert [(b.rows, b.clicks) for b in r.reliability] == list(zip(bins["rows"], bins["clicks"], strict=True))
        assert [b.score for b in r.reliability] == pytest.approx(list(bins["score"]), abs=1e-12)


class ScoredWarehouse:
    """A warehouse with the scores of two runs on the same rows, and of three runs on other rows."""

    def __init__(self, folder: Path, spark: SparkSession) -> None:
        self.settings: Settings = load(
            "demo", [f"paths.warehouse={folder}", "evaluate.bootstrap_samples=30", "evaluate.level=0.9"]
        )
        self.store = WarehouseTables(self.settings, spark)
        self.rows = make_scores()
        self.runs = {
            "a": self.rows,
            "b": make_other_scores(self.rows),
            "short": self.rows.iloc[5:].assign(run_id="short"),
            "moved": self.rows.assign(run_id="moved", domain=["2", *self.rows["domain"][1:]], label=1.0),
            "next": self.rows.assign(run_id="next", impression_id="n" + self.rows["impression_id"]),
        }
        for name, rows in self.runs.items():
            self.store.replace("scores", spark.createDataFrame(rows), make_in_condition("run_id", [name]))


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> ScoredWarehouse:
    return ScoredWarehouse(tmp_path_factory.mktemp("scored"), spark)


def test_metrics_are_written_with_their_intervals(warehouse: ScoredWarehouse, spark: SparkSession) -> None:
    store, evaluate = warehouse.store, warehouse.settings.evaluate
    evaluate_runs(store, [ScoredRun("a", None, DS, "star", 0)], evaluate)
    found = {r["domain"]: r for r in store.read("metrics").toPandas().to_dict("records")}
    want = bootstrap_in_numpy(spark, warehouse.rows, evaluate)
    for domain in ("1", "2", "overall"):
        for name, values in zip(("auc", "gauc"), want[domain], strict=True):
            assert found[domain][name] == pytest.approx(values[0], abs=1e-10)
            bounds = [found[domain][f"{name}_{bound}"] for bound in ("low", "high")]
            assert bounds == pytest.approx(list(np.quantile(values[1:], [0.05, 0.95])), abs=1e-10)
    assert pd.isna([found["10"][name] for name in ("auc_low", "auc_high", "gauc_low", "gauc_high")]).all()
    # Without evaluate settings, no intervals are computed, and the table keeps the columns.
    rows = evaluate_runs(store, [ScoredRun("a", None, DS, "star", 0)])
    assert "auc_low" not in rows[0]
    assert [r["auc_low"] for r in read_metrics(store, ["a"], ["run_id", "domain", "auc_low"])] == [None] * 4


def test_differences_are_paired(warehouse: ScoredWarehouse, spark: SparkSession) -> None:
    evaluate = warehouse.settings.evaluate
    found = differences.compare_runs(warehouse.store, warehouse.settings, "a", "b")
    assert [r["domain"] for r in found] == ["1", "2", "10", "overall"]
    a, b = (bootstrap_in_numpy(spark, warehouse.runs[name], evaluate) for name in ("a", "b"))
    for row in found:
        assert (row["run_id"], row["reference_run_id"], row["ds"]) == ("a", "b", DS)
        less = a[row["domain"]] - b[row["domain"]]
        for name, values in zip(("auc", "gauc"), less, strict=True):
            got = [row[name], row[f"{name}_low"], row[f"{name}_high"]]
            if row["domain"] == "10":
                assert got == [None] * 3
                continue
            assert got == pytest.approx([values[0], *np.quantile(values[1:], [0.05, 0.95])], abs=1e-10)
        if row["domain"] == "10":
            assert (row["gauc_std"], row["gauc_effective"]) == (None, None)
            continue
        part = (
            warehouse.rows if row["domain"] == "overall" else warehouse.rows[warehouse.rows["domain"] == row["domain"]]
        )
        sizes = np.array([len(p) for _, p in part.groupby("user_id") if p["label"].nunique() == 2], float)
        assert row["gauc_std"] == pytest.approx(np.std(less[1][1:], ddof=1), abs=1e-10)
        assert row["gauc_effective"] == pytest.approx(sizes.sum() ** 2 / (sizes**2).sum())
    unpaired = estimate_unpaired_width(warehouse)
    overall = next(r for r in found if r["domain"] == "overall")
    assert overall["gauc_high"] - overall["gauc_low"] < 0.7 * unpaired
    # The opposite comparison has the opposite signs and is written next to the first one.
    opposite = differences.compare_runs(warehouse.store, warehouse.settings, "b", "a")
    assert [r["gauc"] for r in opposite] == [None if r["gauc"] is None else -r["gauc"] for r in found]
    assert differences.read_differences(warehouse.store, "a", "b") == found
    again = differences.compare_runs(warehouse.store, warehouse.settings, "a", "b")
    assert again == found
    assert warehouse.store.read("differences").count() == 8


def estimate_unpaired_width(warehouse: ScoredWarehouse) -> float:
    """Estimate the width of an interval of the difference of overall GAUC without pairing."""
    rows = [
        evaluate_runs(warehouse.store, [ScoredRun(name, None, DS, "star", 0)], warehouse.settings.evaluate) and
        read_metrics(warehouse.store, [name], ["run_id", "domain", "gauc_low", "gauc_high"])[-1]
        for name in ("a", "b")
    ]  # fmt: skip
    return float(np.hypot(*(r["gauc_high"] - r["gauc_low"] for r in rows)))


@pytest.mark.parametrize(
    ("reference_run_id", "words"),
    [
        ("a", "cannot compare a run with itself"),
        ("nobody", "no scores of nobody"),
        (
            "short",
            r"a \(3,000 rows\) and short \(2,995 rows\).*5 impressions only in the first run, 0 only in the second",
        ),
        ("next", "3,000 impressions only in the first run, 3,000 only in the second"),
        ("moved", r"with a different day, user, domain or label"),
    ],
)
def test_runs_with_different_rows_are_not_compared(
    warehouse: ScoredWarehouse, reference_run_id: str, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        differences.compare_runs(warehouse.store, warehouse.settings, "a", reference_run_id)


# --- external scores

COLUMNS: dict[str, Any] = {"user": "who", "label": "bought", "score": "p", "domain": "page", "ds": "day"}


def make_external_scores() -> pd.DataFrame:
    rows = make_scores(800).rename(
        columns={"user_id": "who", "label": "bought", "score": "p", "domain": "page", "ds": "day"}
    )
    rows["bought"] = rows["bought"].astype(int)
    rows["day"] = np.where(np.arange(800) % 2, "2026-03-03", DS)
    return rows[["who", "page", "bought", "p", "day"]]


@pytest.mark.parametrize("form", ["parquet", "csv", "csv.gz", "delta"])
def test_external_scores_get_the_same_metrics_and_intervals(tmp_path: Path, spark: SparkSession, form: str) -> None:
    rows, path = make_external_scores(), str(tmp_path / f"scores.{form}")
    if form == "delta":
        spark.createDataFrame(rows).write.format("delta").save(path)
    else:
        rows.to_parquet(path) if form == "parquet" else rows.to_csv(path, index=False)
    found = evaluate_table.run(spark, evaluate_table.ScoreTable(path, **COLUMNS), EVALUATE)
    assert [(r["ds"], r["domain"]) for r in found] == [
        (day, domain) for day in ("2026-03-03", DS) for domain in ("1", "2", "10", "overall")
    ]
    day = rows[rows["day"] == DS].rename(columns={"who": "user_id", "bought": "label", "p": "score", "page": "domain"})
    want = bootstrap_in_numpy(spark, day, EVALUATE)["overall"]
    got = found[-1]
    assert (got["rows"], got["clicks"]) == (len(day), day["label"].sum())
    assert got["auc"] == pytest.approx(roc_auc_score(day["label"], day["score"]), abs=1e-12)
    assert [got["gauc_low"], got["gauc_high"]] == pytest.approx(list(np.quantile(want[1][1:], [0.05, 0.95])), abs=1e-10)
    whole = evaluate_table.run(spark, evaluate_table.ScoreTable(path, "who", "bought", "p"), EVALUATE)
    assert [(r["ds"], r["domain"], r["rows"]) for r in whole] == [(None, "overall", 800)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.rename(columns={"who": "whom"}), "--user-col: no column `who`; did you mean `whom`.*columns: whom, page"),
        (lambda t: t.assign(bought=t["bought"].where(t.index > 2, 2)), r"3 of 800 rows have labels that are not 0 or 1 \(--label-col bought\)"),
        (lambda t: t.assign(p=t["p"].where(t.index > 1, np.nan).where(t.index < 799, 1.5)), "3 of 800 rows have scores that are missing"),
        (lambda t: t.assign(p=t["p"].astype(str).where(t.index > 0, "high")), "1 of 800 rows have scores .* not numeric"),
        (lambda t: t.assign(who=t["who"].where(t.index > 3, None)), r"4 of 800 rows cannot be used: who: missing \(--user-col\)"),
        (lambda t: t.assign(page=t["page"].where(t.index > 0, "overall")), "1 of 800 rows cannot be used: page: the domain name `overall` is reserved"),
        (lambda t: t.assign(day=t["day"].where(t.index > 0, None)), "1 of 800 rows cannot be used: day: missing"),
        (lambda t: t.iloc[:0], "the table has no rows"),
    ],
)  # fmt: skip
def test_unusable_scores_are_counted_and_rejected(tmp_path: Path, spark: SparkSession, change: Any, words: str) -> None:
    change(make_external_scores()).to_parquet(tmp_path / "scores.parquet")
    with pytest.raises(DataError, match=words):
        evaluate_table.run(spark, evaluate_table.ScoreTable(str(tmp_path / "scores.parquet"), **COLUMNS), EVALUATE)


def test_a_missing_table_is_rejected(tmp_path: Path, spark: SparkSession) -> None:
    with pytest.raises(DataError, match="neither a Delta or Parquet table nor a .csv file"):
        evaluate_table.run(spark, evaluate_table.ScoreTable(str(tmp_path / "nothing"), **COLUMNS), EVALUATE)


def test_users_of_external_scores_are_not_merged(tmp_path: Path, spark: SparkSession) -> None:
    """Ids that are not UTF-8, large floats, null values or surplus fields must not merge different users."""
    rows = make_external_scores()
    names = [f"\u738b{k % 12:02d}\u4e94" for k in range(len(rows))]
    path = tmp_path / "scores.csv"

    def evaluate(table: pd.DataFrame, **more: Any) -> dict[str, Any]:
        table.to_csv(path, index=False, **more)
        return evaluate_table.run(spark, evaluate_table.ScoreTable(str(path), "who", "bought", "p"), EVALUATE)[0]

    with pytest.raises(DataError, match="800 of 800 rows cannot be used: who: text that is not UTF-8"):
        evaluate(rows.assign(who=names), encoding="gbk")
    assert evaluate(rows.assign(who=names))["users"] == 12
    with pytest.raises(DataError, match="800 of 800 rows cannot be used: who: a float this large has lost digits"):
        evaluate(rows.assign(who=[2.0**53 + 2 * k for k in range(len(rows))]))
    with pytest.raises(DataError, match="400 of 800 rows cannot be used: who: missing"):
        evaluate(rows.assign(who=["NULL" if k % 2 else f"u{k % 9}" for k in range(len(rows))]))
    whole = rows.assign(who=[float(k % 5) if k % 2 else k % 5 for k in range(len(rows))], bought=rows["bought"] == 1)
    assert evaluate(whole)["users"] == 5
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1] + ",surplus", *lines[2:]]) + "\n")
    with pytest.raises(DataError, match="1 of 800 lines have more or fewer fields than the header"):
        evaluate_table.run(spark, evaluate_table.ScoreTable(str(path), "who", "bought", "p"), EVALUATE)
