"""Errors that a user can fix. Their messages name the file, the key and the remedy."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable

_STORAGE_FULL = re.compile(r"No space left on device|Disk quota exceeded|os error 28\b|os error 122\b")


class UserError(Exception):
    """An error that the user can fix. Commands print only its message, without a traceback."""


class ConfigError(UserError):
    """An invalid configuration. The message names the file, the key and the expected value."""


class DataError(UserError):
    """Logs or tables that do not match the configuration, or that failed a check."""


def describe_full_storage(error: BaseException) -> str | None:
    """Return a message if an error or one of its causes reports full storage; None otherwise.

    Spark, Delta and Parquet wrap the operating system's message in their own errors. Therefore the whole chain of
    causes is searched.
    """
    current: BaseException | None = error
    while current is not None:
        if getattr(current, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or _STORAGE_FULL.search(str(current)):
            return "the storage is full; free some space, for example with `star-ctr clean`, and run the command again"
        current = current.__cause__ or current.__context__
    return None


def format_user_error(error: BaseException) -> str | None:
    """Return the message that a command prints for an error that the user can fix; None for any other error."""
    return str(error) if isinstance(error, UserError) else describe_full_storage(error)


def suggest_nearest(word: str, known: Iterable[str]) -> str:
    """Suggest the known word that is most similar to `word`, for use in an error message.

    Returns:
        Text to append to the message, such as "; did you mean `kuairand`?". Empty if no known word is similar.
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.55)
    return f"; did you mean `{close[0]}`?" if close else ""
