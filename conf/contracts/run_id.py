"""Run ids, and the hashes of settings that decide whether two runs or two steps are the same.

A run id is `<night>-<variant>-s<seed>-<hash of the settings>`, for example
`2026-03-04-star-pn-aux-s0-0a1b2c3d`. Each step of a night has a separate hash of the settings that affect its output.
A change of any other setting does not make the step stale.
"""

from __future__ import annotations

from typing import Any

from star_ctr.conf.contracts.column_ref import ColumnRef
from star_ctr.conf.contracts.fingerprint import hash_json
from star_ctr.conf.settings.features import AnyFeature, Numeric, Sequence, Statistic, Vector, list_read_columns
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.settings.trainer import NOT_AFFECTING_WEIGHTS

_NOT_AFFECTING_MODEL: Any = {
    "extends": True,
    "preset": True,  # its effect is already in `model` and `trainer`
    "paths": True,
    "spark": True,
    "catalog": True,
    "about": True,
    "simulate": True,
    "compare": True,
    "tune": True,
    "evaluate": True,
    "gate": True,
    "reference": True,
    "checks": True,
    "retention": True,
    "trainer": {*NOT_AFFECTING_WEIGHTS, "seed"},
}
"""Settings that are not part of `hash_config`, in the form of pydantic's `exclude`."""


_WEIGHTS: Any = {"also": {"__all__": {"weight"}}}
_NOT_AFFECTING_INGEST: Any = {"label": {"open": True, **_WEIGHTS}}
"""The label settings that only affect training, in the form of pydantic's `exclude`."""
_NOT_AFFECTING_LABEL: Any = {"label": {"open", "also"}}
"""The settings below `label` that do not affect the label itself, in the form of pydantic's `exclude`."""


def hash_config(settings: Settings) -> str:
    """Hash the settings that affect the trained model, except the seed. Paths and machines do not affect it."""
    return hash_json(settings.model_dump(mode="json", exclude=_NOT_AFFECTING_MODEL))


def hash_ingest_settings(settings: Settings) -> str:
    """Hash the settings that affect what `ingest` writes for a night."""
    parts = settings.model_dump(
        mode="json", include={"zone", "logs", "label", "domains", "window"}, exclude=_NOT_AFFECTING_INGEST
    )
    # Ingest parses a log column as a number or as an id, depending on the features that read it.
    parts["numbers"] = sorted({f.column for f in settings.select_features(Numeric)})
    parts["ids"] = sorted({c for f in settings.features if _reads_ids(f) for c in list_read_columns(f)})
    if vectors := _list_separators(settings):
        parts["vectors"] = vectors
    return hash_json(parts)


def hash_log_settings(settings: Settings, name: str) -> str:
    """Hash the settings that affect the rows of a log on a day."""
    # Only rows of impressions contain further outcomes.
    exclude = _NOT_AFFECTING_INGEST if name == "impressions" else _NOT_AFFECTING_LABEL
    parts = settings.model_dump(mode="json", include={"zone", "label", "domains"}, exclude=exclude)
    parts["log"] = settings.logs.get_declared()[name].model_dump(mode="json")
    numbers = {f.column for f in settings.select_features(Numeric)}
    ids = {c for f in settings.features if _reads_ids(f) for c in list_read_columns(f)}
    vectors = {c: separator for c, separator in _list_separators(settings).items() if c.table == name}
    columns = (sorted(c for c in found if c.table == name) for found in (numbers, ids))
    return hash_json([parts, *columns, *([vectors] if vectors else [])])


def _reads_ids(feature: AnyFeature) -> bool:
    return not isinstance(feature, Numeric | Vector)


def _list_separators(settings: Settings) -> dict[ColumnRef, str]:
    """Return the separators of vectors in logs with decimal commas, whose numbers ingest rewrites, by column."""
    logs = settings.logs.get_declared()
    commas = {name for name, log in logs.items() if any(s.decimal == "," for s in log.list_sources().values())}
    return {f.column: f.separator for f in settings.select_features(Vector) if f.column.table in commas}


def hash_label_settings(settings: Settings) -> str:
    """Hash the settings that affect the labels of a day."""
    include = {"zone": True, "label": True}
    return hash_json(settings.model_dump(mode="json", include=include, exclude=_NOT_AFFECTING_LABEL))


