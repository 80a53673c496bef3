"""A night of the KuaiRand logs from the command line: complete ledger, metrics that match pandas, reproducible bits.

The logs contain every fifth user; with STAR_CTR_LONG=1, all users.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable
from sklearn.metrics import roc_auc_score

from tests.conftest import KUAIRAND, LONG, kuairand, on_request


def star_ctr(*arguments: str, cwd: Path) -> None:
    command = [str(Path(sys.executable).parent / "star-ctr"), *arguments]
    # With all users, a night has so many rows that the default options of the JVM are faster than those of small tests.
    environment = {k: v for k, v in os.environ.items() if k != "JDK_JAVA_OPTIONS" or not LONG}
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]


def read(table: Path, columns: list[str] | None = None) -> pd.DataFrame:
    files = [uri.removeprefix("file://") for uri in DeltaTable(str(table)).file_uris()]
    return pd.concat([pd.read_parquet(file, columns=columns) for file in files], ignore_index=True)


DS = "2022-05-05"
DAYS = 2
"""Number of training days."""
EVERY = 1 if LONG else 5
"""One of how many users is in the logs."""


def _read_text(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, dtype=str, keep_default_na=False, na_values=[""])


def sample_logs(folder: Path) -> Path:
    """Write the logs of some users to a folder, and return it."""
    folder.mkdir()
    for file in KUAIRAND.glob("*.csv*"):
        rows = _read_text(file)
        if "user_id" in rows:
            rows = rows[rows["user_id"].astype(int) % EVERY == 0]
        rows.to_csv(folder / file.name, index=False)
    return folder


class RealNight:
    """A folder with the tables of a night of the real logs, from the command line."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.warehouse = folder, folder / "warehouse"
        self.logs = KUAIRAND.absolute() if LONG else sample_logs(folder / "logs")
        self.night("one.json")

    def read_log(self, name: str) -> pd.DataFrame:
        """Return the rows of a log unchanged: all values are text, and empty fields are null."""
        return pd.concat([_read_text(file) for file in sorted(self.logs.glob(f"{name}_*.csv*"))], ignore_index=True)

    def command(self, name: str, *arguments: str) -> None:
        settings = [f"paths.warehouse={self.warehouse}", f"paths.logs={self.logs}", f"window.days={DAYS}"]
        star_ctr(name, "--conf", "kuairand", *(x for s in settings for x in ("--set", s)), *arguments, cwd=self.folder)

    def night(self, target: str) -> None:
        self.command("nightly", "--ds", DS, "--json", target)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> RealNight:
    return RealNight(tmp_path_factory.mktemp("kuairand"))


@pytest.mark.slow
@kuairand
def test_a_night_of_the_real_logs_has_a_balanced_ledger_and_metrics_that_match_pandas(night: RealNight) -> None:
    tmp_path = night.folder
    for table in ("impressions", "features", "split", "scores"):
        assert read(tmp_path / "warehouse" / table, ["impression_id"])["impression_id"].is_unique, table
    ledger = read(tmp_path / "warehouse" / "ledger")
    steps = ledger.groupby("step")[["rows_in", "rows_out"]].sum()
    log = night.read_log("log_standard")  # it has no ids, so the id of a row is the hash of all its fields
    days = sorted(log["date"].unique())
    rows = log.groupby("date").size()
    unique = log.drop_duplicates().groupby("date").size()
    window, train = days[-1 - DAYS :], days[-1 - DAYS : -1]
    assert tuple(steps.loc["ingest"]) == (rows[window].sum(), unique[window].sum())
    duplicates = ledger[(ledger["step"] == "ingest") & (ledger["reason"] == "duplicate")]
    assert duplicates["rows_in"].sum() == rows[window].sum() - unique[window].sum() > 1000 / EVERY
    assert tuple(steps.loc["ingest.behaviours"]) == (len(night.read_log("user_behavior")),) * 2
    assert tuple(steps.loc["features"]) == (unique[window].sum(),) * 2
    assert tuple(steps.loc["train"]) == tuple(steps.loc["split.train"]) == (unique[train].sum(),) * 2
    assert {tuple(steps.loc[s]) for s in ("score", "evaluate", "split.test")} == {(unique[days[-1]],) * 2}

    scores = read(tmp_path / "warehouse" / "scores")
    assert len(scores) == unique[days[-1]]
    overall = next(m for m in json.loads((tmp_path / "one.json").read_text()) if m["domain"] == "overall")
    users = [u for _, u in scores.groupby("user_id") if u["label"].nunique() == 2]
    gauc = np.average([roc_auc_score(u["label"], u["score"]) for u in users], weights=[len(u) for u in users])
    assert overall["gauc"] == pytest.approx(gauc, abs=1e-9)
    assert overall["auc"] == pytest.approx(roc_auc_score(scores["label"], scores["score"]), abs=1e-9)


@pytest.mark.slow
@on_request
@kuairand
def test_batch_scoring_of_the_raw_day_gives_the_scores_of_its_night(night: RealNight) -> None:
    log = night.read_log("log_standard")
    raw = log[log["date"] == DS.replace("-", "")].reset_index(drop=True)
    raw.to_parquet(night.folder / "day.parquet", index=False)
    scores = read(night.warehouse / "scores").set_index("impression_id").sort_index()
    (run,) = (night.warehouse / "models").iterdir()
    night.command(
        "score", "--run-id", run.name, "--input", "day.parquet", "--output", "scored", "--json", "scored.json"
    )
    result = json.loads((night.folder / "scored.json").read_text())
    unique = len(raw.drop_duplicates())
    assert (result["rows"], result["scored"]) == (len(raw), unique)
    assert result["reasons"] == {"duplicate": len(raw) - unique}
    found = read(night.folder / "scored").set_index("impression_id").sort_index()
    assert list(found.index) == list(scores.index)
    assert (found["run_id"] == run.name).all()
    assert (found[["user_id", "domain"]] == scores[["user_id", "domain"]]).all(axis=None)
    np.testing.assert_allclose(found["score"], scores["score"], rtol=0, atol=1e-5)


@pytest.mark.slow
@on_request
@kuairand
def test_the_night_trains_again_to_the_same_bits_after_cleaning(night: RealNight) -> None:
    (run,) = (night.warehouse / "models").iterdir()
    night.command("clean", "--yes", "--set", "retention.replaced=0")
    night.command("replay", "--run-id", run.name, "--json", "again.json")
    again = json.loads((night.folder / "again.json").read_text())
    assert (again["weights"], again["metrics"]) == ("the same bits", "the same")


@pytest.mark.slow
@on_request
@kuairand
def test_a_repeated_night_of_the_real_logs_gives_the_same_metrics(night: RealNight) -> None:
    night.night("two.json")
    assert (night.folder / "one.json").read_text() == (night.folder / "two.json").read_text()
