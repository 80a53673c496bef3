"""Settings of the gate: what a night's candidate must show to be served."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from star_ctr.conf.settings.base import SettingsModel


class GateSettings(SettingsModel):
    """When the gate holds a candidate, and which days have too little data for a decision.

    A candidate is held if it is significantly worse than the serving model and by more than a margin. `error_rate` is
    the significance level over all checks and domains.
    """

    error_rate: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="share of nights on which a candidate as good as the serving model may be held, over all checks",
    )

    min_rows: int = Field(1_000, ge=0, description="test rows that a day must have")
    min_clicks: int = Field(50, ge=0, description="clicks that they must hold")
    min_share: float = Field(
        0.3, ge=0, le=1, description="rows of a day, of the median of the nights before: overall, and by large domain"
    )
    domain_rows: int = Field(2_000, ge=1, description="rows of a night from which on a domain is large")
    gauc_margin: float = Field(0.001, ge=0, description="what the overall GAUC may lose to the serving model's")
    domain_margin: float = Field(0.01, ge=0, description="what the GAUC of the worst large domain may lose to it")
    domain_loss: float = Field(
        0.05,
        gt=0,
        description="loss of GAUC in a large domain that should be detected on 9 of 10 nights; the promotion reason "
        "names domains that have too few users for it",
    )
    drop_margin: float = Field(
        0.03,
        ge=0,
        description="what the overall GAUC may be below that with which the serving model was accepted",
    )
    pcoc: tuple[float, float] = Field((0.7, 1.4), description="band of the overall PCOC (predicted over actual clicks)")

    publish: Literal["evaluated", "refit"] = Field(
        "evaluated",
        description="what is served of a promoted model: the weights that were evaluated, or those of a refit, trained "
        "in the same way on the days up to the one that it was judged on",
    )

    @model_validator(mode="after")
    def _check_band(self) -> GateSettings:
        if not 0 < self.pcoc[0] < self.pcoc[1]:
            raise ValueError("pcoc: give the lower bound first, as in [0.8, 1.25]")
        return self
