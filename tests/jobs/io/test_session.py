"""The session that commands start."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import delta
import pytest
from filelock import FileLock, Timeout
from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.sql import SparkSession

from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from star_ctr.jobs.io import session
from star_ctr.model.distributed.threads import count_process_cores


def test_configured_packages_are_added_to_the_delta_package(monkeypatch: pytest.MonkeyPatch) -> None:
    configure = delta.configure_spark_with_delta_pip
    packages: list[str] = []

    def configure_and_stop(builder: SparkSession.Builder, *more: Any) -> None:
        packages.append(configure(builder, *more)._options["spark.jars.packages"])
        raise RuntimeError("enough seen")

    monkeypatch.setattr(delta, "configure_spark_with_delta_pip", configure_and_stop)
    with pytest.raises(UserError, match="enough seen"):
        session._create(load("demo", ["spark.conf={spark.jars.packages: 'a:b:1,c:d:2'}"]), "test")
    assert sorted(packages[0].split(",")) == ["a:b:1", "c:d:2", session.DELTA_PACKAGE]


@pytest.mark.parametrize(
    ("conf", "plans"),
    [
        ("spark.conf={}", "10"),
        ("spark.conf={spark.sql.ui.retainedExecutions: '7'}", "7"),
        ("spark.conf={spark.ui.enabled: 'true'}", None),
    ],
)
def test_few_query_plans_are_kept_without_a_web_interface(
    monkeypatch: pytest.MonkeyPatch, conf: str, plans: str | None
) -> None:
    options: dict[str, str] = {}

    def keep_options_and_stop(builder: SparkSession.Builder, *_: Any) -> None:
        options.update(builder._options)
        raise RuntimeError("enough seen")

    monkeypatch.setattr(delta, "configure_spark_with_delta_pip", keep_options_and_stop)
    with pytest.raises(UserError, match="enough seen"):
        session._create(load("demo", [conf]), "test")
    assert options.get("spark.sql.ui.retainedExecutions") == plans


def test_only_one_process_at_a_time_downloads_packages(tmp_path: Path) -> None:
    options = {"spark.jars.ivy": str(tmp_path)}
    lock, other = (session._lock_downloads(options, []) for _ in range(2))
    assert isinstance(lock, FileLock)
    assert isinstance(other, FileLock)
    with lock, pytest.raises(Timeout), other.acquire(timeout=0.1):
        pass
    with lock, session._lock_downloads({"spark.jars.ivy": str(tmp_path / "other")}, []):
        pass  # another folder has another lock
    jar = tmp_path / "jars" / "io.delta_delta-spark_2.13-4.0.1.jar"
    jar.parent.mkdir()
    jar.touch()
    assert not isinstance(session._lock_downloads(options, []), FileLock), "there is nothing to download"
    assert isinstance(session._lock_downloads(options, ["a:b:1"]), FileLock)


@pytest.mark.spark
def test_a_task_uses_one_core_and_its_idle_threads_sleep(spark: SparkSession) -> None:
    """Training or scoring in a task must not use threads on the cores of other tasks."""
    found = spark.sparkContext.parallelize([0], 1).map(
        lambda _: (count_process_cores(), os.environ.get("OMP_WAIT_POLICY"))
    )
    assert found.collect() == [(1, "passive")]


@pytest.mark.parametrize(
    ("options", "variables", "expected"),
    [
        ({}, {}, "-XX:+UseParallelGC"),
        ({}, {"JDK_JAVA_OPTIONS": "-Xss4m -XX:+UseSerialGC"}, None),
        ({}, {"JDK_JAVA_OPTIONS": "-XX:+UseStringDeduplication"}, "-XX:+UseParallelGC"),
        ({"spark.driver.extraJavaOptions": "-XX:+UseG1GC -Dx=1"}, {}, None),
        ({"spark.driver.defaultJavaOptions": "-Dx=1"}, {}, "-Dx=1"),
        ({"spark.executor.extraJavaOptions": "-XX:+UseG1GC"}, {}, "-XX:+UseParallelGC"),
    ],
)
def test_a_garbage_collector_is_chosen_only_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, str],
    variables: dict[str, str],
    expected: str | None,
) -> None:
    """Java does not start with two choices."""
    for name in (*session._JAVA_VARIABLES, "SPARK_CONF_DIR", "SPARK_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert session.choose_collector(options).get("spark.driver.defaultJavaOptions") == expected
    (tmp_path / "spark-defaults.conf").write_text("spark.driver.extraJavaOptions -XX:+UseG1GC\n")
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    assert session.choose_collector(options) == options


class StartError(Py4JJavaError):  # type: ignore[misc]
    """An error raised by the SparkContext constructor."""

    def __init__(self) -> None:
        text = "java.net.BindException: Address in use: retried 16 times"
        self.java_exception = SimpleNamespace(toString=lambda: text, getCause=lambda: None)

    def __str__(self) -> str:
        return "An error occurred\n" + "\tat org.apache.spark.X\n" * 60


StartError.__module__ = "py4j.protocol"


def test_a_failed_start_shows_the_error_of_the_jvm(tmp_path: Path) -> None:
    message = session._describe_start_failure(StartError(), tmp_path / "spark.log")
    assert "retried 16 times" in message
    assert "Maven" not in message
    full = session._describe_start_failure(RuntimeError("java.io.IOException: No space left on device"), tmp_path)
    assert "spark.local.dir" in full
    assert "Maven" not in full
    (tmp_path / "spark.log").write_text("unresolved dependency\n")
    other = session._describe_start_failure(RuntimeError("[JAVA_GATEWAY_EXITED]"), tmp_path / "spark.log")
    assert "unresolved dependency" in other
    assert "Maven" in other
