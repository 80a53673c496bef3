"""Redaction of secrets in what is written to records, tables, reports and log files."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from star_ctr.conf.settings.root import Settings

REDACTED = "*** (redacted)"
_SECRET = re.compile(r"secret|password|passwd|token|(access|account|private|api)[._-]?key|\bsas\b", re.IGNORECASE)
"""Based on the default of Spark's property `spark.redaction.regex`, which Spark also applies to keys and values."""


def dump_redacted(settings: Settings) -> dict[str, Any]:
    """Return the settings as JSON values, without the values of Spark properties that may contain secrets."""
    dumped = settings.model_dump(mode="json")
    conf: dict[str, str] = dumped["spark"]["conf"]
    dumped["spark"]["conf"] = {k: REDACTED if _SECRET.search(k) or _SECRET.search(v) else v for k, v in conf.items()}
    return dumped


def format_command(arguments: Sequence[str]) -> str:
    """Format a command line as text for a shell; of a `KEY=VALUE` that may contain a secret, only the key is left.

    Args:
        arguments: The program, of which only the name is kept, and its arguments, as in `sys.argv`.

    Returns:
        The command.
    """
    return shlex.join([Path(arguments[0]).name, *map(_redact_argument, arguments[1:])])


def _redact_argument(argument: str) -> str:
    key, equals, _ = argument.partition("=")
    return f"{key}={REDACTED}" if equals and _SECRET.search(argument) else argument
