"""Errors of libraries become one or two sentences; errors of this project's code stay errors."""

from __future__ import annotations

import pyarrow as pa
import pytest

from star_ctr.conf.errors import DataError
from star_ctr.jobs.io.external_errors import describe_external_error, format_error


class JavaError:
    """A Java exception as py4j shows it."""

    def __init__(self, text: str, cause: JavaError | None = None) -> None:
        self.text, self.cause = text, cause

    def toString(self) -> str:  # noqa: N802
        return self.text

    def getCause(self) -> JavaError | None:  # noqa: N802
        return self.cause


class Py4JJavaError(Exception):
    """Like py4j's error, whose text is a Java stack trace."""

    def __init__(self, java: JavaError) -> None:
        super().__init__("An error occurred\n" + "\tat org.apache.spark.X\n" * 60)
        self.java_exception = java


Py4JJavaError.__module__ = "py4j.protocol"
READ = "org.apache.spark.SparkException: [FAILED_READ_FILE.NO_HINT] Encountered error while reading file file:///x/My%20Logs/a.csv.gz. SQLSTATE: KD001"


@pytest.mark.parametrize(
    ("java", "expected"),
    [
        (
            JavaError("Job aborted", JavaError(READ, JavaError("java.io.EOFException: Unexpected end of input stream"))),
            "/x/My Logs/a.csv.gz: the compressed file is truncated; copy it again",
        ),
        (JavaError("java.lang.OutOfMemoryError: Java heap space"), "Spark ran out of memory; raise spark.driver_memory"),
        (JavaError("java.nio.file.AccessDeniedException: x"), "permission denied"),
        (JavaError("java.net.UnknownHostException: nameservice1"), "unknown host nameservice1"),
        (JavaError('No FileSystem for scheme "s3"'), "does not support the scheme of a path (s3)"),
        (JavaError("io.delta.exceptions.ConcurrentAppendException: [DELTA_CONCURRENT_APPEND] x"), "another program changed"),
        (
            JavaError(
                "org.apache.spark.api.python.PythonException: Traceback (most recent call last):\n  File \"x.py\", line 1\n"
                "star_ctr.conf.errors.DataError: users.age: the vocabulary is damaged\n"
            ),
            "users.age: the vocabulary is damaged",
        ),
        (
            JavaError("x.Outer: a", JavaError("java.lang.IllegalStateException: [SOME_CODE] The plan is too large. SQLSTATE: 00000")),
            "The plan is too large.",
        ),
        (JavaError("java.lang.NullPointerException"), "NullPointerException"),
    ],
)  # fmt: skip
def test_java_errors(java: JavaError, expected: str) -> None:
    message = describe_external_error(Py4JJavaError(java))
    assert message is not None
    assert expected in message
    assert "\n" not in message
    assert len(message) < 420


def test_other_libraries_and_the_operating_system() -> None:
    assert describe_external_error(pa.ArrowInvalid("Parquet magic bytes not found in footer")) is not None
    assert describe_external_error(PermissionError(13, "Permission denied", "/x/y")) == "/x/y: Permission denied"
    wrapped = RuntimeError("bug")
    wrapped.__cause__ = pa.ArrowInvalid("cannot mix list and non-list")
    assert describe_external_error(wrapped) == "cannot mix list and non-list"


def test_bugs_are_not_hidden() -> None:
    assert format_error(KeyError("x")) is None
    assert format_error(ValueError("x")) is None
    assert format_error(DataError("message")) == "message"
