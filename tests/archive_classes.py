"""Archive the classes that Spark and Delta load, for the tests: `python -m tests.archive_classes FILE`.

A JVM that maps the archive starts in half the time (class data sharing). The archive is only valid for the same JVM
options and jar files; otherwise, the JVM ignores it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from star_ctr.conf.load import load
from star_ctr.jobs.io.session import start
from tests.conftest import JAVA_OPTIONS


def archive(file: Path) -> None:
    """Run a few queries in a JVM that writes the archive when it exits."""
    file.parent.mkdir(parents=True, exist_ok=True)
    incomplete = file.with_suffix(f".{os.getpid()}.tmp")
    os.environ["JDK_JAVA_OPTIONS"] = f"{JAVA_OPTIONS} -XX:ArchiveClassesAtExit={incomplete} -Xlog:cds*=off"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STAR_CTR_SPARK_LOG"] = f"{folder}/spark.log"
        spark = start(load("demo", ["spark.master=local[2]", f"paths.warehouse={folder}"]), "archive")
        rows = spark.range(10).selectExpr("id", "id % 2 AS part")
        rows.write.format("delta").partitionBy("part").save(f"{folder}/table")
        spark.read.format("delta").load(f"{folder}/table").groupBy("part").count().orderBy("part").collect()
        jvm = spark.sparkContext._gateway.proc
        spark.stop()
        jvm.stdin.close()  # the JVM exits when this pipe ends
        jvm.wait(timeout=120)
    # A JVM that maps an incomplete archive crashes.
    incomplete.replace(file)


if __name__ == "__main__":
    archive(Path(sys.argv[1]))
