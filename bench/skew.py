"""Benchmark: point-in-time features of a log in which one item and one user have very many events.

The log has 10 million events of two days and a million rows on the second day. One item has 30% of both, one user 10%.
The features are statistics and sequences with the cuts `day` and `time`. The sums and last events by day are computed
and stored first. All shuffles have eight partitions. A smaller log, with a twentieth of the events, is computed before
the measurement, because the JVM compiles in its first half minute, which slows down the first tasks only.

- `features_skew`: of all stages with at least a twentieth of the time of all tasks, the largest ratio of the longest
  task to an even share: the time of all tasks of the stage, divided by their number, or by eight if there are more. A
  stage that reads several inputs has more tasks, of different sizes, and none of them should exceed an even share of
  eight slots.
- `features_skew_memory`: the largest resident memory of a Python worker, in MiB.

    python bench/skew.py [--events 10000000]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from entries import make_entry
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from star_ctr.conf.load import load
from star_ctr.conf.settings.features import History, Sequence, Statistic
from star_ctr.conf.settings.root import Settings

TASKS = 8
ITEM_SHARE, USER_SHARE = 0.3, 0.1
WORK = 0.05
"""Minimum share of the time of all tasks for a stage to count."""
_DAY = 86_400_000_000
_FIRST = 20_000
"""The first day, as days since 1970."""
_SCHEMA = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("domain", pa.string()), ("t", pa.int64())])


class Stage(NamedTuple):
    """A stage of Spark: its number, and the milliseconds of its tasks."""

    number: int
    times: list[int]

    @property
    def ratio(self) -> float:
        """The time of the longest task over an even share of the time of all tasks."""
        return max(self.times) * min(len(self.times), TASKS) / max(sum(self.times), 1)


def generate(folder: Path, events: int, rows: int) -> None:
    """Write the events and rows, in files of equal size.

    Args:
        folder: The folder to write to.
        events: The number of events of both days.
        rows: The number of rows of the second day.
    """
    rng = np.random.default_rng(0)
    users, items = max(events // 50, 100), max(events // 500, 100)

    def draw(name: str, n: int, first: int, days: int) -> None:
        (folder / name).mkdir()
        for k in range(TASKS):
            size = n // TASKS
            user = np.where(rng.random(size) < USER_SHARE, 0, rng.integers(1, users, size))
            item = np.where(rng.random(size) < ITEM_SHARE, 0, rng.integers(1, items, size))
            columns = [
                np.char.add("u", user.astype(str)),
                np.char.add("i", item.astype(str)),
                rng.choice(["feed", "search", "shop"], size),
                _DAY * first + rng.integers(0, days * 86_400, size) * 1_000_000,
            ]
            arrays = [pa.array(c, kind) for c, kind in zip(columns, _SCHEMA.types, strict=True)]
            pq.write_table(pa.table(arrays, schema=_SCHEMA), folder / name / f"{k}.parquet")

    draw("events", events, _FIRST, 2)
    draw("rows", rows, _FIRST + 1, 1)


def configure() -> Settings:
    """Return the settings."""
    conf = ["spark.master=local[2]", f"spark.shuffle_partitions={TASKS}", "spark.driver_memory=2g"]
    conf.append("spark.conf={spark.sql.adaptive.coalescePartitions.enabled: 'false', spark.ui.retainedStages: '1000'}")
    features = [
        Statistic(name="item", kind="statistic", by=["item_id"], counts=["shown"], since=["shown"], cut="time"),
        Statistic(name="pair", kind="statistic", by=["item_id", "domain"], counts=["shown"], cut="time"),
        Statistic(name="user", kind="statistic", by=["user_id"], counts=["shown"], cut="time"),
        Statistic(name="old", kind="statistic", by=["user_id", "item_id"], counts=["shown"], cut="day"),
        Sequence(name="now", kind="sequence", of=["shown"], columns={"item_id": "v"}, length=20, cut="time"),
        Sequence(name="before", kind="sequence", of=["shown"], columns={"item_id": "v"}, length=20, cut="day"),
    ]
    history = {"shown": History(impressions=True)}
    return load("demo", conf).model_copy(update={"features": features, "history": history, "zone": "UTC"})


def compute(settings: Settings, spark: SparkSession, folder: Path) -> None:
    """Compute the features of all rows, and write them."""
    from star_ctr.features.point_in_time.events import LOG_DAY, SCALE, name_weight_column
    from star_ctr.features.point_in_time.scan_planner import History as Known
    from star_ctr.features.point_in_time.scan_planner import add_history, compute_history

    def read(name: str) -> DataFrame:
        rows = spark.read.parquet(str(folder / name))
        return rows.withColumn("_id", F.concat_ws("-", F.spark_partition_id(), F.monotonically_increasing_id()))

    day = F.date_format(F.timestamp_micros("t"), "yyyy-MM-dd")
    events = read("events").select(
        "user_id", "item_id", "domain", "t", F.col("t").alias("order"), F.col("_id").alias("tie"), day.alias(LOG_DAY),
        F.lit(SCALE).cast("long").alias(name_weight_column("shown")),
    )  # fmt: skip
    rows = read("rows").withColumns({"impression_id": F.col("_id"), "ts": F.timestamp_micros("t"), "ds": day})
    history = compute_history(settings, events)
    for name, table in (("counts", history.counts), ("lists", history.lists)):
        assert table is not None
        table.write.parquet(str(folder / name))
    stored = (spark.read.parquet(str(folder / name)) for name in ("counts", "lists"))
    today = events.where(F.col("t") >= _DAY * (_FIRST + 1))
    with ExitStack() as stack:
        found = add_history(settings, rows.drop("t", "_id"), Known(*stored, today), stack)
        found.write.mode("overwrite").parquet(str(folder / "features"))


def list_stages(spark: SparkSession) -> list[Stage]:
    """Return all stages that have run in a session."""
    store: Any = spark.sparkContext._jsc.sc().statusStore()  # type: ignore[union-attr]
    found: Any = store.stageList(
        None,
        False,
        False,
        spark.sparkContext._gateway.new_array(  # type: ignore[union-attr]
            spark.sparkContext._jvm.double, 0
        ),
        None,
    )  # type: ignore[union-attr]
    stages = []
    for k in range(found.size()):
        data = found.apply(k)
        tasks = store.taskList(data.stageId(), data.attemptId(), 1_000)
        metrics = [tasks.apply(n).taskMetrics() for n in range(tasks.size())]
        times = [int(m.get().executorRunTime()) for m in metrics if m.isDefined()]
        stages += [Stage(int(data.stageId()), times)] if times else []
    return sorted(stages)


class WorkerMemory(threading.Thread):
    """Finds the largest resident memory of the Python workers of Spark, in KiB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.largest, self._ended = 0, threading.Event()

    def run(self) -> None:
        """Look at all processes ten times per second."""
        while not self._ended.wait(0.1):
            for status in Path("/proc").glob("[0-9]*/status"):
                try:
                    if b"pyspark.daemon" not in (status.parent / "cmdline").read_bytes():
                        continue
                    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
                except OSError:  # the process has just ended
                    continue
                self.largest = max(self.largest, int(fields.get("VmRSS", "0 kB").split()[0]))

    def finish(self) -> int:
        """Stop, and return the largest memory in KiB."""
        self._ended.set()
        self.join()
        return self.largest


