"""Errors that a user can act on: they name the file, the key and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something that the user can mend; commands print its message alone, without a traceback."""


class ConfigError(UserError):
    """The configuration cannot be used; the message names the file, the key and what would be right."""


class DataError(UserError):
    """The logs or tables are not what the configuration declares, or a check on them failed."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`"; did you mean X?"` for the known word nearest to `word`, else an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.55)
    return f"; did you mean `{close[0]}`?" if close else ""
