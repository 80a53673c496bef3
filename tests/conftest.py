"""One Spark session for all tests that need one, and settings that tests share."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from pyspark.sql import SparkSession
from xdist.scheduler import LoadScopeScheduling

from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings

ROOT = Path(__file__).parent.parent
PACKAGES = ("conf", "features", "jobs", "model", "workflows")

# Use the same examples in each run, so that only a change of the code can make a test fail. Search with new examples by
# `pytest --hypothesis-profile=search`.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.register_profile("search", derandomize=False)
hypothesis.settings.load_profile("repeatable")
KUAIRAND = Path(os.environ.get("STAR_CTR_DATA", str(ROOT / "../shared/data"))) / "kuairand"

# Most queries of the tests run once, on few rows, so compiling them takes longer than running them.
# The default of 48 MB for compiled code is too small for Spark with the packages of an object store.
JAVA_OPTIONS = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:ReservedCodeCacheSize=240m"
CLASS_ARCHIVE = ROOT / "build/spark.jsa"
"""Classes that Spark loads, so that each JVM of the tests starts in half the time; `make test-slow` writes it."""
_shared = f" -XX:SharedArchiveFile={CLASS_ARCHIVE} -Xlog:cds*=off" if CLASS_ARCHIVE.is_file() else ""
os.environ.setdefault("JDK_JAVA_OPTIONS", JAVA_OPTIONS + _shared)
INTERPRETED = 'spark.conf={"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}'
"""Override that makes Spark interpret queries. Without it, commands in other processes compile their queries."""

kuairand = pytest.mark.skipif(
    not KUAIRAND.is_dir(),
    reason=f"needs the KuaiRand logs: set STAR_CTR_DATA to the folder that holds kuairand/ ({KUAIRAND})",
)

LONG = "STAR_CTR_LONG" in os.environ
"""Whether to run the tests that take many minutes, and more examples of others (`make test-long`)."""
on_request = pytest.mark.skipif(not LONG, reason="takes many minutes on two cores: set STAR_CTR_LONG=1 to run it")


SHARE_A_NIGHT = (
    "test_night.py", "test_night_again.py", "test_refit.py", "test_api.py", "test_table_readers.py"
)  # fmt: skip
"""Files whose tests use the same night, which takes a minute."""


LONGEST = (
    "test_dag.py", "test_real_night.py", "test_backfill.py", "test_bad_nights.py", *SHARE_A_NIGHT, "test_incremental.py",
    "test_compare.py", "test_batch_score.py", "test_gate_error_rate.py", "test_random_sequences.py",
)  # fmt: skip
"""Files with slow tests that take several minutes. They run first, so that no process waits for another at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the longest files to the front; `_FileScheduling` distributes files in this order."""
    order = {name: k for k, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONGEST)))


class _FileScheduling(LoadScopeScheduling):
    """Runs the tests of a file, or of files that share a night, in the same process."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "night" if Path(file).name in SHARE_A_NIGHT else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Distribute tests over processes by file (`pytest -n 2`), because the tests of a file share expensive fixtures."""
    # Not by the mark `xdist_group`, which xdist 3.8 ignores with pytest 9.
    return _FileScheduling(config, log)


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    from star_ctr.jobs.io.session import start

    os.environ["STAR_CTR_SPARK_LOG"] = str(tmp_path_factory.mktemp("spark") / "spark.log")
    small = ["spark.master=local[2]", "spark.driver_memory=2g", "spark.shuffle_partitions=2"]
    waits = ', "spark.scheduler.barrier.maxConcurrentTasksCheck.interval": "1s"}'
    settings = load("demo", [*small, INTERPRETED.removesuffix("}") + waits])
    session = start(settings, "tests")
    yield session
    session.stop()


@pytest.fixture
def demo() -> Settings:
    return load("demo")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Start an S3 server on loopback; yields its URL."""
    # Not a thread of this process: deltalake holds the lock of the interpreter while it waits for an answer.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), 1):
            break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of an empty bucket."""
    import boto3
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": s3_server, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(f"{s3_server}/moto-api/reset", method="POST")).close()
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="warehouse")
    s3fs.S3FileSystem.clear_instance_cache()
    return "s3://warehouse"
