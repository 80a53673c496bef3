"""Describe errors of Spark, Delta Lake, Arrow and the storage in one or two sentences.

These libraries report a problem with a file or a machine as a chain of exceptions with hundreds of lines. The messages
of the whole chain are searched for known problems. For all others, the message of the root cause is shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote

from star_ctr.conf.errors import format_user_error

_LIBRARIES = (
    "pyspark",
    "py4j",
    "pyarrow",
    "deltalake",
    "delta",
    "petastorm",
    "fsspec",
    "s3fs",
    "botocore",
    "aiobotocore",
)
"""Top-level packages whose exceptions are caused by data, by settings or by a machine, not by this project."""
_MAX_LENGTH = 400
_SHORT = 15
"""Messages of at most this length are shown with the class of the exception."""
_MAX_CAUSES = 20
_WORKER_ERROR = re.compile(r"^(?:\w+\.)*(?:UserError|DataError|ConfigError): (.+)$", re.MULTILINE)
"""An error that the code of this project raised in a Python worker of Spark; the last line of its traceback."""
_FILE = re.compile(r"(?:while reading file|Path:|path=|File) [`']?((?:\w+:)?/[^\s`']+)")
_CLASS = re.compile(r"^(?:[a-zA-Z_$][\w$]*\.)*([A-Z][\w$]*)(?::\s*|$)")
"""The class of an exception at the start of its text."""
_ERROR_CLASS = re.compile(r"^\[[A-Z0-9_.]+\]\s*")
_SQL_STATE = re.compile(r"\s*SQLSTATE: \w{5}")


class _Problem(NamedTuple):
    """A known problem.

    Attributes:
        pattern: A regular expression that a message of the chain contains.
        describe: Returns the sentence, from the file that the chain names ("a file" if none) and the match.
    """

    pattern: str
    describe: Callable[[str, re.Match[str]], str]


_PROBLEMS = (
    _Problem(
        r"Java heap space|GC overhead limit|OutOfMemoryError",
        lambda _, __: "Spark ran out of memory; raise spark.driver_memory, for example to 8g (on a cluster, also "
        "spark.executor.memory in spark.conf)",
    ),
    _Problem(
        r"Python worker (exited unexpectedly|failed to connect)|EOFError.*read_int",
        lambda _, __: "a Python worker of Spark was killed, probably because the machine ran out of memory; "
        "run fewer tasks at once (spark.master: local[2]) or use a larger machine",
    ),
    _Problem(
        r"Py4JNetworkError|Answer from Java side is empty|Error while (sending|receiving)|Connection refused.*py4j",
        lambda _, __: "the Spark process ended unexpectedly, probably because the machine ran out of memory; "
        "run the command again",
    ),
    _Problem(
        r"Unexpected end of (ZLIB )?input stream|Compressed file ended before",
        lambda file, _: f"{file}: the compressed file is truncated; copy it again",
    ),
    _Problem(
        r"not in (?:gzip|GZIP) format|Not a gzipped file|"
        r"incorrect header check|invalid (?:stored block|block type|distance|literal)|"
        r"ZipException|incorrect data check|Stream is not in the BZip2 format",
        lambda file, _: f"{file}: the file is damaged, or not compressed as its name says; check the file",
    ),
    _Problem(
        r"is not a Parquet file|CANNOT_READ_FILE_FOOTER|Could not read footer|ParquetDecodingException|"
        r"Parquet magic bytes not found|Parquet file size is \d+ bytes",
        lambda file, _: f"{file}: the file is not a Parquet file, or it is damaged; write it again",
    ),
    _Problem(
        r"FILE_NOT_EXIST|FileNotFoundException|DELTA_FILE_NOT_FOUND|No such file or directory|"
        r"(?:[Pp]ath|[Ff]ile) .*does not exist",
        lambda file, _: f"{file}: the file does not exist; it may have been deleted while it was read. "
        "Run the command again",
    ),
    _Problem(
        r"Permission denied|AccessControlException|AccessDenied|\b403 Forbidden|status code:? 403",
        lambda file, _: f"{file}: permission denied; check the access rights of this user",
    ),
    _Problem(
        r"UnknownHostException: ?(\S*)|Could not connect to the endpoint|ConnectException|NoRouteToHost|"
        r"Connection refused|ConnectTimeout|Failed to connect",
        lambda _, match: "the storage or the cluster cannot be reached"
        f"{': unknown host ' + match[1].rstrip(':') if match[1] else ''}; check the address and the network",
    ),
    _Problem(
        r"NoCredentials|Unable to locate credentials|No AWS Credentials|CredentialInitializationException|"
        r"InvalidAccessKeyId|SignatureDoesNotMatch",
        lambda _, __: "no valid credentials for the object store; check them in the environment or in spark.conf",
    ),
    _Problem(
        r"No FileSystem for scheme \"?([\w.+-]+)|Class org\.apache\.hadoop\.fs\.s3a\.S3AFileSystem not found",
        lambda _, match: f"Spark does not support the scheme of a path ({match[1] or 's3a'}); add the package of this "
        "file system to spark.jars.packages in spark.conf",
    ),
    _Problem(
        r"DELTA_CONCURRENT|ConcurrentAppendException|ConcurrentDeleteReadException|ConcurrentTransactionException",
        lambda _, __: "another program changed the same table at the same time; run the command again",
    ),
    _Problem(
        r"DELTA_(?:SCHEMA_CHANGED|METADATA_CHANGED|METADATA_MISMATCH)|partition(?:ing)? (?:columns|column) .*match",
        lambda _, __: "a table of the warehouse has a different schema or partitioning; it was written by another "
        "version of star-ctr or by another program. Set paths.warehouse to a new folder and run the nights again",
    ),
)  # fmt: skip


def describe_external_error(error: BaseException) -> str | None:
    """Describe an error that a library or the operating system raised.

    Args:
        error: The error.

    Returns:
        One or two sentences; None for errors of this project's own code and of Python.
    """
    chain = list(_iter_causes(error))
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if not any(_is_external(e) for e in chain):
        return None
    messages = [text for e in chain for text in _iter_messages(e)]
    joined = "\n".join(messages)
    if found := _WORKER_ERROR.findall(joined):
        return str(found[-1])
    return describe_known_problem(joined, _find_file(joined)) or _shorten(messages)


def describe_known_problem(text: str, file: str) -> str | None:
    """Describe a known problem.

    Args:
        text: The messages of exceptions, with their classes.
        file: The file to name.

    Returns:
        One or two sentences; None if the text has no known problem.
    """
    for problem in _PROBLEMS:
        if match := re.search(problem.pattern, text):
            return problem.describe(file, match)
    return None


def format_error(error: BaseException) -> str | None:
    """Return the message that a command prints for an error, None if the error is a bug.

    Covers errors that the user can fix (see `format_user_error`) and errors of libraries.
    """
    return format_user_error(error) or describe_external_error(error)


def _iter_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    current: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if current is None:
            return
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _is_external(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in _LIBRARIES


def _iter_messages(error: BaseException) -> Iterator[str]:
    """Yield the messages of an error, and of the Java exceptions that it wraps, outermost first."""
    java: Any = getattr(error, "java_exception", None) or getattr(error, "_origin", None)
    if java is None:
        yield f"{type(error).__name__}: {error}"
        return
    try:
        for _ in range(_MAX_CAUSES):
            yield str(java.toString())
            java = java.getCause()
            if java is None:
                return
    except Exception:  # the process of Spark has ended
        yield "Py4JNetworkError"


def _find_file(text: str) -> str:
    """Return the first file that messages name; "unknown file" if they name none."""
    match = _FILE.search(text)
    return unquote(re.sub(r"^file:(//)?", "", match[1])).rstrip(".,;") if match else "unknown file"


def _shorten(messages: list[str]) -> str:
    """Return the first line of the innermost message that has one, without codes and without a redundant class."""
    names = []
    for message in reversed(messages):
        line = next((line.strip() for line in message.splitlines() if line.strip()), "")
        match = _CLASS.match(line)
        text = _SQL_STATE.sub("", _ERROR_CLASS.sub("", line[match.end() :] if match else line)).strip()
        names += [match[1]] if match else []
        if text:
            return text[:_MAX_LENGTH] if len(text) > _SHORT or not match else f"{match[1]}: {text}"
    return names[0] if names else "an unknown error"