def hash_outcome_settings(settings: Settings) -> str | None:
    """Hash the settings that affect the further outcomes of a day; None if there are none."""
    if not settings.label.also:
        return None
    also = settings.label.model_dump(mode="json", include={"also": True}, exclude=_WEIGHTS)
    return hash_json([settings.zone, also])


def hash_history_settings(settings: Settings) -> str:
    """Hash the settings that affect the state of the history. Windows and decay of statistics do not."""
    numeric = {f.column for f in settings.select_features(Numeric)}
    groups: dict[str, set[str]] = {}
    for s in settings.select_features(Statistic):
        by = sorted(f"{column} as number" if column in numeric else column for column in set(s.by))
        groups.setdefault(", ".join(by), set()).update(s.list_kinds(), s.since)
    sequences = [[s.name, s.of, list(s.columns), s.length] for s in settings.select_features(Sequence)]
    parts = settings.model_dump(mode="json", include={"zone", "history", "label"}, exclude=_NOT_AFFECTING_LABEL)
    as_of = [log and log.as_of for log in (settings.logs.users, settings.logs.items)]
    state = _list_state_settings(settings)
    return hash_json([parts, {by: sorted(kinds) for by, kinds in groups.items()}, sequences, as_of, *state])


def hash_features_settings(settings: Settings) -> str:
    """Hash the settings that affect the rows of the table `features`."""
    names = {"zone", "logs", "label", "domains", "history", "features"}
    # Weights and further outcomes are stored in `labels`, and the projection of a vector is part of the model.
    logs: Any = {"impressions": {"weight"}, "events": True}
    exclude = _NOT_AFFECTING_LABEL | {"logs": logs, "features": {"__all__": {"dim"}}}
    parts = settings.model_dump(mode="json", include=names, exclude=exclude)
    state = _list_state_settings(settings)
    return hash_json([parts, *state] if state else parts)


def _list_state_settings(settings: Settings) -> list[int]:
    return [] if settings.state.expire_days is None else [settings.state.expire_days]


def hash_split_settings(settings: Settings) -> str:
    """Hash the settings that affect the split of a night. All models with the same hash can share the split."""
    parts = settings.model_dump(
        mode="json",
        include={
            "zone": True, "logs": True, "label": True, "domains": True, "history": True, "features": True,
            "state": True, "window": True, "split": True, "model": {"embeddings"},
        },
        exclude={"label": _WEIGHTS},
    )  # fmt: skip
    return hash_json(parts)


def format_variant(settings: Settings) -> str:
    """Return the model's name with its variant, as shown in tables and metrics, for example `star-pn-aux`.

    The name consists of the model, the normalization, and `aux` or `noaux`. Attention pooling, summed weights and mixed
    batches are appended if they are used, for example `star-bn-aux-din-sum-mixed`. So is `subset`, if only some of the
    domains are trained on.
    """
    model = settings.model
    parts = [model.name, model.norm, "aux" if model.aux else "noaux"]
    parts += [model.pooling] if model.pooling != "mean" else []
    parts += ["sum"] if model.combine == "sum" else []
    data = settings.trainer.data
    parts += ["mixed"] if data.batches == "mixed" else []
    parts += ["subset"] if data.domains is not None or data.exclude_domains else []
    return "-".join(parts)


_REFIT = "-refit"


def make_refit_run_id(run_id: str) -> str:
    """Return the id of the refit of a run: the same training job, but on days that include the evaluated day."""
    return f"{run_id}{_REFIT}"


def strip_refit_suffix(run_id: str) -> str:
    """Return the id of the run whose metrics apply to `run_id`: the refitted run for a refit, else `run_id` itself."""
    return run_id.removesuffix(_REFIT)


_REFERENCE = "-reference"


def make_reference_run_id(run_id: str) -> str:
    """Return the id of the reference of a run, which has the same settings and is trained from scratch."""
    return f"{run_id}{_REFERENCE}"


def is_reference(run_id: str) -> bool:
    """Return whether a run is a reference, which is never served."""
    return run_id.endswith(_REFERENCE)


def make_run_id(settings: Settings, ds: str) -> str:
    """Return the id of a run: the night, the model with its variant, the seed, and the hash of the settings."""
    return f"{ds}-{format_variant(settings)}-s{settings.trainer.seed}-{hash_config(settings)}"
