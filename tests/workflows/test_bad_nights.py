"""Days with faulty logs, and the decisions of the gate on their nights."""

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
ROWS = 4_000  # per day, of 30 users; the standard error of GAUC is then about 0.02


class Nights:
    """Logs and their warehouse in a folder."""

    def __init__(self, folder: Path, spark: SparkSession, logs: dict[str, pd.DataFrame]) -> None:
        self.folder, self.spark, self.logs = folder, spark, logs
        conf = small_logs.write(folder, logs)
        # GAUC of models trained on one day of these logs varies by about 0.02; random labels cost about 0.1.
        gate = ["gate.domain_rows=1000", "gate.gauc_margin=0.04", "gate.domain_margin=0.08"]
        self.settings = load(conf, ["window.days=1", "trainer.epochs=3", *gate])

    def with_logs(self, folder: Path, **changed: pd.DataFrame) -> Nights:
        """Return a copy with other logs in another folder."""
        shutil.copytree(self.folder / "warehouse", folder / "warehouse")
        return Nights(folder, self.spark, {**self.logs, **changed})

    def run(self, ds: str) -> Decision:
        """Run a night, and return the decision of the gate."""
        nightly.run(self.settings, self.spark, ds)
        return Decisions(self.settings).read_all()[-1]

    def serving(self) -> str:
        """Return the night of the serving model."""
        now = find_serving(Decisions(self.settings).read_all())
        assert now is not None
        return now.ds


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Nights:
    """Run two good nights, after which the model of the second one is serving."""
    good = Nights(tmp_path_factory.mktemp("good"), spark, small_logs.frames(rows_a_day=ROWS, days=DAYS))
    assert good.run(GOOD[0]).reason == "no model is served yet, and the candidate passed all checks"
    second = good.run(GOOD[1])
    assert (second.outcome, second.ds) == (Outcome.PROMOTED, GOOD[1]), second.reason
    compared = ("not worse than the serving model", "worse than the serving model, but within the margin")
    assert second.reason.startswith(compared), second.reason
    return good


def test_a_day_with_shuffled_labels_and_a_model_trained_on_it_are_held(nights: Nights, tmp_path: Path) -> None:
    views, clicks = nights.logs["views"], nights.logs["clicks"]
    shown = views[views["day"] == BAD]
    is_on_day = clicks["view"].isin(shown["view"])
    drawn = shown.sample(int(is_on_day.sum()), random_state=0)
    at = drawn["seen"].dt.tz_localize(small_logs.ZONE).dt.tz_convert("UTC").map(lambda t: t.isoformat())
    shuffled = pd.DataFrame({"view": drawn["view"], "at": at})
    bad = nights.with_logs(tmp_path, clicks=pd.concat([clicks[~is_on_day], shuffled], ignore_index=True))
    decision = bad.run(BAD)
    assert decision.outcome is Outcome.HELD, decision.reason
    assert "check the labels of this day" in decision.reason
    assert bad.serving() == GOOD[1]

    # The next model is trained on the shuffled day, and evaluated on correct labels.
    decision = bad.run(NEXT)
    assert decision.outcome is Outcome.HELD, decision.reason
    assert "overall: GAUC -" in decision.reason
    assert "against the serving model" in decision.reason
    assert bad.serving() == GOOD[1]

    # A person promotes the model and then rolls back.
    decisions = Decisions(bad.settings)
    decisions.promote(decision.run_id, "to test a rollback", by="ann")
    assert bad.serving() == NEXT
    decisions.rollback("as the gate decided", by="ann")
    assert bad.serving() == GOOD[1]
    history = [(d.ds, str(d.outcome), d.by) for d in decisions.read_all()]
    assert history == [
        (GOOD[0], "promoted", "gate"),
        (GOOD[1], "promoted", "gate"),
        (BAD, "held", "gate"),
        (NEXT, "held", "gate"),
        (NEXT, "promoted manually", "ann"),
        (GOOD[1], "rolled back", "ann"),
    ]
