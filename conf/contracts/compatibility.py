"""Checks for a warm start: whether training can continue from a run, given its layout and its model settings.

Weights are valid only for the features, the encoding of numbers and the model structure that they were trained with.
Domains and vocabularies may differ, because they are matched by name and by value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from star_ctr.conf.contracts.encoded_row import FIRST_KNOWN, BucketField, Layout, NumericField, VectorField
from star_ctr.conf.contracts.fingerprint import hash_json
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
        # Used only to initialize a model that is trained from scratch.
        "domain_spread",
        # Embedding rows are matched by value, regardless of minimum counts. Widths are compared per table elsewhere.
        "embeddings",
        "dim",
    }
)
"""Model settings that may differ between a run and its warm-start run."""


def list_changes(before: dict[str, Any], now: dict[str, Any], path: str = "") -> list[str]:
    """List the differences between two nested mappings.

    Args:
        before: The earlier mapping.
        now: The current mapping.
        path: Prefix of the keys, such as `model.`.

    Returns:
        Texts of the form `key: before -> now`, where the key is a dotted path. A missing key counts as None.
    """
    found: list[str] = []
    for key in sorted({*before, *now}):
        a, b = before.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += list_changes(a, b, f"{path}{key}.")
        elif a != b:
            found.append(f"{path}{key}: {a} -> {b}")
    return found


def check_fitted(run_id: str, before: Layout, now: Layout) -> None:
    """Check that a newly fitted layout keeps the features and the encoding of the warm-start run.

    Args:
        run_id: The warm-start run.
        before: Its layout.
        now: The newly fitted layout.

    Raises:
        UserError: The features or the encodings of values or numbers differ. The message names each difference.
    """
    _check_embeddings(run_id, before, now)
    if different := list_feature_changes(before, now) + list_number_changes(before, now):
        raise UserError(
            f"trainer.warm_start: {run_id} was trained with different features than the settings declare: "
            f"{'; '.join(different)}; {_REMEDY}"
        )


def check_split(run_id: str, before: Layout, now: Layout) -> None:
    """Check that training can continue from a run on the rows of a split.

    Args:
        run_id: The warm-start run.
        before: Its layout.
        now: The layout of the split.

    Raises:
        UserError: The features or the encodings of values or numbers differ. The message names each difference.
    """
    _check_embeddings(run_id, before, now)
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


def _check_embeddings(run_id: str, before: Layout, now: Layout) -> None:
    """Raise `UserError` if an embedding table encodes values differently, or has another number of hashed rows."""
    for name in before.embeddings:
        earlier, current = (_describe_encoding(layout, name) for layout in (before, now))
        if name in now.embeddings and earlier != current:
            raise UserError(
                f"trainer.warm_start: the embedding `{name}` has {earlier} in {run_id} but {current} in the split of "
                f"{now.ds}, so their rows do not correspond; change model.embeddings.{name} back, or {_REMEDY}"
            )


def _describe_encoding(layout: Layout, embedding: str) -> str:
    if embedding not in layout.hashed:
        return "a vocabulary"
    return f"{layout.embeddings[embedding] - FIRST_KNOWN:,} hashed rows"


def check_model(run_id: str, before: ModelSettings, now: ModelSettings) -> None:
    """Check that the weights of a run keep their meaning in a model with other settings.

    Many settings change what weights mean but not their shapes, for example `combine` and `activation`. Therefore all
    settings are compared, except those that are known to be safe to change.

    Args:
        run_id: The warm-start run.
        before: Its model settings.
        now: The current model settings.

    Raises:
        UserError: Other settings differ. The message names each difference.
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

    Ignores numbers that were constant in the rows that `before` was fitted on. Their values were all encoded alike, so
    a model has learned nothing about how they differ.
    """
    known = dump_number_encodings(before)
    fields = {**_dump(now.numeric), **_dump(now.buckets), **_dump_vectors(now.vectors)}
    return list_changes(known, {name: field for name, field in fields.items() if name in known})


def dump_number_encodings(layout: Layout) -> dict[str, Any]:
    """Return the encoding (source, base rate, scale, bounds) of each number and vector that is not constant."""
    numbers = _dump([n for n in layout.numeric if n.std > 0]) | _dump([b for b in layout.buckets if b.bounds])
    return numbers | _dump_vectors(v for v in layout.vectors if v.scale > 0)


def _dump(fields: Sequence[NumericField] | Sequence[BucketField]) -> dict[str, Any]:
    """Return the fields by name."""
    return {field.name: field.model_dump(mode="json", exclude={"name"}) for field in fields}


def _dump_vectors(vectors: Iterable[VectorField]) -> dict[str, Any]:
    """Return the scales of vectors by name, with a hash of their means, because messages show what differs."""
    return {v.name: {"scale": v.scale, "hash of mean": hash_json(v.mean, 16)} for v in vectors}


def _name_features(layout: Layout) -> dict[str, Any]:
    """Return the names of all features, in order."""
    return {
        "ids": [f.name for f in layout.fields],
        "numbers": [f.name for f in layout.numeric],
        "vectors": [f.name for f in layout.vectors],
        "sequences": [s.name for s in layout.sequences],
    }


def _dump_features(layout: Layout) -> dict[str, Any]:
    """Return the columns and embedding tables of ids by feature; numbers are left to `list_number_changes`."""
    ids = {f.name: f.model_dump(mode="json", exclude={"name"}) for f in layout.categorical}
    sequences = {
        s.name: {
            "length": s.length,
            "separator": s.separator,
            "sides": {str(k): side.model_dump(mode="json", exclude={"name"}) for k, side in enumerate(s.sides)},
        }
        for s in layout.sequences
    }
    vectors = {v.name: {"column": v.column, "length": v.length, "dim": v.dim} for v in layout.vectors}
    return {"ids": ids, "sequences": sequences, "vectors": vectors}
