"""Base class and common types of all settings."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

NonEmptyText = Annotated[str, Field(min_length=1)]
"""Text with at least one character."""


def _check_training_key(key: str) -> str:
    section, _, name = key.partition(".")
    if section not in ("model", "trainer") or not name or key in ("model.embeddings", "trainer.seed"):
        raise ValueError(
            f"`{key}` cannot differ between training runs on the same split; use keys of `model` and `trainer`, except "
            "model.embeddings (part of the split) and trainer.seed"
        )
    return key


TrainingKey = Annotated[str, AfterValidator(_check_training_key)]
"""The dotted key of a setting in which training runs on the same split may differ."""


def _parse_domain_name(value: Any) -> Any:
    """Convert a number to text; reject a bool, because YAML reads an unquoted `no` as false."""
    if isinstance(value, bool):
        raise ValueError(f"YAML reads this as {str(value).lower()}; quote the domain's name, for example 'no'")
    return str(value) if isinstance(value, int) else value


DomainName = Annotated[str, BeforeValidator(_parse_domain_name)]
"""Name of a domain; a number in YAML is converted to text."""


class SettingsModel(BaseModel):
    """Base class of all settings. Unknown keys are rejected, and values cannot be changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)
