"""The search space: the keys to change, and the values of each, relative to the current settings."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import Any, cast

from optuna.trial import Trial
from pydantic import ValidationError

from star_ctr.conf.errors import ConfigError, UserError, suggest_nearest
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.conf.settings.root import Settings
from star_ctr.conf.settings.trainer import TrainerSettings
from star_ctr.conf.settings.tune import SearchRange

Values = Mapping[str, Any]
"""Changed settings of a trial, by dotted key."""
_LAYERS = ([64, 32], [128, 64], [256, 128, 64], [512, 256, 128, 64, 32, 16])
"""Sizes of the network, from small to large."""
_CHANGE_CHANCE = 0.3
"""Probability with which a trial near the current settings changes a key."""


@dataclass(frozen=True)
class Dimension:
    """The values of a key.

    Attributes:
        key: The dotted key.
        current: The current value.
        choices: The values, as JSON; empty for a range of numbers.
        low: The lowest number.
        high: The highest number.
        log: Whether numbers are drawn on a logarithmic scale.
        is_integer: Whether numbers are whole.
    """

    key: str
    current: Any
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    is_integer: bool = False

    def suggest(self, trial: Trial) -> Any:
        """Return the value that the sampler suggests for a trial."""
        if self.choices:
            return json.loads(trial.suggest_categorical(self.key, self.choices))
        if self.is_integer:
            return trial.suggest_int(self.key, round(self.low), round(self.high), log=self.log)
        return self._round(trial.suggest_float(self.key, self.low, self.high, log=self.log))

    def encode(self, value: Any) -> Any:
        """Return the Optuna parameter of a value; the nearest one if the value is outside the range."""
        return json.dumps(value) if self.choices else min(max(value, self.low), self.high)

    def draw(self, source: random.Random) -> Any:
        """Draw a value other than the current one, uniformly."""
        if self.choices:
            return json.loads(source.choice([c for c in self.choices if c != json.dumps(self.current)]))
        if self.is_integer and not self.log:
            return source.randint(round(self.low), round(self.high))
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = source.uniform(low, high)
        value = math.exp(value) if self.log else value
        return round(value) if self.is_integer else self._round(value)

    def describe(self) -> str:
        """Return the values as text."""
        if self.choices:
            return ", ".join(self.choices)
        return f"{self.low:.3g} to {self.high:.3g}{' (logarithmic)' if self.log else ''}"

    def _round(self, value: float) -> float:
        """Round to three significant digits within the range: more digits only make YAML files hard to read."""
        if value == self.current:
            return value
        return min(max(float(f"{value:.3g}"), self.low), self.high)


def make_space(settings: Settings) -> list[Dimension]:
    """Return the search space of the settings: the default one, changed by `tune.space`.

    Args:
        settings: The current settings.

    Returns:
        The dimensions, by key.

    Raises:
        ConfigError: A key of `tune.space` does not exist, or its range is not valid.
    """
    ranges = {} if settings.tune.only else list_default_ranges(settings)
    current = dump_training(settings)
    for key in settings.tune.space:
        if key not in current:
            raise ConfigError(f"tune.space: `{key}`: no such setting{suggest_nearest(key, current)}")
    ranges = {key: r for key, r in (ranges | settings.tune.space).items() if r is not None}
    space = [_make_dimension(settings, key, found, current[key]) for key, found in sorted(ranges.items()) if found]
    return [d for d in space if len(d.choices) != 1]


def list_default_ranges(settings: Settings) -> dict[str, SearchRange | None]:
    """Return the default search space, relative to the current settings."""
    model, trainer = settings.model, settings.trainer
    sizes = [list(layers) for layers in _LAYERS]
    nearest = min(range(len(sizes)), key=lambda k: abs(math.log(sum(sizes[k]) / sum(model.layers))))
    ranges: dict[str, SearchRange | None] = {
        "trainer.optimizer.lr": SearchRange(factor=3),
        "trainer.optimizer.embedding_lr": SearchRange(factor=3),
        "trainer.optimizer.lr_final": SearchRange(values=[1.0, 0.1]),
        "trainer.optimizer.weight_decay": SearchRange(values=[0.0, 0.01, 0.1]),
        "trainer.optimizer.ema_decay": SearchRange(values=[0.0, 0.99, 0.999]),
        "trainer.batch_size": SearchRange(values=[max(2, trainer.batch_size // 2), trainer.batch_size * 2]),
        "trainer.epochs": SearchRange(values=sorted({max(1, trainer.epochs - 1), trainer.epochs + 1})),
        "model.dropout": SearchRange(values=[0.0, 0.1, 0.2, 0.3]),
        "model.layers": SearchRange(values=sizes[max(0, nearest - 1) : nearest + 2]),
        "model.dim": SearchRange(values=[max(1, model.dim // 2), model.dim * 2]),
    }
    if model.name == "star" or model.norm == "pn":
        ranges["trainer.optimizer.domain_lr"] = SearchRange(factor=3)
    return ranges


def _make_dimension(settings: Settings, key: str, found: SearchRange, current: Any) -> Dimension:
    if current is None and key.endswith(("embedding_lr", "domain_lr")):
        current = settings.trainer.optimizer.lr  # their default
    if found.values is not None:
        for value in found.values:
            try:
                change_settings(settings, {key: value})
            except UserError as error:
                raise ConfigError(f"tune.space: {error}") from None
        # The values as the settings store them: 0 becomes 0.0.
        values = [dump_training(change_settings(settings, {key: value}))[key] for value in [current, *found.values]]
        return Dimension(key, values[0], tuple(dict.fromkeys(map(json.dumps, values))))
    if isinstance(current, bool) or not isinstance(current, int | float):
        raise ConfigError(f"tune.space: `{key}` is not a number; give its `values`")
    is_integer = isinstance(current, int)
    if found.factor is not None:
        if current <= 0:
            raise ConfigError(f"tune.space: `{key}` is {current}, so `factor` cannot be used; give `low` and `high`")
        low, high, log = current / found.factor, current * found.factor, True
    else:
        low, high, log = cast(float, found.low), cast(float, found.high), found.log
    if is_integer:
        low, high = max(math.ceil(low), 1 if log else math.ceil(low)), math.floor(high)
    for bound in (low, high):
        try:
            change_settings(settings, {key: bound})
        except UserError as error:
            raise ConfigError(f"tune.space: {error}") from None
    return Dimension(key, current, (), low, high, log, is_integer)


def draw_near(space: Sequence[Dimension], source: random.Random) -> dict[str, Any]:
    """Draw a trial near the current settings: few keys change, but at least one.

    Args:
        space: The search space.
        source: The source of random numbers.

    Returns:
        The changed values.
    """
    changed = [d for d in space if source.random() < _CHANGE_CHANCE] or [source.choice(list(space))]
    return {d.key: d.draw(source) for d in changed}


def dump_training(settings: Settings) -> dict[str, Any]:
    """Return the values of `model` and `trainer` by dotted key; mappings such as `model.embeddings` are one value."""
    dumped = settings.model_dump(mode="json", include={"model", "trainer"})
    found: dict[str, Any] = {}

    def flatten(prefix: str, values: Mapping[str, Any], annotations: Any) -> None:
        for name, value in values.items():
            inner = getattr(annotations, name)
            if hasattr(type(inner), "model_fields"):
                flatten(f"{prefix}{name}.", value, inner)
            else:
                found[f"{prefix}{name}"] = value

    flatten("", dumped, settings)
    return found


def change_settings(settings: Settings, values: Values) -> Settings:
    """Return the settings with other values, without applying the recipe again.

    Args:
        settings: The settings, to which the recipe has been applied.
        values: The values, by dotted key of `model` and `trainer`.

    Returns:
        The settings.

    Raises:
        UserError: A value is not valid, alone or in combination with the others.
    """
    dumped = settings.model_dump(include={"model", "trainer"})
    for key, value in values.items():
        *parents, last = key.split(".")
        reduce(getitem, parents, dumped)[last] = value
    sections: dict[str, Any] = {}
    for name, section in (("model", ModelSettings), ("trainer", TrainerSettings)):
        try:
            sections[name] = section.model_validate(dumped[name])
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(map(str, (name, *problem["loc"])))
            text = str(problem["msg"]).removeprefix("Value error, ").splitlines()[0]
            raise UserError(f"{key}: {text}") from None
    try:
        return settings.replace_training(**sections)
    except ValueError as error:
        raise UserError(str(error).splitlines()[0]) from None
