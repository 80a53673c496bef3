"""Redaction of secrets in settings that are written to records and log files."""

from __future__ import annotations

import re
from typing import Any

from star_ctr.conf.settings.root import Settings

REDACTED = "*** (redacted)"
_SECRET = re.compile(r"secret|password|token|access[.]?key", re.IGNORECASE)
"""The default of Spark's property `spark.redaction.regex`."""


def dump_redacted(settings: Settings) -> dict[str, Any]:
    """Return the settings as JSON values, without the values of Spark properties that hold secrets."""
    dumped = settings.model_dump(mode="json")
    conf = dumped["spark"]["conf"]
    dumped["spark"]["conf"] = {key: REDACTED if _SECRET.search(key) else value for key, value in conf.items()}
    return dumped


def redact_argument(argument: str) -> str:
    """Return an argument of a command line; only the key is left of a `KEY=VALUE` that may hold a secret."""
    key, equals, _ = argument.partition("=")
    return f"{key}={REDACTED}" if equals and _SECRET.search(argument) else argument
