"""The Spark session of a step, and the entry points for `spark-submit`."""

from __future__ import annotations

import argparse
import importlib
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock
from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.logger import PySparkLogger
from pyspark.sql import SparkSession

from star_ctr.conf.contracts.catalog import TABLE_PROPERTIES
from star_ctr.conf.errors import UserError, describe_full_storage
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.external_errors import format_error

AVRO_PACKAGE = "org.apache.spark:spark-avro_2.13:4.0.1"
"""Maven coordinates of Spark's reader of Avro files."""
SPARK_ERRORS = (PySparkException, Py4JJavaError)
"""Exceptions that Spark raises."""
DELTA_PACKAGE = "io.delta:delta-spark_2.13:4.0.1"
"""Maven coordinates of Delta Lake, for `spark-submit --packages`."""

_JAVA_VARIABLES = ("JDK_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "SPARK_SUBMIT_OPTS")
"""Environment variables with options of Java."""
_DELTA = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}
# Options that every step needs, also under spark-submit.
_RUNTIME = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
    # pandas writes Parquet times in nanoseconds, which Spark cannot read without this option.
    "spark.sql.legacy.parquet.nanosAsLong": "true",
    # Allow GBK, windows-1252 and others; by default, Spark 4 only reads ISO-8859-1, UTF-8, UTF-16 and UTF-32.
    "spark.sql.legacy.javaCharsets": "true",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "16384",
    **{f"spark.databricks.delta.properties.defaults.{k}": v for k, v in TABLE_PROPERTIES.items()},
}

# By default, the driver keeps a thousand jobs, stages and query plans in memory for the web interface.
_KEEP_FEW_QUERIES = {
    "spark.ui.retainedJobs": "100",
    "spark.ui.retainedStages": "100",
    "spark.ui.retainedTasks": "1000",
    "spark.sql.ui.retainedExecutions": "10",
}


def start(settings: Settings, app: str) -> SparkSession:
    """Return the Spark session for a step: that of spark-submit, or else a new one with Delta Lake.

    Args:
        settings: The settings of the data set; `spark` configures a new session.
        app: The name of the application.

    Raises:
        UserError: Java is missing, Spark did not start, or the session of spark-submit has no Delta Lake. The message
            contains the remedy.
    """
    if _is_submitted():
        session = SparkSession.builder.appName(app).getOrCreate()
        if "delta" not in (session.conf.get("spark.sql.extensions", "") or "").lower():
            raise UserError(
                "the session of spark-submit has no Delta Lake; add these options: --packages "
                f"{DELTA_PACKAGE} " + " ".join(f"--conf {k}={v}" for k, v in _DELTA.items())
            )
    else:
        session = _create(settings, app)
    for key, value in _RUNTIME.items():
        session.conf.set(key, value)
    session.sparkContext.setLogLevel("ERROR")
    # These write the Java stack trace of each invalid query to stderr.
    for name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        PySparkLogger.getLogger(name).disabled = True
    return session


def _is_submitted() -> bool:
    return "PYSPARK_GATEWAY_PORT" in os.environ


def _create(settings: Settings, app: str) -> SparkSession:
    """Create a session with the settings in `spark`; the output of the JVM goes to a log file."""
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
        # Broadcast tables pass through the driver, where they need several times the size of their files.
        "spark.sql.autoBroadcastJoinThreshold": "2m",
        # Each task buffers a row group before writing it. With wide rows of lists, this could fill a small heap.
        "spark.hadoop.parquet.block.size": str(32 << 20),
        # Fail after half a minute instead of ten if a training run needs more slots than the cluster has.
        "spark.scheduler.barrier.maxConcurrentTasksCheck.interval": "5s",
        "spark.scheduler.barrier.maxConcurrentTasksCheck.maxFailures": "6",
        "spark.sql.warehouse.dir": str(Path("build/spark-warehouse").absolute()),
        **settings.spark.conf,
    }
    if options["spark.ui.enabled"] == "false":
        options = {**_KEEP_FEW_QUERIES, **options}
    options = choose_collector(options)
    if settings.spark.master.startswith("local"):
        options.setdefault("spark.driver.host", "127.0.0.1")
        options.setdefault("spark.driver.bindAddress", "127.0.0.1")
    # Pass the configured packages to Delta's function, which would otherwise replace them.
    packages = [name for name in options.pop("spark.jars.packages", "").split(",") if name]
    sources = [source for log in settings.logs.get_declared().values() for source in log.list_sources().values()]
    if any(source.format == "avro" for source in sources):
        packages.append(AVRO_PACKAGE)
    builder = SparkSession.builder.master(settings.spark.master).appName(app)
    for key, value in options.items():
        builder = builder.config(key, value)
    log = _prepare_log_file()
    with _redirect_stderr(log):
        try:
            with _lock_downloads(options, packages):
                return configure_spark_with_delta_pip(builder, packages).getOrCreate()
        except Exception as error:
            raise UserError(_describe_start_failure(error, log)) from None


def _describe_start_failure(error: Exception, log: Path) -> str:
    """Describe why Spark did not start: the JVM's error, or the end of its log."""
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:]) if log.is_file() else ""
    if describe_full_storage(error) or describe_full_storage(RuntimeError(tail)):
        return (
            "Spark did not start: no space left on device. Free space in spark.local.dir (default: /tmp), or set it to "
            f"a larger disk in spark.conf; see the full log: {log}"
        )
    if isinstance(error, Py4JJavaError):
        return f"Spark did not start: {format_error(error)}; see the full log: {log}"
    return (
        f"Spark did not start: {error}\n{tail}\n(full log: {log}). On first use, Spark downloads Delta Lake "
        "from Maven Central; check that it is reachable, or set a proxy under `spark.conf` in the YAML file"
    )


