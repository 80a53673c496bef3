"""A comparison on small logs that is interrupted: the same tables as single nights, and the tables of the paper."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession
from scipy import stats
from sklearn.metrics import roc_auc_score

from star_ctr.conf.contracts.run_id import make_run_id
from star_ctr.conf.errors import DataError, UserError
from star_ctr.conf.load import load
from star_ctr.conf.settings.compare import Plan
from star_ctr.jobs import evaluate, score, train
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.model import offline
from star_ctr.workflows import trials
from star_ctr.workflows.compare import report, run
from star_ctr.workflows.compare.tables import PAPER_GAUC, compare_order, compare_pairs, make_frame, select_common
from tests import small_logs
from tests.published import newest_folder

pytestmark = [pytest.mark.spark, pytest.mark.slow]
NIGHTS = list(small_logs.DAYS[-2:])
AGAIN = 'compare.models={"star_again": {"model.name": "star"}}'
PLANS = [
    Plan(models=["base", "star"], nights=NIGHTS, seeds=2),
    Plan(models=["base_noaux", "star_again"], nights=NIGHTS[1:], seeds=1),
]
SMALL = ["trainer.calibration.norm_statistics_rows=0", "model.layers=[8,4]", AGAIN]


class Compared(SimpleNamespace):
    conf: Path
    results: run.Results
    store: WarehouseTables
    trained: int


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Compared:
    """Run a comparison with an external model. The first attempt stops after a few training runs."""
    folder = tmp_path_factory.mktemp("compare")
    conf = small_logs.write(folder, small_logs.frames(rows_a_day=150))
    store = WarehouseTables(load(conf), spark)
    finished: list[float] = []

    def train_in_this_process(job: Any) -> float:
        if len(finished) == 3:
            raise KeyboardInterrupt
        finished.append(train_and_score(job))
        return finished[-1]

    train_and_score = offline.train_and_score
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "open_pool", _SequentialPool)
        patch.setattr(offline, "train_and_score", train_in_this_process)
        with pytest.raises(KeyboardInterrupt):
            run.run(str(conf), SMALL, spark, PLANS)
    trained = len(list((folder / "warehouse" / "models").rglob("scores.parquet")))
    rows = store.read("split").where("part = 'test'").select("impression_id").toPandas()
    rng = np.random.default_rng(0)
    seeds = [rows.assign(score=rng.random(len(rows)), seed=s) for s in (0, 1)]
    pd.concat(seeds).to_parquet(folder / "random.parquet")
    results = run.run(str(conf), SMALL, spark, PLANS, [("random", str(folder / "random.parquet"))], jobs=2)
    return Compared(conf=conf, results=results, store=store, trained=trained)


class _SequentialPool:
    """Replacement of the process pool that runs each job in this process, so that a test can interrupt it."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> _SequentialPool:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, action: Any, job: Any) -> Any:
        from concurrent.futures import Future

        future: Future[float] = Future()
        future.set_result(action(job))
        return future

    def shutdown(self, **_: object) -> None: ...


def test_every_run_is_in_the_tables_and_finished_trainings_are_kept(compared: Compared) -> None:
    assert compared.trained == 3
    rows = make_frame(compared.results.rows)
    overall = rows[rows["domain"] == "overall"]
    assert overall.groupby("compared").size().to_dict() == {
        "base": 4, "star": 4, "base_noaux": 1, "star_again": 1, "random": 4
    }  # fmt: skip
    runs = compared.store.read("runs").toPandas().set_index("run_id")
    trained = overall[overall["compared"] != "random"]
    assert set(runs.index) == set(trained["run_id"])
    assert (runs["max_score_difference"] < 1e-5).all()
    again, star = (overall[overall["compared"] == name].set_index("run_id") for name in ("star_again", "star"))
    assert again["gauc"].to_dict() == star.loc[again.index, "gauc"].to_dict(), "one run under two names"
    ledger = compared.store.read("ledger").toPandas()
    for name, steps in ledger[ledger["run_id"].isin(trained["run_id"])].groupby("run_id"):
        sums = steps.groupby("step")[["rows_in", "rows_out"]].sum()
        assert sums.loc["score", "rows_out"] == sums.loc["evaluate", "rows_in"] == 150, name
        assert sums.loc["train", "rows_in"] == sums.loc["train", "rows_out"] > 0