def run(events: int = 10_000_000) -> list[dict[str, Any]]:
    """Measure, and return the entries of bench.json.

    Args:
        events: The number of events. A tenth of it is the number of rows.
    """
    from star_ctr.jobs.io.session import start

    settings = configure()
    with tempfile.TemporaryDirectory(prefix="star-ctr-skew-") as name:
        folder, warm_up = Path(name) / "all", Path(name) / "warm_up"
        for target, n in ((folder, events), (warm_up, events // 20)):
            target.mkdir()
            generate(target, n, n // 10)
        spark = start(settings, "skew")
        memory = WorkerMemory()
        memory.start()
        try:
            compute(settings, spark, warm_up)
            before = {stage.number for stage in list_stages(spark)}
            compute(settings, spark, folder)
            stages = [stage for stage in list_stages(spark) if stage.number not in before]
        finally:
            largest = memory.finish()
            spark.stop()
    total = sum(sum(stage.times) for stage in stages)
    working = [s for s in stages if len(s.times) > 1 and sum(s.times) >= WORK * total]
    detail = ", ".join(f"{sum(s.times) / 1000:.0f} s in {len(s.times)} tasks: {s.ratio:.2f}" for s in working)
    detail = f"{events:,} events, {events // 10:,} rows; {total / 1000:.0f} s of tasks; stages: {detail}"
    return [
        make_entry("features_skew", max(s.ratio for s in working), "longest task over an even share", 1.5, detail),
        make_entry("features_skew_memory", largest / 1024, "MiB of a Python worker", 1024, f"{events:,} events"),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000, help="number of events")
    print(json.dumps(run(parser.parse_args().events), indent=1))
