"""Entries of `build/bench.json`."""

from __future__ import annotations

from typing import Any


def make_entry(name: str, value: float, unit: str, limit: float, reference: str, least: bool = False) -> dict[str, Any]:
    """Return an entry of bench.json.

    Args:
        name: The name of the measurement.
        value: The measured value.
        unit: The unit of the value.
        limit: The goal: the largest value that is good enough, or the smallest one with `least`.
        reference: What the value was compared with, and details of the measurement.
        least: Whether `limit` is a minimum.
    """
    return {
        "name": name, "value": round(value, 3), "unit": unit, "goal": f"{'>=' if least else '<='} {limit}",
        "holds": bool(value >= limit if least else value <= limit), "reference": reference,
    }  # fmt: skip