def test_features_are_computed_once_for_all_nights(compared: Compared) -> None:
    history = compared.store.spark.sql(f"DESCRIBE HISTORY delta.`{compared.store.warehouse.table('features')}`")
    # The window of the newest night includes that of the other one.
    assert history.where("operation = 'WRITE'").count() == 1
    nights = {r.ds for r in compared.store.read("split").select("ds").distinct().collect()}
    assert nights == set(NIGHTS)


def test_a_second_call_trains_nothing_and_returns_the_same_results(
    compared: Compared, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "open_pool", _SequentialPool)
    monkeypatch.setattr(offline, "train_and_score", lambda _: pytest.fail("this job is already trained"))
    versions = [compared.store.get_version(t) for t in ("split", "scores", "metrics")]
    again = run.run(str(compared.conf), SMALL, spark, PLANS)
    assert [compared.store.get_version(t) for t in ("split", "scores", "metrics")] == versions
    assert again.rows == [r for r in compared.results.rows if r["compared"] != "random"]


def test_a_run_equals_that_of_single_steps(compared: Compared, spark: SparkSession, tmp_path: Path) -> None:
    night = NIGHTS[1]
    overrides = [*SMALL, *compared.results.comparison.list_overrides("base_noaux"), "trainer.seed=0"]
    settings = load(compared.conf, [*overrides, "trainer.calibration.method=none"])
    weights = newest_folder(settings, make_run_id(settings, night)) / "model.safetensors"
    bits = weights.read_bytes()
    before = [r for r in compared.results.rows if r["compared"] == "base_noaux"]
    scores = compared.store.read("scores").where(f"run_id = '{before[0]['run_id']}'").toPandas()
    train.run(settings, spark, night)
    score.run(settings, spark, night)
    after = evaluate.run(settings, spark, night)
    assert weights.read_bytes() == bits
    # Spark scores rows in other batches, so the last bits of a float32 differ.
    left, right = (make_frame(rows).drop(columns="compared", errors="ignore") for rows in (before, after))
    # A single step also computes intervals.
    pd.testing.assert_frame_equal(left, right[left.columns], rtol=0, atol=1e-6)
    again = compared.store.read("scores").where(f"run_id = '{before[0]['run_id']}'").toPandas()
    pd.testing.assert_frame_equal(
        *(s.sort_values("impression_id", ignore_index=True) for s in (scores, again)), rtol=0, atol=1e-6
    )


def test_metrics_of_an_external_model_match_scikit_learn(compared: Compared) -> None:
    rows = make_frame(compared.results.rows)
    run = rows[(rows["compared"] == "random") & (rows["domain"] == "overall") & (rows["seed"] == 1)].iloc[0]
    scores = compared.store.read("scores").where(f"run_id = '{run['run_id']}'").toPandas()
    assert len(scores) == 150
    assert run["auc"] == pytest.approx(roc_auc_score(scores["label"], scores["score"]), abs=1e-9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.iloc[1:], "1 of .* rows have no score"),
        (lambda t: pd.concat([t, t.iloc[:2]]), "2 scores are duplicates"),
        (lambda t: t.assign(score=t["score"].where(t.index > 0, 1.5)), "1 are missing or outside"),
        (lambda t: t.drop(columns="score"), "no column `score`"),
    ],
)
def test_an_external_model_must_score_every_row_once(
    compared: Compared, tmp_path: Path, change: Any, words: str
) -> None:
    from star_ctr.jobs.tools import import_scores

    run = next(r for r in compared.results.rows if r["compared"] == "star" and r["ds"] == NIGHTS[1])
    table = compared.store.read("scores").where(f"run_id = '{run['run_id']}'").toPandas()
    change(table[["impression_id", "score"]]).to_parquet(tmp_path / "scores.parquet")
    with pytest.raises(DataError, match=words):
        import_scores.run(compared.store, "wrong", str(tmp_path / "scores.parquet"), {NIGHTS[1]: run["run_id"]})


