"""Checks of `model` and of its combination with `trainer` and the features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from star_ctr.conf.settings.features import Categorical, Sequence

if TYPE_CHECKING:
    from star_ctr.conf.settings.root import Settings


def find_model_problems(settings: Settings) -> list[str]:
    """Return the problems of `model` and of its combination with `trainer` and the features."""
    problems = _find_pooling_problems(settings)
    if settings.trainer.data.batches == "single_domain":
        if settings.model.name == "mulann":
            problems.append(
                "trainer.data.batches: MulANN's discriminator needs batches of several domains; set it to mixed"
            )
        return problems
    if settings.model.norm == "pn":
        problems.append(
            "model.norm: partitioned normalization needs batches of one domain; set trainer.data.batches to "
            "single_domain, or model.norm to bn or ln"
        )
    if settings.trainer.parallel == "batches":
        problems.append("trainer.parallel: `batches` needs batches of one domain, not mixed ones; set it to rows")
    return problems


def _find_pooling_problems(settings: Settings) -> list[str]:
    if settings.model.pooling == "mean":
        return []
    row_tables = {f.embedding or f.name for f in settings.select_features(Categorical) if f.splitter is None}
    return [
        f"model.pooling: {settings.model.pooling} weights the events of `{sequence.name}` by the candidate, but no "
        "categorical feature shares an embedding with it; give one of them, or set model.pooling to mean"
        for sequence in settings.select_features(Sequence)
        if not row_tables & set(sequence.columns.values())
    ]
