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
from tests.conftest import on_request

pytestmark = [pytest.mark.spark, pytest.mark.slow]

GOOD, NEXT, LAST = small_logs.DAYS[1:]
ROWS = 4_000  # per day, of 30 users; the standard error of GAUC is then about 0.02


class Nights:
    """Logs and their warehouse in a folder."""

    def __init__(self, folder: Path, spark: SparkSession, logs: dict[str, pd.DataFrame]) -> None:
        self.folder, self.spark, self.logs = folder, spark, logs
        conf = small_logs.write(folder, logs, small_logs.FEW_FEATURES)
        # GAUC of models trained on one day of these logs varies by about 0.02; random labels cost about 0.1.
        gate = ["gate.domain_rows=1000", "gate.gauc_margin=0.04", "gate.domain_margin=0.08"]
        self.settings = load(conf, ["window.days=1", "trainer.epochs=3", *gate])

    def with_shuffled_labels(self, folder: Path, day: str) -> Nights:
        """Return a copy in another folder, in which the clicks of a day belong to random impressions."""
        shutil.copytree(self.folder / "warehouse", folder / "warehouse")
        views, clicks = self.logs["views"], self.logs["clicks"]
        shown = views[views["day"] == day]
        is_on_day = clicks["view"].isin(shown["view"])
        drawn = shown.sample(int(is_on_day.sum()), random_state=0)
        at = drawn["seen"].dt.tz_localize(small_logs.ZONE).dt.tz_convert("UTC").map(lambda t: t.isoformat())
        shuffled = pd.DataFrame({"view": drawn["view"], "at": at})
        changed = pd.concat([clicks[~is_on_day], shuffled], ignore_index=True)
        return Nights(folder, self.spark, {**self.logs, "clicks": changed})

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
    """Run a good night, whose model is serving."""
    good = Nights(tmp_path_factory.mktemp("good"), spark, small_logs.frames(rows_a_day=ROWS))
    assert good.run(GOOD).reason == "no model is served yet, and the candidate passed all checks"
    return good


def test_a_day_with_shuffled_labels_is_held(nights: Nights, tmp_path: Path) -> None:
    bad = nights.with_shuffled_labels(tmp_path, NEXT)
    decision = bad.run(NEXT)
    assert decision.outcome is Outcome.HELD, decision.reason
    assert "check the labels of this day" in decision.reason
    assert bad.serving() == GOOD

    # A person promotes the model and then rolls back.
    decisions = Decisions(bad.settings)
    decisions.promote(decision.run_id, "to test a rollback", by="ann")
    assert bad.serving() == NEXT
    decisions.rollback("as the gate decided", by="ann")
    assert bad.serving() == GOOD
    history = [(d.ds, str(d.outcome), d.by) for d in decisions.read_all()]
    assert history == [
        (GOOD, "promoted", "gate"), (NEXT, "held", "gate"), (NEXT, "promoted manually", "ann"), (GOOD, "rolled back", "ann")
    ]  # fmt: skip


@on_request
def test_a_good_model_is_promoted_and_a_model_trained_on_shuffled_labels_is_held(
    nights: Nights, tmp_path: Path
) -> None:
    bad = nights.with_shuffled_labels(tmp_path / "bad", NEXT)
    bad.run(NEXT)
    decision = bad.run(LAST)  # evaluated on correct labels
    assert decision.outcome is Outcome.HELD, decision.reason
    assert "overall: GAUC -" in decision.reason
    assert "against the serving model" in decision.reason
    assert bad.serving() == GOOD

    second = nights.run(NEXT)
    assert (second.outcome, second.ds) == (Outcome.PROMOTED, NEXT), second.reason
    compared = ("not worse than the serving model", "worse than the serving model, but within the margin")
    assert second.reason.startswith(compared), second.reason