def test_the_report_has_the_tables_of_the_paper(compared: Compared, tmp_path: Path) -> None:
    path = report.write(compared.results, "star-ctr compare", tmp_path)
    text = path.read_text()
    for part in (
        "Table 1",
        "Table 2",
        "GAUC (eq. 9)",
        "log loss",
        "difference from Base",
        "Figure 6",
        "Figure 7",
        "## Cost",
    ):
        assert part in text
    for figure in ("figure6.png", "figure7.png", "differences.png"):
        assert (tmp_path / figure).stat().st_size > 5000
    rows = make_frame(compared.results.rows)
    overall = rows[rows["domain"] == "overall"]
    for model in ("base", "star", "random"):
        assert f"{overall[overall['compared'] == model]['gauc'].mean():.4f}" in text
    found = json.loads((tmp_path / "results.json").read_text())
    means = found["plans"][0]["means"]["auc"]["star"]["overall"]
    assert means == pytest.approx(overall[overall["compared"] == "star"]["auc"].mean())
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "metrics.csv"), rows, rtol=1e-6, check_dtype=False)
    pairs = overall.pivot(index=["ds", "seed"], columns="compared", values="gauc")[["star", "base"]]
    want = stats.ttest_rel(pairs["star"], pairs["base"])
    assert found["against_base"]["star"]["gauc"]["p"] == pytest.approx(want.pvalue)
    assert found["against_base"]["star"]["gauc"]["pairs"] == 4
    assert found["against_base"]["base_noaux"]["gauc"]["p"] is None  # one pair
    split = compared.store.read("split").where(f"ds = '{NIGHTS[1]}' AND part = 'train'").toPandas()
    assert {r["domain"]: r["rows"] for r in found["shares"]} == split.groupby("domain").size().to_dict()


def test_the_order_of_models_is_compared_with_the_paper() -> None:
    for reverse, want in ((False, 1.0), (True, -1.0)):
        values = sorted(PAPER_GAUC["Table 3"].values(), reverse=reverse)
        models = sorted(PAPER_GAUC["Table 3"], key=lambda m: PAPER_GAUC["Table 3"][m])
        rows = pd.DataFrame({"compared": models, "domain": "overall", "ds": "1", "seed": 0, "gauc": values})
        order = compare_order(rows, "Table 3")
        assert order is not None
        assert order[1] == pytest.approx(want)
        assert order[0] == (models if reverse else models[::-1])
    assert compare_order(rows.iloc[:2], "Table 3") is None


def test_pairs_have_the_same_night_and_seed() -> None:
    rows = pd.DataFrame(
        [("base", "1", 0, 0.5), ("base", "2", 0, 0.7), ("x", "2", 0, 0.8), ("x", "1", 0, 0.55), ("x", "3", 0, 9.0)],
        columns=["compared", "ds", "seed", "gauc"],
    ).assign(domain="overall")
    result = compare_pairs(rows, "x", "gauc")
    assert result is not None
    assert (result.pairs, result.difference) == (2, pytest.approx(0.075))
    assert compare_pairs(rows[rows["ds"] != "3"].query("compared == 'x'"), "x", "gauc") is None


@pytest.mark.parametrize(
    ("models", "nights", "words"),
    [("stra", "2026-03-04", "did you mean `star`"), ("star", "tomorrow", "--nights: `tomorrow` is not a date")],
)
def test_unknown_models_and_nights_are_rejected(
    compared: Compared, spark: SparkSession, models: str, nights: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        run.run(str(compared.conf), [], spark, run.make_plans(models, nights, 1))


def test_models_are_compared_on_common_nights_and_seeds() -> None:
    rows = pd.DataFrame(
        [("base", "1", 0), ("base", "1", 1), ("base", "2", 0), ("star", "1", 0), ("star", "2", 0), ("star", "2", 1)],
        columns=["compared", "ds", "seed"],
    ).assign(domain="overall")
    common = select_common(rows, ["base", "star", "not there"])
    assert sorted(common[["compared", "ds", "seed"]].itertuples(index=False, name=None)) == [
        ("base", "1", 0), ("base", "2", 0), ("star", "1", 0), ("star", "2", 0)
    ]  # fmt: skip
    assert len(select_common(rows, ["star"])) == 3
    assert select_common(rows, []).empty
