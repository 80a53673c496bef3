"""Settings of the gate, which decides whether a night's candidate is served."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from star_ctr.conf.settings.base import SettingsModel


class GateSettings(SettingsModel):
    """When the gate holds a candidate, and which days have too little data for a decision.

    A candidate is held if a metric is significantly worse, and by more than a margin. `error_rate` is the significance
    level over all checks and domains. "Earlier nights" are the newest seven at most. Nights that were held or had too
    little data are left out.
    """

    error_rate: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="share of nights on which a candidate as good as the serving model may be held, over all checks",
    )

    min_rows: int = Field(1_000, ge=0, description="minimum number of test rows for a decision")
    min_clicks: int = Field(50, ge=0, description="minimum number of clicks in the test rows for a decision")
    min_share: float = Field(
        0.3,
        ge=0,
        le=1,
        description="minimum rows relative to the median of earlier nights, and minimum clicks relative to those "
        "expected at their median click rate; applies to the whole day and to each large domain",
    )
    domain_rows: int = Field(2_000, ge=1, description="minimum number of rows of a night that makes a domain large")
    gauc_margin: float = Field(
        0.001, ge=0, description="tolerated loss of overall GAUC compared with the serving model"
    )
    domain_margin: float = Field(
        0.01, ge=0, description="tolerated loss of GAUC in a large domain compared with the serving model"
    )
    domain_loss: float = Field(
        0.05,
        gt=0,
        description="loss of GAUC in a large domain that should be detected on 9 of 10 nights; the promotion reason "
        "names domains that have too few users for it",
    )
    drop_margin: float = Field(
        0.03,
        ge=0,
        description="tolerated drop of overall GAUC below the value with which the serving model was accepted",
    )
    pcoc: tuple[float, float] = Field(
        (0.7, 1.4), description="accepted range of overall PCOC (predicted clicks / actual clicks), as [low, high]"
    )

    publish: Literal["evaluated", "refit"] = Field(
        "evaluated",
        description="what is served after a promotion: the evaluated weights, or those of a refit, which repeats the "
        "training on days that include the evaluated day",
    )

    @model_validator(mode="after")
    def _check_band(self) -> GateSettings:
        if not 0 < self.pcoc[0] < self.pcoc[1]:
            raise ValueError("pcoc: give two positive numbers, the lower bound first, as in [0.8, 1.25]")
        return self
