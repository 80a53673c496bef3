"""Spark SQL expressions in the settings: which columns they read, and whether they always give the same result."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, NamedTuple

from pydantic import AfterValidator

from star_ctr.conf.settings.base import NonEmptyText

_UNSTABLE = frozenset({
    "rand", "randn", "random", "randstr", "uniform", "uuid", "shuffle", "now", "current_date", "curdate",
    "current_time", "current_timestamp", "localtimestamp", "current_timezone", "current_user", "session_user", "user",
    "current_database", "current_schema", "current_catalog", "input_file_name", "monotonically_increasing_id",
    "spark_partition_id", "version", "reflect", "java_method",
})  # fmt: skip
"""SQL functions whose result depends on the time, on the session or on chance."""
_UNSTABLE_NAMES = frozenset({
    "current_date", "current_time", "current_timestamp", "localtimestamp", "current_user", "session_user", "_metadata",
})  # fmt: skip
"""Names that depend on the time, on the session or on the file even without brackets."""
_TIME_LITERALS = frozenset({"date", "timestamp", "timestamp_ltz", "timestamp_ntz"})
_RELATIVE_TIMES = frozenset({"now", "today", "tomorrow", "yesterday"})
"""Texts that Spark replaces with the current time in a literal such as `date'today'`."""
_TOKEN = re.compile(
    r"(?P<space>\s+|--[^\n]*|/\*.*?\*/)"
    r"|(?P<text>[rR](?:'[^']*'|\"[^\"]*\")|'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.|\"\")*\")"
    r"|(?P<name>(?:`(?:[^`]|``)+`|[^\W\d]\w*)(?:\s*\.\s*(?:`(?:[^`]|``)+`|\w+))*)"
    r"|(?P<number>\d[\w.]*)"
    r"|(?P<symbol>.)",
    re.DOTALL,
)
"""A part of an expression: white space or a comment, a text, a name with its fields, a number, or another character."""


class _Token(NamedTuple):
    kind: str
    text: str


def _split_expression(expression: str) -> list[_Token]:
    """Split an expression into tokens, without white space and comments."""
    found = (_Token(str(match.lastgroup), match[0]) for match in _TOKEN.finditer(expression))
    return [token for token in found if token.kind != "space"]


def _check_expression(value: str) -> str:
    """Check that an SQL expression gives the same result whenever it is computed."""
    tokens = [_Token("start", ""), *_split_expression(value), _Token("end", ""), _Token("end", "")]
    for k, token in enumerate(tokens[1:-2], start=1):
        previous, following = tokens[k - 1].text.lower(), tokens[k + 1].text
        name = token.text.lower() if token.kind == "name" else ""
        is_call = bool(name) and following == "("
        name = _unquote(name) if is_call else name  # `now`() is a call of the function
        is_relative = (
            token.kind == "text" and previous in _TIME_LITERALS and token.text[1:-1].strip().lower() in _RELATIVE_TIMES
        )
        if (
            (is_call and name in _UNSTABLE)
            or (is_call and name == "unix_timestamp" and tokens[k + 2].text == ")")
            or name.partition(".")[0] in _UNSTABLE_NAMES
            or _unquote(name).startswith("_metadata.")
            or is_relative
        ):
            shown = previous + token.text if is_relative else token.text
            raise ValueError(
                f"`{shown}` can change from run to run, so a night could not be reproduced; use only columns of the log"
            )
        # Any other asterisk multiplies, and follows an operand.
        if token.text == "*" and previous in ("", "(", ",", "."):
            raise ValueError("`*` would include the label, and columns that are added later; list the columns")
    return value


def reads_any(expression: str, columns: Iterable[str]) -> bool:
    """Return whether an SQL expression names a column, one of its fields, or a struct that contains it."""
    names = {_unquote(token.text).lower() for token in _split_expression(expression) if token.kind == "name"}
    return any(is_same_or_nested(name, column.lower()) for name in names for column in columns)


def _unquote(name: str) -> str:
    """Remove the backticks of a name, and the white space around its dots."""
    return re.sub(r"\s*\.\s*", ".", name).replace("``", "\0").replace("`", "").replace("\0", "`")


def is_same_or_nested(name: str, other: str) -> bool:
    """Return whether two names are the same column, or one is a field of the other."""
    return f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}.")


Expression = Annotated[NonEmptyText, AfterValidator(_check_expression)]
"""A Spark SQL expression over the columns of a log."""
