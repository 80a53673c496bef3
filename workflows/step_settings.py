"""Hashes of the settings that each step depends on."""

from __future__ import annotations

from typing import Any

from star_ctr.conf.contracts.fingerprint import hash_json
from star_ctr.conf.contracts.run_id import (
    hash_config,
    hash_features_settings,
    hash_ingest_settings,
    hash_outcome_settings,
    hash_split_settings,
)
from star_ctr.conf.settings.root import Settings


def hash_step_settings(settings: Settings, ds: str, step: str) -> str:
    """Hash the settings that affect the results of a step.

    Args:
        settings: The settings.
        ds: The night.
        step: Name of the step.

    Returns:
        The hash.
    """
    match step:
        case "ingest":
            return hash_ingest_settings(settings)
        case "features":
            stored_with_labels = (settings.logs.impressions.weight, hash_outcome_settings(settings))
            more = [found for found in stored_with_labels if found]
            return hash_json([hash_features_settings(settings), settings.window.days, *more])
        case "split":
            return hash_split_settings(settings)
        case "gate":
            return hash_json(settings.gate.model_dump(mode="json", exclude={"publish"}))
    parts: list[Any] = [hash_config(settings), settings.trainer.seed]
    if step == "reference":
        # A change of `every_nights` makes only the nights stale that gain or lose a reference.
        reference = settings.reference
        parts.append(reference.window_days if reference and reference.is_due(ds) else None)
    return hash_json([*parts, settings.evaluate.model_dump(mode="json")] if step == "evaluate" else parts)