def choose_collector(options: Mapping[str, str]) -> dict[str, str]:
    """Choose the garbage collector of the driver, unless an option already selects one: Java accepts only one.

    Args:
        options: The options of the session.

    Returns:
        The options with the parallel collector, which takes less processor time than the default. Its longer pauses do
        not matter in a batch job.
    """
    given = [os.environ.get(name, "") for name in _JAVA_VARIABLES]
    folder = os.environ.get("SPARK_CONF_DIR") or f"{os.environ.get('SPARK_HOME', '?')}/conf"
    defaults = Path(folder) / "spark-defaults.conf"
    given += [defaults.read_text(errors="replace")] if defaults.is_file() else []
    given += [text for key, text in options.items() if key.startswith("spark.driver.") and key.endswith("JavaOptions")]
    if any(re.search(r"-XX:\+Use\w+GC\b|spark\.driver\.defaultJavaOptions", text) for text in given):
        return dict(options)
    return {"spark.driver.defaultJavaOptions": "-XX:+UseParallelGC", **options}


def _lock_downloads(options: Mapping[str, str], packages: Sequence[str]) -> AbstractContextManager[object]:
    """Return a lock for the start of a session that may download packages; a null context if it downloads nothing.

    If two processes download to the same new Ivy folder at the same time, one of them fails.
    """
    folder = Path(options.get("spark.jars.ivy") or _find_java_home_folder() / ".ivy2.5.2").absolute()
    jar = folder / "jars" / f"{DELTA_PACKAGE.replace(':', '_', 1).replace(':', '-')}.jar"
    if jar.is_file() and not packages:
        return nullcontext()
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / ".star-ctr.lock", timeout=600)


def _find_java_home_folder() -> Path:
    """Return the home folder that Java uses, which does not depend on HOME; `?` if the user id has no name."""
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return Path("?")


def _prepare_log_file() -> Path:
    """Return the path of Spark's log file, and create its folder."""
    path = Path(os.environ.get("STAR_CTR_SPARK_LOG", "build/spark.log")).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def _redirect_stderr(path: Path) -> Iterator[None]:
    """Append stderr to a file, so that a JVM that starts inside the block does not write over the progress display."""
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
    """Check that Spark 4 can run on the installed Java: a full Java 17 or 21.

    Uses `JAVA_HOME`, or else `java` on the PATH.

    Raises:
        UserError: There is no suitable Java. The message contains the remedy.
    """
    home = os.environ.get("JAVA_HOME")
    java = f"{home}/bin/java" if home else shutil.which("java")
    remedy = "install Java 17 or 21 (Debian: apt-get install openjdk-17-jre-headless), or set JAVA_HOME to its folder"
    if not java or not Path(java).exists():
        raise UserError(f"Spark needs Java, but none was found; {remedy}")
    result = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    match = re.search(r'version "(\d+)', result.stderr + result.stdout)
    # Hadoop, which is part of Spark, calls methods that Java 24 removed.
    if match is None or not 17 <= int(match.group(1)) < 24:
        found = f"Java {match.group(1)}" if match else "no usable Java"
        raise UserError(f"Spark 4 needs Java 17 or 21, but {java} is {found}; {remedy}")
    modules = subprocess.run([java, "--list-modules"], capture_output=True, text=True, check=False)
    if "jdk.incubator.vector" not in modules.stdout:
        raise UserError(
            f"{java}: the module jdk.incubator.vector, which Spark 4 needs, is missing; {remedy}. It must be a full "
            "Java runtime"
        )


def run_submitted(
    app: str, run: Callable[..., Any], declare: Callable[[argparse.ArgumentParser], None] | None = None
) -> None:
    """Run a job that is not a step of a night under spark-submit.

    The command is `spark-submit jobs/tools/JOB.py --conf CONF [--ds DAY] [--set key=value]`. Errors that the user can
    fix end the process with a one-line message.

    Args:
        app: The name of the job.
        run: The function of the job. It is called with the settings, the session, and the arguments by name.
        declare: Adds the arguments of the job to a parser. By default, the job has the argument `--ds`.

    Raises:
        SystemExit: The job failed with an error that the user can fix. Its text is the one-line message.
    """
    from star_ctr.conf.load import load

    parser = argparse.ArgumentParser(prog=app, description=sys.modules["__main__"].__doc__)
    parser.add_argument("--conf", required=True, help="the YAML file of the data set")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override a setting; can be repeated",
    )
    if declare is None:
        parser.add_argument("--ds", default=None, help="the day, for example 2022-05-05; the newest by default")
    else:
        declare(parser)
    arguments = vars(parser.parse_args())
    try:
        settings = load(arguments.pop("conf"), arguments.pop("overrides"))
        session = start(settings, f"star-ctr {app}")
        result = run(settings, session, **arguments)
        print(f"{app}: {result}")
    except Exception as error:
        if message := format_error(error):
            raise SystemExit(f"{app}: {message}") from None
        raise


def run_submitted_step(name: str) -> None:
    """Run a step of a night under `spark-submit jobs/STEP.py`, with the lease and the journal, as `star-ctr STEP` does.

    Args:
        name: The name of the step.
    """
    # Import by name, so that the code hashes of the steps do not include `workflows`.
    importlib.import_module("star_ctr.workflows.spark_submit").main(name)
