"""The recipe of a data set: model and trainer settings derived from the size of its training data.

With `preset: auto`, a recipe sets the batch size, the layers, the learning rates and a few more keys, unless the YAML
file or an override sets them. The recipe is chosen once per warehouse, after `features` and before `split`. Later
nights use it unchanged, so their models differ only in the data. Its settings count toward the run id like settings
from the YAML file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from star_ctr.conf.contracts.catalog import RECIPE_FILE
from star_ctr.conf.errors import DataError
from star_ctr.conf.files import open_folder, write_text
from star_ctr.conf.settings.base import SettingsModel
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.conf.settings.paths import PathSettings
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.settings.trainer import TrainerSettings

_SECTIONS: dict[str, type[SettingsModel]] = {"model": ModelSettings, "trainer": TrainerSettings}
_RATES = ("trainer.optimizer.lr", "trainer.optimizer.domain_lr", "trainer.optimizer.embedding_lr")
_CHOSEN_WITH_RATES = (*_RATES, "trainer.epochs", "model.dropout")
"""Keys that are chosen together. If a learning rate is set, the recipe sets none of them."""


class TrainingSize(SettingsModel):
    """The size of the training data.

    Attributes:
        rows: Number of training rows before negatives are downsampled.
        clicks: Number of these rows with a click.
        domains: Number of domains.
        used_rows: Number of rows after downsampling, approximately.
    """

    rows: int = Field(ge=0)
    clicks: int = Field(ge=0)
    domains: int = Field(ge=0)
    used_rows: int = Field(ge=0)


class Recipe(SettingsModel):
    """A stored recipe.

    Attributes:
        rule_version: Version of the rule that chose the settings.
        ds: The night for which the recipe was chosen.
        size: The size of the training data of that night.
        settings: Settings by dotted key, for example `trainer.batch_size`.
    """

    rule_version: int
    ds: str
    size: TrainingSize
    settings: dict[str, Any]


def read_recipe(paths: PathSettings) -> Recipe | None:
    """Read the recipe of a warehouse.

    Args:
        paths: The paths of the data set.

    Returns:
        The recipe; None if the warehouse has none.

    Raises:
        DataError: The file is damaged.
    """
    file = open_folder(paths.warehouse) / RECIPE_FILE
    try:
        text = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        recipe = Recipe.model_validate_json(text)
        sections = _nest(recipe.settings, {})
        for name, section in sections.items():
            _SECTIONS[name].model_validate(section)
    except (ValidationError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"{file}: damaged, or written by another version of star-ctr; delete it, and the next night chooses a new "
            "recipe"
        ) from None
    return recipe


def write_recipe(paths: PathSettings, recipe: Recipe) -> None:
    """Replace the recipe of a warehouse."""
    write_text(open_folder(paths.warehouse) / RECIPE_FILE, recipe.model_dump_json(indent=1) + "\n")


def apply_recipe(settings: Settings) -> Settings:
    """Apply the warehouse's recipe to the settings that neither the YAML file nor an override sets.

    Args:
        settings: The settings.

    Returns:
        The settings. Unchanged if `preset` is `paper`, or if there is no recipe yet.

    Raises:
        DataError: The file of the recipe is damaged.
    """
    recipe = read_recipe(settings.paths) if settings.preset == "auto" else None
    return settings if recipe is None else fill_unset(settings, recipe.settings)


def fill_unset(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """Set the keys that neither the YAML file nor an override sets.

    Args:
        settings: The settings.
        values: Values by dotted key.

    Returns:
        The settings with these values.
    """
    overridden = list_overridden_keys(settings, values)
    sections = _nest({k: v for k, v in values.items() if k not in overridden}, _dump_set(settings))
    return settings.model_copy(update={name: _SECTIONS[name].model_validate(x) for name, x in sections.items()})


def list_overridden_keys(settings: Settings, values: Mapping[str, Any]) -> list[str]:
    """Return the keys of a recipe that do not apply, in recipe order.

    These are the keys that the YAML file or an override sets. If it sets a learning rate, they include the other
    learning rates, the epochs and the dropout, which were chosen for the rates of the recipe. With mixed batches,
    domain-specific weights are updated in every step and need no higher rate.
    """
    given = _dump_set(settings)
    has_rate = any(_is_set(given, key) for key in _RATES)
    is_mixed = settings.trainer.data.batches == "mixed"
    return [
        key
        for key in values
        if _is_set(given, key)
        or (has_rate and key in _CHOSEN_WITH_RATES)
        or (is_mixed and key == "trainer.optimizer.domain_lr")
    ]


def _dump_set(settings: Settings) -> dict[str, Any]:
    """Return the keys of the sections that are set."""
    return {name: getattr(settings, name).model_dump(exclude_unset=True) for name in _SECTIONS}


def _nest(values: Mapping[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    """Add values by dotted key to nested sections."""
    for key, value in values.items():
        *parents, last = key.split(".")
        section = sections
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return sections


def _is_set(sections: Mapping[str, Any], key: str) -> bool:
    section: Any = sections
    for part in key.split("."):
        if not isinstance(section, Mapping) or part not in section:
            return False
        section = section[part]
    return True
