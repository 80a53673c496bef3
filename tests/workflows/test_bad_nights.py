"""Days on which something went wrong with the logs themselves, and what the gate says of their nights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from star_ctr.conf.load import load
from star_ctr.jobs.registry.decisions import Decision, Decisions, Outcome, find_serving
from star_ctr.workflows import nightly
from tests import small_logs

pytestmark = [pytest.mark.spark, pytest.mark.slow]

DAYS = (*small_logs.DAYS, "2026-03-05")
GOOD, BAD, NEXT = DAYS[1:3], DAYS[3], DAYS[4]
ROWS = 4_000  # a day, of 30 users: the GAUC of a day is then known to some 0.02


class Nights:
    """Logs and their warehouse in a folder."""

    def __init__(self, folder: Path, spark: SparkSession, logs: dict[str, pd.DataFrame]) -> None:
        self.folder, self.spark, self.logs = folder, spark, logs
        conf = small_logs.write(folder, logs)
        # Models of one day of these logs differ by some 0.02 in GAUC; labels at random cost some 0.1.
        gate = ["gate.domain_rows=1000", "gate.gauc_margin=0.04", "gate.domain_margin=0.08"]
        self.settings = load(conf, ["window.days=1", "trainer.epochs=3", *gate])

    def with_logs(self, folder: Path, **changed: pd.DataFrame) -> Nights:
        """Return a copy with other logs in another folder."""
        shutil.copytree(self.folder / "warehouse", folder / "warehouse")
        return Nights(folder, self.spark, {**self.logs, **changed})

    def run(self, ds: str) -> Decision:
        """Run a night; returns what the gate decided."""
        nightly.run(self.settings, self.spark, ds)
        return Decisions(self.settings).all()[-1]

    def serving(self) -> str:
        """Return the night of the serving model."""
        now = find_serving(Decisions(self.settings).all())
        assert now is not None
        return now.ds


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Nights:
    """Two good nights: the second one's model is serving."""
    made = Nights(tmp_path_factory.mktemp("good"), spark, small_logs.frames(rows_a_day=ROWS, days=DAYS))
    assert made.run(GOOD[0]).reason == "no model is served yet, and the candidate passed all checks"
    second = made.run(GOOD[1])
    assert (second.outcome, second.ds) == (Outcome.PROMOTED, GOOD[1]), second.reason
    assert second.reason.startswith("not worse than the serving model")
    return made


def test_a_day_with_shuffled_labels_is_held_and_so_is_what_learnt_from_it(nights: Nights, tmp_path: Path) -> None:
    views, clicks = nights.logs["views"], nights.logs["clicks"]
    shown = views[views["day"] == BAD]
    of_day = clicks["view"].isin(shown["view"])
    drawn = shown.sample(int(of_day.sum()), random_state=0)
    at = drawn["seen"].dt.tz_localize(small_logs.ZONE).dt.tz_convert("UTC").map(lambda t: t.isoformat())
    shuffled = pd.DataFrame({"view": drawn["view"], "at": at})
    bad = nights.with_logs(tmp_path, clicks=pd.concat([clicks[~of_day], shuffled], ignore_index=True))
    decision = bad.run(BAD)
    assert decision.outcome is Outcome.HELD, decision.reason
    assert "check the labels of this day" in decision.reason
    assert bad.serving() == GOOD[1]

    # Its model has learnt from the shuffled day; the labels that it is judged by are right again.
    decision = bad.run(NEXT)
    assert decision.outcome is Outcome.HELD, decision.reason
    assert "overall: GAUC -" in decision.reason
    assert "against the serving model" in decision.reason
    assert bad.serving() == GOOD[1]

    # A person knows better, and then thinks better of it.
    decisions = Decisions(bad.settings)
    decisions.promote(decision.run_id, "a test of the way back", by="ann")
    assert bad.serving() == NEXT
    decisions.rollback("as the gate said", by="ann")
    assert bad.serving() == GOOD[1]
    said = [(d.ds, str(d.outcome), d.by) for d in decisions.all()]
    assert said == [
        (GOOD[0], "promoted", "gate"),
        (GOOD[1], "promoted", "gate"),
        (BAD, "held", "gate"),
        (NEXT, "held", "gate"),
        (NEXT, "promoted manually", "ann"),
        (GOOD[1], "rolled back", "ann"),
    ]


def test_a_day_with_missing_rows_is_not_judged(nights: Nights, tmp_path: Path) -> None:
    """The largest domain is missing, and the others have half of their rows."""
    views = nights.logs["views"]
    others = views[(views["day"] == BAD) & (views["surface"] != "home")]
    left = pd.concat([views[views["day"] != BAD], others.sample(frac=0.5, random_state=0)], ignore_index=True)
    bad = nights.with_logs(tmp_path, views=left)
    decision = bad.run(BAD)
    assert decision.outcome is Outcome.TOO_SMALL, decision.reason
    assert "0 rows in domain home, compared with a median of" in decision.reason
    assert " rows, compared with a median of" in decision.reason
    assert "gate.min_share" in decision.reason
    assert bad.serving() == GOOD[1]
