"""The Spark session of a step, and the way in for `spark-submit`."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from star_ctr.conf.contracts.catalog import TABLE_PROPERTIES
from star_ctr.conf.errors import UserError, format_user_error
from star_ctr.conf.settings.root import Settings

DELTA_PACKAGE = "io.delta:delta-spark_2.13:4.0.1"

_DELTA = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}
# What every step relies on, under spark-submit too.
_RUNTIME = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
    # pandas writes Parquet times in nanoseconds, which Spark otherwise refuses to read at all.
    "spark.sql.legacy.parquet.nanosAsLong": "true",
    # Allow GBK, windows-1252 and others; by default, Spark 4 only reads ISO-8859-1, UTF-8, UTF-16 and UTF-32.
    "spark.sql.legacy.javaCharsets": "true",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "16384",
    **{f"spark.databricks.delta.properties.defaults.{k}": v for k, v in TABLE_PROPERTIES.items()},
}


def start(settings: Settings, app: str) -> SparkSession:
    """The session for a step: spark-submit's own where it runs under that, else a new one with Delta.

    Raises `UserError` with the remedy where Java is missing or Delta's jars cannot be had.
    """
    if _is_submitted():
        session = SparkSession.builder.appName(app).getOrCreate()
        if "delta" not in (session.conf.get("spark.sql.extensions", "") or "").lower():
            raise UserError(
                "this spark-submit knows nothing of Delta; add: --packages "
                f"{DELTA_PACKAGE} " + " ".join(f"--conf {k}={v}" for k, v in _DELTA.items())
            )
    else:
        session = _create(settings, app)
    for key, value in _RUNTIME.items():
        session.conf.set(key, value)
    session.sparkContext.setLogLevel("ERROR")
    return session


def _is_submitted() -> bool:
    return "PYSPARK_GATEWAY_PORT" in os.environ


def _create(settings: Settings, app: str) -> SparkSession:
    check_java()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    from delta import configure_spark_with_delta_pip

    options = {
        **_DELTA,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.memory": settings.spark.driver_memory,
        "spark.sql.shuffle.partitions": str(settings.spark.shuffle_partitions),
        "spark.databricks.delta.snapshotPartitions": "2",
        # What is broadcast passes through the driver, several times as large as its files.
        "spark.sql.autoBroadcastJoinThreshold": "2m",
        # A task buffers a row group before it writes it: of wide rows with lists, several tasks' fill a small heap.
        "spark.hadoop.parquet.block.size": str(32 << 20),
        # A training that asks for more slots than there are is told so in half a minute, and not in ten.
        "spark.scheduler.barrier.maxConcurrentTasksCheck.interval": "5s",
        "spark.scheduler.barrier.maxConcurrentTasksCheck.maxFailures": "6",
        "spark.sql.warehouse.dir": str(Path("build/spark-warehouse").absolute()),
        **settings.spark.conf,
    }
    if settings.spark.master.startswith("local"):
        options.setdefault("spark.driver.host", "127.0.0.1")
        options.setdefault("spark.driver.bindAddress", "127.0.0.1")
    # Delta's own list of packages would take the place of the configuration's.
    packages = [name for name in options.pop("spark.jars.packages", "").split(",") if name]
    builder = SparkSession.builder.master(settings.spark.master).appName(app)
    for key, value in options.items():
        builder = builder.config(key, value)
    log = _log_file()
    with _redirect_stderr(log):
        try:
            return configure_spark_with_delta_pip(builder, packages).getOrCreate()
        except Exception as error:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
            raise UserError(
                f"Spark did not start: {error}\n{tail}\n(the whole of it: {log}). At first use Delta's jars come from "
                "Maven Central: is it reachable, or is a proxy needed (spark.conf in the configuration)?"
            ) from None


def _log_file() -> Path:
    path = Path(os.environ.get("STAR_CTR_SPARK_LOG", "build/spark.log")).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def _redirect_stderr(path: Path) -> Iterator[None]:
    """The JVM inherits stderr when it starts: its chatter goes to a file instead of over the progress display."""
    sys.stderr.flush()
    saved = os.dup(2)
    with path.open("ab") as target:
        os.dup2(target.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def check_java() -> None:
    """Raise `UserError` with the remedy unless a Java that Spark 4 runs on is found."""
    home = os.environ.get("JAVA_HOME")
    java = f"{home}/bin/java" if home else shutil.which("java")
    remedy = "install Java 17 or 21 (Debian: apt-get install openjdk-17-jre-headless) or point JAVA_HOME at one"
    if not java or not Path(java).exists():
        raise UserError(f"Spark needs Java and found none; {remedy}")
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    match = re.search(r'version "(\d+)', answer.stderr + answer.stdout)
    # Hadoop, which Spark brings along, calls what Java 24 took away.
    if match is None or not 17 <= int(match.group(1)) < 24:
        found = f"Java {match.group(1)}" if match else "no usable Java"
        raise UserError(f"Spark 4 needs Java 17 or 21, and {java} is {found}; {remedy}")
    modules = subprocess.run([java, "--list-modules"], capture_output=True, text=True, check=False)
    if "jdk.incubator.vector" not in modules.stdout:
        raise UserError(f"{java} lacks the module jdk.incubator.vector that Spark 4 loads; {remedy} (a full one)")


def run_submitted(
    app: str, run: Callable[..., Any], declare: Callable[[argparse.ArgumentParser], None] | None = None
) -> None:
    """Run a job that is not a step of a night under spark-submit.

    The command is `spark-submit jobs/JOB.py --conf CONF [--ds DAY] [--set key=value]`.
    `declare` adds the job's own arguments, which are passed to `run` by name instead of `--ds`.
    """
    from star_ctr.conf.load import load

    parser = argparse.ArgumentParser(prog=app, description=sys.modules["__main__"].__doc__)
    parser.add_argument("--conf", required=True, help="the data set's YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    if declare is None:
        parser.add_argument("--ds", default=None, help="the day, as in 2022-05-05; the newest one if not given")
    else:
        declare(parser)
    arguments = vars(parser.parse_args())
    try:
        settings = load(arguments.pop("conf"), arguments.pop("overrides"))
        session = start(settings, f"star-ctr {app}")
        result = run(settings, session, **arguments)
        print(f"{app}: {result}")
    except Exception as error:
        if message := format_user_error(error):
            raise SystemExit(f"{app}: {message}") from None
        raise


def run_submitted_step(name: str) -> None:
    """Run a step of a night under `spark-submit jobs/STEP.py`, with the lease and the journal, like `star-ctr STEP`."""
    # Import by name, so that the code hashes of the steps do not include `workflows`.
    importlib.import_module("star_ctr.workflows.spark_submit").main(name)
