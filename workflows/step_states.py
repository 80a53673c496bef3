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
