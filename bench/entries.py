"""What bench.json holds of a benchmark."""

from __future__ import annotations

from typing import Any


def entry(name: str, value: float, unit: str, limit: float, reference: str, least: bool = False) -> dict[str, Any]:
    """An entry of bench.json whose value is to be at most `limit`, or at least that much."""
    return {
        "name": name, "value": round(value, 3), "unit": unit, "goal": f"{'>=' if least else '<='} {limit}",
        "holds": bool(value >= limit if least else value <= limit), "reference": reference,
    }  # fmt: skip
