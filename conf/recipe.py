"""The recipe of a data set: model and trainer settings derived from the size of its training data.

With `preset: auto`, a recipe sets the batch size, the layers, the learning rates and a few more keys, unless the YAML
file or an override sets them. The recipe is chosen once per warehouse, after `features` and before `split`. Later
nights use it unchanged, so their models differ only in the data. Its settings count toward the run id like settings
from the YAML file.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationError

from star_ctr.conf.contracts.catalog import RECIPE_FILE
from star_ctr.conf.errors import DataError
from star_ctr.conf.files import open_folder, write_text
from star_ctr.conf.settings.base import SettingsModel
from star_ctr.conf.settings.paths import PathSettings
from star_ctr.conf.settings.root import Settings

_SECTIONS = ("model", "trainer")


class TrainingSize(SettingsModel):
    """The size of the training data.

    Attributes:
        rows: Number of training rows.
        clicks: Number of training rows with a click.
        domains: Number of domains.
    """

    rows: int = Field(ge=0)
    clicks: int = Field(ge=0)
    domains: int = Field(ge=0)


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
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return Recipe.model_validate_json(text)
    except ValidationError:
        raise DataError(
            f"{file}: damaged, or written by another version of star-ctr; delete it, and the next night chooses a new "
            "recipe"
        ) from None


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


def fill_unset(settings: Settings, values: dict[str, Any]) -> Settings:
    """Set the keys that neither the YAML file nor an override sets.

    Args:
        settings: The settings.
        values: Values by dotted key.

    Returns:
        The settings with these values.
    """
    sections = {name: getattr(settings, name).model_dump(exclude_unset=True) for name in _SECTIONS}
    for key, value in values.items():
        *parents, last = key.split(".")
        section = sections
        for parent in parents:
            section = section.setdefault(parent, {})
        section.setdefault(last, value)
    fields = Settings.model_fields
    types = {name: fields[name].annotation for name in _SECTIONS}
    return settings.model_copy(update={name: types[name].model_validate(sections[name]) for name in _SECTIONS})  # type: ignore[union-attr]


def list_overridden_keys(settings: Settings, values: dict[str, Any]) -> list[str]:
    """Return the keys of a recipe that the YAML file or an override sets, in recipe order."""
    sections = {name: getattr(settings, name).model_dump(exclude_unset=True) for name in _SECTIONS}

    def is_set(key: str) -> bool:
        section: Any = sections
        for part in key.split("."):
            if not isinstance(section, dict) or part not in section:
                return False
            section = section[part]
        return True

    return [key for key in values if is_set(key)]
