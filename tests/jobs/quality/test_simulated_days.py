"""The measures of the simulated logs: no day has a jump."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from star_ctr.conf.contracts.dates import list_window_days
from star_ctr.conf.load import load
from star_ctr.conf.settings.features import Categorical, Numeric
from star_ctr.jobs import features, ingest
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.quality.jumps import find_jumps
from star_ctr.jobs.quality.measures import UNSEEN, read_measures
from star_ctr.jobs.quality.profile import measure_unseen
from star_ctr.jobs.tools import simulate
from tests.conftest import on_request

LAST = "2026-01-12"


@pytest.mark.slow
@pytest.mark.spark
@on_request
def test_simulated_days_have_no_jumps(tmp_path: Path, spark: SparkSession) -> None:
    sizes = "simulate={impressions: 80000, days: 8, first_day: 2026-01-05, users: 4000, items: 1000, seed: 1}"
    conf = load("demo", [f"paths={{logs: {tmp_path}/logs, warehouse: {tmp_path}/warehouse}}", sizes, "window.days=7"])
    # Without statistics and sequences, which have no measures.
    read = [f for f in conf.features if isinstance(f, Categorical | Numeric)]
    conf = conf.model_copy(update={"features": read, "history": {}})
    simulate.run(conf, spark)
    ingest.run(conf, spark, LAST)
    features.run(conf, spark, LAST)
    days, rows = list_window_days(conf, LAST), WarehouseTables(conf, spark).read("features")
    measures = [m for m in read_measures(conf, LAST) if m.measure != UNSEEN]
    for k in range(3, len(days)):
        measures += measure_unseen(conf, rows, [days[k]], days[:k])
    assert len({(m.log, m.name, m.measure) for m in measures}) > 150
    found = {day: [jump.sentence for jump in find_jumps(measures, day)] for day in days}
    assert found == {day: [] for day in days}
