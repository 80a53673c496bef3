"""Settings of the simulated logs."""

from __future__ import annotations

import datetime as dt

from pydantic import Field, model_validator

from star_ctr.conf.errors import suggest_nearest
from star_ctr.conf.settings.base import DomainName, SettingsModel

SIMULATED_DOMAINS = tuple(f"d{number:02d}" for number in range(1, 20))
"""Names of the simulated domains, in the order of their numbers."""


class SimulateSettings(SettingsModel):
    """Size of the logs that `star-ctr simulate` writes, and planted relations between domains.

    docs/simulator.md describes how clicks arise. The same settings always produce the same logs.
    """

    impressions: int = Field(600_000, ge=1_000, description="number of impressions over all days")
    days: int = Field(4, ge=2, description="number of days with impressions")
    first_day: dt.date = Field(dt.date(2026, 1, 5), description="first day with impressions")
    users: int = Field(20_000, ge=100, description="number of users")
    items: int = Field(5_000, ge=100, description="number of items")
    seed: int = Field(1, ge=0, description="seed of everything that is drawn at random")
    same_clicks: dict[DomainName, DomainName] = Field(
        default_factory=dict,
        description="domains (d01 to d19) in which clicks depend on users and items as they do in another domain, for "
        "example {d14: d13}, so that the two domains help each other; default: none",
    )
    opposite_clicks: list[DomainName] = Field(
        default_factory=list,
        description="domains in which the effects of users and items on clicks have the opposite sign, so that "
        "their rows may harm a model for all domains; default: none",
    )

    @model_validator(mode="after")
    def _check_domains(self) -> SimulateSettings:
        named = {"same_clicks": [n for pair in self.same_clicks.items() for n in pair]}
        named["opposite_clicks"] = self.opposite_clicks
        for key, names in named.items():
            if unknown := next((name for name in names if name not in SIMULATED_DOMAINS), None):
                hint = suggest_nearest(unknown, SIMULATED_DOMAINS)
                raise ValueError(f"{key}: `{unknown}` is not a simulated domain{hint}; use one of d01 to d19")
        if chained := next((name for name in self.same_clicks.values() if name in self.same_clicks), None):
            raise ValueError(f"same_clicks: `{chained}` is both a key and a value; choose another domain")
        return self
