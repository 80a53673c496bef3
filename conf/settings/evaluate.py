"""Settings of the section `evaluate`."""

from __future__ import annotations

import logging
from typing import Any

from pydantic import Field, model_validator

from star_ctr.conf.settings.base import SettingsModel

_logger = logging.getLogger(__name__)


class EvaluateSettings(SettingsModel):
    """Confidence intervals of AUC and GAUC, by a Poisson bootstrap over the users of a night."""

    bootstrap_samples: int = Field(
        200, ge=0, description="number of bootstrap samples; 0: no intervals. The gate uses at least 200"
    )
    level: float = Field(0.95, gt=0, lt=1, description="confidence level of the intervals")
    seed: int = Field(0, ge=0, description="seed of the bootstrap; compared runs share the samples")

    @model_validator(mode="before")
    @classmethod
    def _accept_earlier_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and "replicates" in values:
            _logger.warning(
                "the setting evaluate.replicates is now called evaluate.bootstrap_samples; rename it in the YAML file"
            )
            earlier = {k: v for k, v in values.items() if k != "replicates"}
            return {"bootstrap_samples": values["replicates"], **earlier}
        return values
