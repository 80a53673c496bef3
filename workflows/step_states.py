"""The states of steps, and their texts in messages."""

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
"""What a message says of a step that another one depends on."""
