"""Errors that a user can act on: they name the file, the key and the remedy."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable

_STORAGE_FULL = re.compile(r"No space left on device|Disk quota exceeded|os error 28\b|os error 122\b")


class UserError(Exception):
    """Something that the user can mend; commands print its message alone, without a traceback."""


class ConfigError(UserError):
    """The configuration cannot be used; the message names the file, the key and what would be right."""


class DataError(UserError):
    """The logs or tables are not what the configuration declares, or a check on them failed."""


def describe_full_storage(error: BaseException) -> str | None:
    """Return a message if an error or one of its causes reports full storage; None otherwise.

    Spark, Delta and Parquet wrap the operating system's message in their own errors.
    """
    seen: BaseException | None = error
    while seen is not None:
        if getattr(seen, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or _STORAGE_FULL.search(str(seen)):
            return "the storage is full; free some space, for example with `star-ctr clean`, and run the command again"
        seen = seen.__cause__ or seen.__context__
    return None


def format_user_error(error: BaseException) -> str | None:
    """Return what a command prints for an error that the user can mend; None for all others."""
    return str(error) if isinstance(error, UserError) else describe_full_storage(error)


def suggest_nearest(word: str, known: Iterable[str]) -> str:
    """`"; did you mean X?"` for the known word nearest to `word`, else an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.55)
    return f"; did you mean `{close[0]}`?" if close else ""
