"""The states of steps, and how messages describe them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    """State of a step of a night."""

    DONE = "done"
    STALE = "stale"
    RUNNING = "running"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    MISSING = "missing"
    REMOVED = "removed"


STATE_TEXTS: Mapping[State, str] = {
    State.STALE: "is stale",
    State.RUNNING: "is running",
    State.FAILED: "failed",
    State.INTERRUPTED: "was interrupted",
    State.MISSING: "has not run yet",
}
"""What messages say about a step that another one depends on."""
_INPUT_TEXTS: Mapping[str, str] = {
    "contents": "ingested tables",
    "warm_start": "the run that trainer.warm_start names",
}
"""Texts for inputs whose key does not describe them."""


def describe_input(key: str, empty_folder: str | None = None) -> str:
    """Describe an input of a step for a message.

    Args:
        key: The key of the input in an input fingerprint.
        empty_folder: The folder that should contain the files of the log, if it contains none.

    Returns:
        The text, for example `log files of logs.clicks`.
    """
    if key.startswith("logs."):
        return f"log files of {key}{'' if empty_folder is None else f' (none are in {empty_folder})'}"
    step, of, night = key.partition(" of ")
    return f"{step} of night {night}" if of else _INPUT_TEXTS.get(key, key)
