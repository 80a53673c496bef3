"""Days on which something went wrong with the logs themselves, and what the gate says of their nights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from star_ctr.conf.load import load
from star_ctr.conf.settings import Settings
from star_ctr.jobs import simulate
from star_ctr.jobs.decisions import Decision, Decisions, Outcome, serving
from star_ctr.workflows import nightly

pytestmark = [pytest.mark.spark, pytest.mark.slow]

GOOD = ("2026-01-06", "2026-01-07")
BAD, NEXT = "2026-01-08", "2026-01-09"
ROWS = 150_000  # of five days: enough for the gate to find shuffled labels


class Nights:
    """Simulated logs of a folder with its warehouse."""

    def __init__(self, folder: Path, spark: SparkSession) -> None:
        self.folder, self.spark = folder, spark
        self.settings: Settings = load(
            "demo",
            [
                f"paths.logs={folder}/logs",
                f"paths.warehouse={folder}/warehouse",
                "window.days=1",
                f"simulate={{impressions: {ROWS}, days: 5, users: 400, items: 300, seed: 3}}",
            ],
        )

    def copied(self, folder: Path) -> Nights:
        shutil.copytree(self.folder, folder)
        return Nights(folder, self.spark)

    def run(self, ds: str) -> Decision:
        """Run a night; returns what the gate decided."""
        nightly.run(self.settings, self.spark, ds)
        return Decisions(self.settings).all()[-1]

    def change(self, log: str, ds: str, to: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
        """Put other rows in the place of a day's rows of a log."""
        place = self.folder / "logs" / log / f"ds={ds}"
        rows = to(pd.concat([read(file) for file in sorted(place.glob("part-*"))], ignore_index=True))
        shutil.rmtree(place)
        place.mkdir()
        if log == "clicks":
            rows.to_json(place / "part-0.json.gz", orient="records", lines=True)
        else:
            rows.to_parquet(place / "part-0.parquet", index=False)

    def rows(self, log: str, ds: str) -> pd.DataFrame:
        files = sorted((self.folder / "logs" / log / f"ds={ds}").glob("part-*"))
        return pd.concat([read(file) for file in files], ignore_index=True)


def read(file: Path) -> pd.DataFrame:
    return pd.read_json(file, lines=True) if ".json" in file.name else pd.read_parquet(file)


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Nights:
    """Two good nights: the second one's model is served."""
    made = Nights(tmp_path_factory.mktemp("good") / "nights", spark)
    simulate.run(made.settings, spark)
    assert made.run(GOOD[0]).reason == "no model is served yet, and nothing speaks against this one"
    second = made.run(GOOD[1])
    assert (second.outcome, second.ds) == (Outcome.PROMOTED, GOOD[1]), second.reason
    assert second.reason.startswith("not worse than the serving model")
    return made


def served(nights: Nights) -> str:
    now = serving(Decisions(nights.settings).all())
    assert now is not None
    return now.ds


def test_a_day_with_shuffled_labels_is_held_and_so_is_what_learnt_from_it(nights: Nights, tmp_path: Path) -> None:
    bad = nights.copied(tmp_path / "shuffled")
    shown = bad.rows("impressions", BAD)
    day_ends = pd.Timestamp(NEXT, tz="UTC").value // 10**6

    def shuffled(clicks: pd.DataFrame) -> pd.DataFrame:
        of_day = clicks["impression_id"].isin(shown["impression_id"])
        any_rows = shown.sample(int(of_day.sum()), random_state=0)
        at = np.minimum(any_rows["shown_at"] + 5_000, np.maximum(any_rows["shown_at"] + 1, day_ends - 1))
        made_up = any_rows[["impression_id", "user_id"]].assign(clicked_at=at)
        return pd.concat([clicks[~of_day], made_up], ignore_index=True)

    bad.change("clicks", BAD, shuffled)
    decision = bad.run(BAD)
    assert decision.outcome is Outcome.HELD
    assert "check the labels of this day" in decision.reason
    assert served(bad) == GOOD[1]

    # Its model has learnt from the shuffled day; the labels that it is judged by are right again.
    decision = bad.run(NEXT)
    assert decision.outcome is Outcome.HELD
    assert "overall: GAUC -" in decision.reason
    assert "against the serving model" in decision.reason
    assert served(bad) == GOOD[1]

    # A person knows better, and then thinks better of it.
    decisions = Decisions(bad.settings)
    decisions.promote(decision.run_id, "a test of the way back", by="ann")
    assert served(bad) == NEXT
    decisions.rollback("as the gate said", by="ann")
    assert served(bad) == GOOD[1]
    said = [(d.ds, str(d.outcome), d.by) for d in decisions.all()]
    assert said == [
        (GOOD[0], "promoted", "gate"),
        (GOOD[1], "promoted", "gate"),
        (BAD, "held", "gate"),
        (NEXT, "held", "gate"),
        (NEXT, "overridden", "ann"),
        (GOOD[1], "rolled back", "ann"),
    ]


def test_a_day_with_missing_rows_is_not_judged(nights: Nights, tmp_path: Path) -> None:
    """The largest domain is missing, and the others have a tenth of their rows."""
    bad = nights.copied(tmp_path / "missing")
    largest = bad.rows("impressions", GOOD[1])["domain"].value_counts().index[0]
    bad.change(
        "impressions",
        BAD,
        lambda rows: rows[rows["domain"] != largest].groupby("domain").sample(frac=0.1, random_state=0),
    )
    decision = bad.run(BAD)
    assert decision.outcome is Outcome.TOO_SMALL
    assert f"0 rows in domain {largest}, where the nights before had" in decision.reason
    assert " rows, where the nights before had" in decision.reason
    assert "gate.min_share" in decision.reason
    assert served(bad) == GOOD[1]
