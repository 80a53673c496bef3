"""Settings of `star-ctr compare`: models, nights and seeds, and the predefined models of the paper."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from star_ctr.conf.errors import suggest_nearest
from star_ctr.conf.settings.base import NonEmptyText, SettingsModel, TrainingKey


def _parse_day(value: Any) -> str:
    """Convert a day to text, because YAML reads an unquoted day as a date."""
    try:
        return dt.date.fromisoformat(str(value)).isoformat()
    except ValueError:
        raise ValueError(f"`{value}` is not a date; write it like 2022-05-05") from None


Day = Annotated[str, BeforeValidator(_parse_day)]
Overrides = dict[TrainingKey, Any]

MIXED, SINGLE = {"trainer.data.batches": "mixed"}, {"trainer.data.batches": "single_domain"}
PREDEFINED_MODELS: Mapping[str, Mapping[str, Any]] = {
    # §4.1: Base is trained on mixed samples. The other compared models, except STAR, are trained in the same way.
    "base": {"model.name": "base", "model.norm": "bn", **MIXED},
    "shared_bottom": {"model.name": "shared_bottom", "model.norm": "bn", **MIXED},
    "mulann": {"model.name": "mulann", "model.norm": "bn", **MIXED},
    "mmoe": {"model.name": "mmoe", "model.norm": "bn", **MIXED},
    "cross_stitch": {"model.name": "cross_stitch", "model.norm": "bn", **MIXED},
    "star": {"model.name": "star", "model.norm": "pn", **SINGLE},
    "ple": {"model.name": "ple", "model.norm": "bn", **MIXED},
    "pepnet": {"model.name": "pepnet", "model.norm": "bn", **MIXED},
    # Tables 3 and 4. The paper does not state whether BN and LN were trained on mixed or single-domain batches.
    "base_pn": {"model.name": "base", "model.norm": "pn", **SINGLE},
    "star_bn": {"model.name": "star", "model.norm": "bn", **MIXED},
    "star_ln": {"model.name": "star", "model.norm": "ln", **MIXED},
    "star_bn_single": {"model.name": "star", "model.norm": "bn", **SINGLE},
    "star_ln_single": {"model.name": "star", "model.norm": "ln", **SINGLE},
}
"""The predefined models of a comparison, as overrides by name."""
DEFAULT_MODELS = ("base", "shared_bottom", "mulann", "mmoe", "cross_stitch", "star", "ple", "pepnet")
"""The models of the paper's Table 2, followed by the later models PLE and PEPNet."""
NO_AUX_SUFFIX = "_noaux"
"""Suffix of the name of a model without its auxiliary network."""


class Plan(SettingsModel):
    """A set of models, each trained for all nights with all seeds."""

    models: list[NonEmptyText] = Field(
        default=list(DEFAULT_MODELS),
        min_length=1,
        description="names of the models: predefined ones, or those declared in `compare.models`; each name may end in "
        "`_noaux`; default: the models of Table 2, PLE and PEPNet",
    )
    nights: list[Day] = Field(
        default_factory=list, description="test days, such as 2022-05-05; default: the newest complete day"
    )
    seeds: int = Field(3, ge=1, description="number of seeds per model and night; the seeds count from 0")
    title: str = Field("Table 2", description="title of the plan's tables in the report")


class Comparison(SettingsModel):
    """What `star-ctr compare` trains if its command line does not name models and nights.

    A model is defined by overrides of the settings. Later ones take precedence: those for its `model.name`
    (`settings`), the predefined ones of the model, and its own (`models`). A name that ends in `_noaux` stands for
    the model without that suffix, trained without the auxiliary network.
    """

    plans: list[Plan] = Field(
        default=[Plan()], min_length=1, description="what to train; default: one plan with the defaults of all its keys"
    )
    settings: dict[str, Overrides] = Field(
        default_factory=dict,
        description="overrides for all models with the same `model.name`, for example the result of a search; "
        "default: none",
    )
    models: dict[str, Overrides] = Field(
        default_factory=dict,
        description="additional models by name, each as overrides of keys in `model` and `trainer`; a predefined name "
        "extends that model; default: none",
    )

    @model_validator(mode="after")
    def _check_models(self) -> Comparison:
        known = {*PREDEFINED_MODELS, *self.models}
        wrong = [
            f"models: `{name}` is not a known model{suggest_nearest(name, known)}; use one of "
            f"{', '.join(sorted(known))}, with or without the suffix {NO_AUX_SUFFIX}, or declare it in `compare.models`"
            for plan in self.plans
            for name in plan.models
            if name.removesuffix(NO_AUX_SUFFIX) not in known
        ]
        wrong += [
            f"models.{name}: the suffix {NO_AUX_SUFFIX} is reserved for a model without its auxiliary network; "
            "rename the model"
            for name in self.models
            if name.endswith(NO_AUX_SUFFIX)
        ]
        wrong += [
            f"settings.{name}: not a value of `model.name`{suggest_nearest(name, DEFAULT_MODELS)}"
            for name in self.settings
            if name not in DEFAULT_MODELS
        ]
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def list_overrides(self, model: str) -> list[str]:
        """Return the overrides that define a model, as `key=value` texts.

        Args:
            model: The name of a predefined or declared model, with or without the suffix `_noaux`.
        """
        declared = {**PREDEFINED_MODELS.get(name := model.removesuffix(NO_AUX_SUFFIX), {}), **self.models.get(name, {})}
        common = self.settings.get(str(declared.get("model.name", "star")), {})
        without = {"model.aux": False} if model.endswith(NO_AUX_SUFFIX) else {}
        return [f"{key}={json.dumps(value)}" for key, value in {**common, **declared, **without}.items()]

    def iter_runs(self) -> Iterator[tuple[str, str, int]]:
        """Yield (model, night, seed) of all plans, without repetitions and in the order of seeds."""
        seen: dict[tuple[str, str, int], None] = {}
        for seed in range(max(plan.seeds for plan in self.plans)):
            for plan in self.plans:
                if seed < plan.seeds:
                    seen |= dict.fromkeys((model, night, seed) for night in plan.nights for model in plan.models)
        yield from seen
