"""A complete night on small logs with faulty rows, and the content of its tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from pyspark.sql import SparkSession

from star_ctr.conf.contracts.catalog import TABLES
from star_ctr.conf.load import load
from star_ctr.jobs.io.day_records import PARTS
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.workflows import nightly
from tests import small_logs

DS = small_logs.DAYS[-1]


def _drop_inputs(outputs: str) -> str:
    """Return the outputs of a day without the hashes of its inputs."""
    return json.dumps({key: value for key, value in json.loads(outputs).items() if key != PARTS})


class Night:
    """Logs with duplicates, conflicts, missing users and unmatched clicks, and the tables of a night on them."""

    def __init__(self, folder: Path, spark: SparkSession) -> None:
        self.spark = spark
        logs = small_logs.frames()
        views, clicks = logs["views"], logs["clicks"]
        # an item that occurs only on the test day
        views.loc[views[views["day"] == DS].index[:4], "sku"] = "s-new"
        self.good_views = len(views)
        self.duplicates = views.sample(7, random_state=1)
        bad = views.sample(5, random_state=2).assign(visitor=None)
        bad["view"] = "bad-" + bad["view"]
        conflict = views.iloc[[0]].assign(slot=99)
        logs["views"] = pd.concat([views, self.duplicates, bad, conflict], ignore_index=True)
        logs["clicks"] = pd.concat(
            [clicks, clicks.iloc[:3], pd.DataFrame([("nobody", clicks["at"][0])], columns=["view", "at"])]
        )
        self.conf = small_logs.write(folder, logs)
        self.settings = load(self.conf)
        before = self._list_persisted()
        self.metrics = nightly.run(self.settings, spark, DS)["metrics"]
        self.left_in_memory = self._list_persisted() - before
        self.copy = folder / "copy"
        """Logs and warehouse as the night left them; tests may change the originals."""
        for name in ("logs", "warehouse"):
            shutil.copytree(folder / name, self.copy / name)

    def _list_persisted(self) -> set[int]:
        """List the persisted DataFrames of the session, without the table states that Delta persists."""
        context: Any = self.spark.sparkContext
        persisted = context._jsc.getPersistentRDDs()
        return {number for number in persisted if "Delta Table State" not in str(persisted[number].name())}

    def table(self, name: str) -> pd.DataFrame:
        return WarehouseTables(self.settings, self.spark).read(name).toPandas()

    def contents(self) -> dict[str, pd.DataFrame]:
        """Read all tables except the journal and the lease, with sorted rows and only reproducible columns of `runs`."""
        store, found = WarehouseTables(self.settings, self.spark), {}
        for name in TABLES:
            if name in ("steps", "lease") or not store.exists(name):
                continue
            rows = store.read(name).toPandas()
            if name == "runs":
                rows = rows[["run_id", "ds", "model", "seed", "config", "code", "rows", "max_score_difference"]]
            if name == "days":
                # The hashes of the inputs of `ingest` contain the times of files.
                rows = rows[["part", "ds", "outputs"]].assign(outputs=rows["outputs"].map(_drop_inputs))
            text = rows.astype(str)
            found[name] = text.sort_values(list(text.columns), ignore_index=True)
        return found
