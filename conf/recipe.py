"""The recipe of a data set: model and trainer settings that follow from the size of its training data.

With `preset: auto`, the settings that the YAML file does not contain come from the recipe. The recipe is chosen once
per data set, after `features` and before `split`, and stored in the warehouse. Later nights use it as it is, so that
their models differ only in the data. Its values are ordinary settings, and part of the identity of a run.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from star_ctr.conf.contracts.catalog import RECIPE_FILE
from star_ctr.conf.contracts.stored import parse_stored
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
        rule: Version of the rule that chose the values.
        ds: The night for which the recipe was chosen.
        size: The size of the training data of that night.
        values: Settings by dotted key, for example `trainer.batch_size`.
    """

    rule: int
    ds: str
    size: TrainingSize
    values: dict[str, Any]


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
    return parse_stored(Recipe, text, file)


def write_recipe(paths: PathSettings, recipe: Recipe) -> None:
    """Replace the recipe of a warehouse."""
    write_text(open_folder(paths.warehouse) / RECIPE_FILE, recipe.model_dump_json(indent=1) + "\n")


def apply_recipe(settings: Settings) -> Settings:
    """Fill in the settings that the YAML file does not contain from the recipe of the warehouse.

    Args:
        settings: The settings.

    Returns:
        The settings with the values of the recipe. They are unchanged with `preset: paper`, or if the warehouse has no
        recipe yet.

    Raises:
        DataError: The file of the recipe is damaged.
    """
    recipe = read_recipe(settings.paths) if settings.preset == "auto" else None
    return settings if recipe is None else fill_in(settings, recipe.values)


def fill_in(settings: Settings, values: dict[str, Any]) -> Settings:
    """Set the given keys, except those that the YAML file or an override has set.

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


def list_own_values(settings: Settings, values: dict[str, Any]) -> list[str]:
    """Return the keys of a recipe whose values the YAML file or an override has set, in the order of the recipe."""
    sections = {name: getattr(settings, name).model_dump(exclude_unset=True) for name in _SECTIONS}

    def is_set(key: str) -> bool:
        section: Any = sections
        for part in key.split("."):
            if not isinstance(section, dict) or part not in section:
                return False
            section = section[part]
        return True

    return [key for key in values if is_set(key)]
