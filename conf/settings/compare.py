"""Which models a comparison trains, on which nights, with how many seeds; the paper's own models by their names."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from star_ctr.conf.errors import suggest_nearest
from star_ctr.conf.settings.base import NonEmpty, SettingsModel


def _check_override_key(key: str) -> str:
    section, _, name = key.partition(".")
    if section not in ("model", "trainer") or key in ("model.embeddings", "trainer.seed") or not name:
        raise ValueError(
            f"`{key}` cannot differ between compared models; keys of `model` and `trainer` can, "
            "but for model.embeddings (part of the split) and trainer.seed"
        )
    return key


def _parse_day(value: Any) -> str:
    """A day as text; YAML reads a bare one as a date."""
    try:
        return dt.date.fromisoformat(str(value)).isoformat()
    except ValueError:
        raise ValueError(f"`{value}` is no day; write it as in 2022-05-05") from None


Day = Annotated[str, BeforeValidator(_parse_day)]
Overrides = dict[Annotated[str, AfterValidator(_check_override_key)], Any]

MIXED, SINGLE = {"trainer.data.batches": "mixed"}, {"trainer.data.batches": "single_domain"}
PAPER: Mapping[str, Mapping[str, Any]] = {
    # §4.1: all samples are mixed for Base, and so for what stands on it.
    "base": {"model.name": "base", "model.norm": "bn", **MIXED},
    "shared_bottom": {"model.name": "shared_bottom", "model.norm": "bn", **MIXED},
    "mulann": {"model.name": "mulann", "model.norm": "bn", **MIXED},
    "mmoe": {"model.name": "mmoe", "model.norm": "bn", **MIXED},
    "cross_stitch": {"model.name": "cross_stitch", "model.norm": "bn", **MIXED},
    "star": {"model.name": "star", "model.norm": "pn", **SINGLE},
    "ple": {"model.name": "ple", "model.norm": "bn", **MIXED},
    "pepnet": {"model.name": "pepnet", "model.norm": "bn", **MIXED},
    # Tables 3 and 4; how BN and LN were fed the paper does not say.
    "base_pn": {"model.name": "base", "model.norm": "pn", **SINGLE},
    "star_bn": {"model.name": "star", "model.norm": "bn", **MIXED},
    "star_ln": {"model.name": "star", "model.norm": "ln", **MIXED},
    "star_bn_single": {"model.name": "star", "model.norm": "bn", **SINGLE},
    "star_ln_single": {"model.name": "star", "model.norm": "ln", **SINGLE},
}
TABLE_2 = ("base", "shared_bottom", "mulann", "mmoe", "cross_stitch", "star", "ple", "pepnet")
WITHOUT_AUX = "_noaux"


class Plan(SettingsModel):
    """Some models, each trained on all of the nights with all of the seeds."""

    models: list[NonEmpty] = Field(default=list(TABLE_2), min_length=1)
    nights: list[Day] = Field(
        default_factory=list, description="the test days; the newest complete day if none is given"
    )
    seeds: int = Field(3, ge=1, description="so many seeds, from 0 on")
    title: str = Field("Table 2", description="what the report calls its tables")


class Comparison(SettingsModel):
    """What `star-ctr compare` does where its command line says nothing else.

    `settings`: overrides of all models of one `model.name`, as a search found them. `models`: further models by
    a name of your own, each as overrides. A name that ends in `_noaux` is the model before it without the
    auxiliary network.
    """

    plans: list[Plan] = Field(default=[Plan()], min_length=1)
    settings: dict[str, Overrides] = Field(default_factory=dict)
    models: dict[str, Overrides] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_models(self) -> Comparison:
        known = {*PAPER, *self.models}
        wrong = [
            f"models: `{name}` is no model{suggest_nearest(name, known)}; known are {', '.join(sorted(known))}, each also "
            f"with {WITHOUT_AUX}; another can be declared under `compare.models`"
            for plan in self.plans
            for name in plan.models
            if name.removesuffix(WITHOUT_AUX) not in known
        ]
        wrong += [
            f"models.{name}: the suffix {WITHOUT_AUX} is reserved for a model without its auxiliary network; "
            "rename the model"
            for name in self.models
            if name.endswith(WITHOUT_AUX)
        ]
        wrong += [
            f"settings.{name}: no `model.name`{suggest_nearest(name, TABLE_2)}"
            for name in self.settings
            if name not in TABLE_2
        ]
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def overrides(self, model: str) -> list[str]:
        """The `key=value` overrides that make a model of these names."""
        declared = {**PAPER.get(name := model.removesuffix(WITHOUT_AUX), {}), **self.models.get(name, {})}
        found = self.settings.get(str(declared.get("model.name", "star")), {})
        without = {"model.aux": False} if model.endswith(WITHOUT_AUX) else {}
        return [f"{key}={json.dumps(value)}" for key, value in {**found, **declared, **without}.items()]

    def runs(self) -> Iterator[tuple[str, str, int]]:
        """(model, night, seed) of all plans, each once; a first seed of everything comes before a second one."""
        seen: dict[tuple[str, str, int], None] = {}
        for seed in range(max(plan.seeds for plan in self.plans)):
            for plan in self.plans:
                if seed < plan.seeds:
                    seen |= dict.fromkeys((model, night, seed) for night in plan.nights for model in plan.models)
        yield from seen
