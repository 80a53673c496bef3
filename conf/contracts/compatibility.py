"""Checks that a training run can continue on the rows of another split, with the settings of another model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from star_ctr.conf.contracts.encoded_row import BucketField, Layout, NumericField
from star_ctr.conf.errors import UserError
from star_ctr.conf.settings.model import ModelSettings

_REMEDY = "set trainer.warm_start to another run, or remove it to train from scratch"
_MAY_CHANGE = frozenset(
    {
        # Used only in training: the weights learned so far keep their meaning if the value changes.
        "dropout",
        "norm_momentum",
        "adversarial",
        "interest_loss",
        # The initialization of a training from scratch.
        "domain_spread",
        # Rows of embeddings are matched by value, whatever their minimum counts; widths are compared table by table.
        "embeddings",
        "dim",
    }
)
"""Model settings that may differ between a run and the run that it starts from."""


def list_changes(before: dict[str, Any], now: dict[str, Any], path: str = "") -> list[str]:
    """Return the differences between two nested mappings, as `key: before -> now`."""
    found: list[str] = []
    for key in sorted({*before, *now}):
        a, b = before.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += list_changes(a, b, f"{path}{key}.")
        elif a != b:
            found.append(f"{path}{key}: {a} -> {b}")
    return found


def check_fitted(run_id: str, before: Layout, now: Layout) -> None:
    """Raise `UserError` if a newly fitted layout does not keep the encoding of the run to start from."""
    if different := list_feature_changes(before, now) + list_number_changes(before, now):
        raise UserError(
            f"trainer.warm_start: {run_id} was trained with different features than the settings declare: "
            f"{'; '.join(different)}; {_REMEDY}"
        )


def check_split(run_id: str, before: Layout, now: Layout) -> None:
    """Raise `UserError` if a run with layout `before` cannot continue on rows with layout `now`."""
    if different := list_feature_changes(before, now):
        raise UserError(
            f"trainer.warm_start: {run_id} was trained with different features than the split of {now.ds} has: "
            f"{'; '.join(different)}; {_REMEDY}"
        )
    if different := list_number_changes(before, now):
        raise UserError(
            f"trainer.warm_start: the split of {now.ds} does not encode numbers like {run_id}, the run to start "
            f"from: {'; '.join(different)}; run `star-ctr split --ds {now.ds}` again, or {_REMEDY}"
        )


def check_model(run_id: str, before: ModelSettings, now: ModelSettings) -> None:
    """Raise `UserError` if the weights of a run have another meaning in a model with settings `now`.

    Many settings change what weights mean but not their shapes, for example `combine` and `activation`. Therefore all
    settings are compared, except those that are known to be safe to change.
    """
    earlier, current = (settings.model_dump(mode="json", exclude=set(_MAY_CHANGE)) for settings in (before, now))
    if different := list_changes(earlier, current, "model."):
        raise UserError(
            f"trainer.warm_start: {run_id} was trained with different model settings: {'; '.join(different)}; "
            f"change them back, or {_REMEDY}"
        )


def list_feature_changes(before: Layout, now: Layout) -> list[str]:
    """Return the differences between the features of two layouts, including their order."""
    return list_changes(_name_features(before), _name_features(now)) or list_changes(
        _dump_features(before), _dump_features(now)
    )


def list_number_changes(before: Layout, now: Layout) -> list[str]:
    """Return the numbers that `now` encodes differently from `before`, as `name: before -> now`.

    Ignores numbers that were constant in the rows that `before` was fitted on. Their values were all encoded as 0 or as
    missing, so a model has learned nothing about them.
    """
    known = dump_number_encodings(before)
    fields = {**_dump(now.numeric), **_dump(now.buckets)}
    return list_changes(known, {name: field for name, field in fields.items() if name in known})


def dump_number_encodings(layout: Layout) -> dict[str, Any]:
    """Return the encoding (source, base rate, scale, bounds) of each number that is not constant."""
    return _dump([n for n in layout.numeric if n.std > 0]) | _dump([b for b in layout.buckets if b.bounds])


def _dump(fields: Sequence[NumericField] | Sequence[BucketField]) -> dict[str, Any]:
    return {field.name: field.model_dump(mode="json", exclude={"name"}) for field in fields}


def _name_features(layout: Layout) -> dict[str, Any]:
    return {
        "ids": [f.name for f in layout.fields],
        "numbers": [f.name for f in layout.numeric],
        "sequences": [s.name for s in layout.sequences],
    }


def _dump_features(layout: Layout) -> dict[str, Any]:
    """Return what ids are made from and looked up in, by feature; `list_number_changes` compares numbers and buckets."""
    ids = {f.name: f.model_dump(mode="json", exclude={"name"}) for f in layout.categorical}
    sequences = {
        s.name: {
            "length": s.length,
            "separator": s.separator,
            "sides": {str(k): side.model_dump(mode="json", exclude={"name"}) for k, side in enumerate(s.sides)},
        }
        for s in layout.sequences
    }
    return {"ids": ids, "sequences": sequences}
