"""What makes a run the run that it is: hashes of its settings, and the `make_run_id`."""

from __future__ import annotations

from typing import Any

from star_ctr.conf.contracts.fingerprint import hash_json
from star_ctr.conf.settings.features import Numeric, list_read_columns
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.settings.trainer import NOT_AFFECTING_WEIGHTS

_NOT_OF_THE_MODEL: Any = {
    "paths": True,
    "spark": True,
    "about": True,
    "simulate": True,
    "compare": True,
    "evaluate": True,
    "gate": True,
    "checks": True,
    "retention": True,
    "trainer": {*NOT_AFFECTING_WEIGHTS, "seed"},
}


def hash_config(settings: Settings) -> str:
    """Hash of the settings that decide what the model is: not of places, machines or the seed."""
    return hash_json(settings.model_dump(mode="json", exclude=_NOT_OF_THE_MODEL))


def hash_ingest_settings(settings: Settings) -> str:
    """Hash of the settings that decide what `ingest` of a night writes."""
    parts = settings.model_dump(mode="json", include={"zone", "logs", "label", "domains", "window"})
    # How a column of a log is read depends on the features that read it: as a number or as an id.
    parts["numbers"] = sorted({f.column for f in settings.select_features(Numeric)})
    parts["ids"] = sorted({c for f in settings.features if not isinstance(f, Numeric) for c in list_read_columns(f)})
    return hash_json(parts)


def hash_features_settings(settings: Settings) -> str:
    """Hash of the settings that decide what the `features` table holds."""
    parts = settings.model_dump(mode="json", include={"zone", "logs", "label", "domains", "history", "features"})
    return hash_json(parts)


def hash_split_settings(settings: Settings) -> str:
    """Hash of the settings that decide what a night's `split` holds; which model reads it plays no part."""
    parts = settings.model_dump(
        mode="json",
        include={
            "zone": True, "logs": True, "label": True, "domains": True, "history": True, "features": True,
            "window": True, "split": True, "model": {"embeddings"},
        },
    )  # fmt: skip
    return hash_json(parts)


def format_variant(settings: Settings) -> str:
    """The model's name with its variant, as tables and metrics show it: `star-pn-aux`.

    What departs from the usual form is added: pooling by attention, summed weights, mixed batches.
    """
    model = settings.model
    parts = [model.name, model.norm, "aux" if model.aux else "noaux"]
    parts += [model.pooling] if model.pooling != "mean" else []
    parts += ["sum"] if model.combine == "sum" else []
    parts += ["mixed"] if settings.trainer.data.batches == "mixed" else []
    return "-".join(parts)


_REFIT = "-refit"


def make_refit_run_id(run_id: str) -> str:
    """The name of the refit of a run: the same training, on the days up to the one that the run was judged on."""
    return f"{run_id}{_REFIT}"


def strip_refit_suffix(run_id: str) -> str:
    """The run whose metrics speak for a run: of a refit the one that it was made of, else the run itself."""
    return run_id.removesuffix(_REFIT)


def make_run_id(settings: Settings, ds: str) -> str:
    """The name of a run: the night, the model with its variant, the seed and the hash of the settings."""
    return f"{ds}-{format_variant(settings)}-s{settings.trainer.seed}-{hash_config(settings)}"
