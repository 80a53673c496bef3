"""Names of steps."""

from __future__ import annotations

from star_ctr.conf.contracts.pipeline import STEPS

EVERY_NIGHT = tuple(step.name for step in STEPS.values() if not step.is_optional)
"""The steps that are part of every night, in order."""
