"""Settings of `star-ctr tune`: the objective, its limits, and the search space."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from star_ctr.conf.settings.base import SettingsModel, TrainingKey
from star_ctr.conf.settings.trainer import NOT_AFFECTING_WEIGHTS

_FIXED = ("warm_start", "calibration.method", "calibration.earlier_nights")
"""Keys of `trainer` that have the same value in all trials."""


def is_fixed(key: str) -> bool:
    """Return whether a setting is the same in all trials, or does not change the model."""
    section, _, name = key.partition(".")
    return section == "trainer" and (name.partition(".")[0] in NOT_AFFECTING_WEIGHTS or name in _FIXED)


class SearchRange(SettingsModel):
    """Values to search for a key: `values`, `factor`, or `low` and `high`. The current value is always included."""

    values: list[Any] | None = Field(None, min_length=1, description="values to try")
    factor: float | None = Field(
        None, gt=1, description="search from the current value divided by this factor to the current value times it"
    )
    low: float | None = Field(None, description="lowest value, with `high`")
    high: float | None = Field(None, description="highest value, with `low`")
    log: bool = Field(False, description="whether values between `low` and `high` are drawn on a logarithmic scale")

    @model_validator(mode="after")
    def _check_form(self) -> SearchRange:
        forms = [self.values is not None, self.factor is not None, self.low is not None or self.high is not None]
        if sum(forms) != 1:
            raise ValueError("set exactly one of `values`, `factor`, or `low` and `high`")
        if forms[2]:
            if self.low is None or self.high is None:
                raise ValueError("set both `low` and `high`")
            if self.low >= self.high:
                raise ValueError("`low` must be less than `high`")
        if self.log and (self.low is None or self.low <= 0):
            raise ValueError("`log` needs a `low` above 0")
        return self


class TuneLimits(SettingsModel):
    """Limits for proposed settings, which are compared with the current settings on the same nights and seeds."""

    auc: float = Field(0.001, ge=0, description="largest allowed loss of AUC, compared with the current settings")
    pcoc: float = Field(
        0.1,
        ge=0,
        description="largest allowed distance of PCOC from 1, unless that of the current settings is larger",
    )


class TuneSettings(SettingsModel):
    """Objective, limits and search space of `star-ctr tune`. docs/tune.md describes the search."""

    objective: Literal["gauc", "auc", "log_loss"] = Field("gauc", description="metric to optimize, over all rows")
    limits: TuneLimits = Field(TuneLimits(), description="limits for proposed settings")
    space: dict[TrainingKey, SearchRange | None] = Field(
        default_factory=dict,
        description="search range by key, such as `model.dropout: {values: [0, 0.2]}`, added to the default space; "
        "null: do not search this key; default: the default space (docs/tune.md#search-space)",
    )
    only: bool = Field(False, description="whether `space` replaces the default search space instead of changing it")
    candidates: int = Field(
        3, ge=1, description="number of trials that are retrained with other seeds at the end of the search"
    )
    level: float = Field(
        0.9, gt=0.5, lt=1, description="confidence that proposed settings are better than the current ones"
    )

    @model_validator(mode="after")
    def _check_space(self) -> TuneSettings:
        for key in self.space:
            if is_fixed(key):
                raise ValueError(
                    f"space: `{key}` cannot be searched; it is the same in all trials, or does not change the model"
                )
            if key.startswith("model.embeddings."):
                raise ValueError(f"space: `{key}` cannot be searched, because it is part of the split")
        if self.only and not any(self.space.values()):
            raise ValueError("only: the search space is empty; add keys to `space`")
        return self
