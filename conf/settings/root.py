"""The settings of one data set, validated as a whole. `star_ctr.conf.load.load` reads them from a YAML file.

The YAML file contains everything that is specific to a data set. A new data set needs a new YAML file, but no code.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeVar

from pydantic import Field, model_validator

from star_ctr.conf.contracts.column_names import find_name_problems
from star_ctr.conf.contracts.domains import RESERVED_NAMES
from star_ctr.conf.errors import suggest_nearest
from star_ctr.conf.settings.base import DomainName, SettingsModel
from star_ctr.conf.settings.catalog import CatalogSettings
from star_ctr.conf.settings.checks import CheckSettings
from star_ctr.conf.settings.compare import Comparison
from star_ctr.conf.settings.evaluate import EvaluateSettings
from star_ctr.conf.settings.expressions import reads_any
from star_ctr.conf.settings.feature_problems import (
    find_embedding_problems,
    find_feature_problems,
    find_weight_problems,
)
from star_ctr.conf.settings.features import (
    AnyFeature,
    Feature,
    History,
)
from star_ctr.conf.settings.gate import GateSettings
from star_ctr.conf.settings.label import Label, LabelColumn, LabelFromClicks
from star_ctr.conf.settings.logs import LogSettings, Zone
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.conf.settings.model_problems import find_model_problems
from star_ctr.conf.settings.paths import PathSettings
from star_ctr.conf.settings.reference import ReferenceSettings, find_reference_problems
from star_ctr.conf.settings.retention import RetentionSettings
from star_ctr.conf.settings.simulate import SimulateSettings
from star_ctr.conf.settings.trainer import TrainerSettings
from star_ctr.conf.settings.tune import TuneSettings

F = TypeVar("F", bound=Feature)


class WindowSettings(SettingsModel):
    """The training window."""

    days: int = Field(7, ge=1, description="number of training days, which precede the test day")


class DomainSettings(SettingsModel):
    """Known domains, and how rows of other domains are treated.

    With `known`, ingest handles rows of other domains. Without it, `split` does, because a domain is known if it occurs
    in the training window.
    """

    known: list[DomainName] | None = Field(
        None, description="names of the known domains; default: the domains in the training window"
    )
    unknown: Literal["drop", "bucket"] = Field(
        "bucket",
        description="rows of other domains: `drop` leaves them out (the ledger counts them), `bucket` "
        "assigns them to the domain `other`",
    )


class StateSettings(SettingsModel):
    """The stored history of events, from which statistics and sequences are computed."""

    expire_days: int | None = Field(
        None,
        ge=1,
        description="a key that is not seen for more than this number of days loses its earlier events; a key is a "
        "combination of values in the group columns of a statistic, or the user of a sequence; this includes events "
        "that `last_days` of a statistic would still count; default: keys never expire",
    )


class SplitSettings(SettingsModel):
    """Encoded rows and vocabularies. A file contains rows of one domain, in one row group."""

    rows_per_file: int = Field(16_384, ge=1, description="maximum number of rows per file")
    vocabulary: Literal["fitted", "grown"] = Field(
        "fitted",
        description="vocabularies and scales: `fitted` on the training window only, or `grown` from those of the "
        "newest earlier night: its values and domains keep their ids, its numbers keep their scales, and new ones are "
        "added; the training rows of a day are then encoded once for all nights",
    )


class SparkSettings(SettingsModel):
    """The Spark session of `star-ctr` commands. Under spark-submit, the settings of spark-submit apply instead."""

    master: str = Field("local[*]", description="URL of the Spark master; default: all cores of this machine")
    driver_memory: str = Field("4g", description="memory of the driver, such as 4g")
    shuffle_partitions: int = Field(8, ge=1, description="number of shuffle partitions, and of split writers")
    conf: dict[str, str] = Field(default_factory=dict, description="additional Spark properties; default: none")


class Settings(SettingsModel):
    """The settings of one data set."""

    extends: str | None = Field(
        None,
        description="YAML file to which this file contains changes: a path relative to this file, or the name of a "
        "file that ships with star-ctr; mappings are merged, other values are replaced "
        "(docs/new-data-set.md#change-an-existing-file)",
    )
    name: str = Field(min_length=1, description="name of the data set")
    about: str = Field("", description="description of the data set; not used by the code")
    zone: Zone = Field("UTC", description="time zone of days, and of times without a zone")
    paths: PathSettings = Field(description="folders of logs, tables and runs")
    logs: LogSettings = Field(description="logs and their columns")
    label: Label = Field(description="label: a column (`column`) or clicks (`window_hours`)")
    domains: DomainSettings = Field(DomainSettings(), description="known and unknown domains")
    checks: CheckSettings = Field(CheckSettings(), description="data quality limits")
    history: dict[str, History] = Field(default_factory=dict, description="kinds of events by name; default: none")
    features: list[AnyFeature] = Field(min_length=1, description="features of the model")
    state: StateSettings = Field(StateSettings(), description="stored history of events")
    window: WindowSettings = Field(WindowSettings(), description="training window")
    split: SplitSettings = Field(SplitSettings(), description="encoded rows and vocabularies")
    preset: Literal["auto", "paper"] = Field(
        "auto",
        description="source of the `model` and `trainer` settings that the YAML file omits: `auto`: a recipe, chosen "
        "once per warehouse from the size of the training data (docs/training.md#recipe), then the defaults; `paper`: "
        "the defaults, which are the paper's",
    )
    model: ModelSettings = Field(ModelSettings(), description="network")
    trainer: TrainerSettings = Field(TrainerSettings(), description="training")
    evaluate: EvaluateSettings = Field(EvaluateSettings(), description="confidence intervals of metrics")
    gate: GateSettings = Field(GateSettings(), description="when a candidate is served")
    reference: ReferenceSettings | None = Field(
        None,
        exclude_if=lambda reference: reference is None,
        description="comparison of models that continue from an earlier night with models trained from scratch; "
        "default: none",
    )
    retention: RetentionSettings = Field(RetentionSettings(), description="ages of data that `star-ctr clean` deletes")
    spark: SparkSettings = Field(SparkSettings(), description="Spark session")
    catalog: CatalogSettings | None = Field(
        None, description="catalog in which the tables are registered for SQL; default: none"
    )
    simulate: SimulateSettings | None = Field(None, description="size of simulated logs; default: none are simulated")
    compare: Comparison = Field(Comparison(), description="what `star-ctr compare` trains")
    tune: TuneSettings = Field(TuneSettings(), description="what `star-ctr tune` optimizes and searches")

    @model_validator(mode="before")
    @classmethod
    def _inherit_zone(cls, given: Any) -> Any:
        """Set the time zone of each log's `time` to `zone`, unless the log declares another one."""
        logs = given.get("logs") if isinstance(given, dict) else None
        if not isinstance(logs, dict) or "zone" not in given:
            return given
        filled = {
            name: {**log, "time": {"zone": given["zone"], **log["time"]}}
            if isinstance(log, dict) and isinstance(log.get("time"), dict)
            else log
            for name, log in logs.items()
        }
        return {**given, "logs": filled}

    @model_validator(mode="after")
    def _check_consistency(self) -> Settings:
        return _check(self)

    def replace_training(self, model: ModelSettings, trainer: TrainerSettings) -> Settings:
        """Return the settings with other sections `model` and `trainer`; raises `ValueError` if they do not fit."""
        return _check(self.model_copy(update={"model": model, "trainer": trainer}))

    def get_outcomes(self) -> frozenset[str]:
        """Return the columns of the impression log whose values arise after the impression, including the label.

        The weight is included, because it may depend on the label. So are columns computed from such columns.
        """
        label = {self.label.column} if isinstance(self.label, LabelColumn) else set()
        sources = self.logs.impressions.list_sources().values()
        clicked = {source.explode.clicked for source in sources if source.explode and source.explode.clicked}
        weight = {self.logs.impressions.weight} if self.logs.impressions.weight else set()
        found = {*self.logs.impressions.outcomes, *label, *clicked, *weight, *self.label.outcome_columns.values()}
        computed = {name for s in sources for name, text in s.columns.items() if reads_any(text, found)}
        return frozenset(found | computed)

    def select_features(self, kind: type[F]) -> list[F]:
        """Return the features of one kind, in their declared order."""
        return [f for f in self.features if isinstance(f, kind)]


def _check(settings: Settings) -> Settings:
    """Return the settings; raise `ValueError` if they are inconsistent."""
    problems = [
        *_find_label_problems(settings),
        *_find_domain_problems(settings),
        *_find_history_problems(settings),
        *find_feature_problems(settings),
        *find_weight_problems(settings),
        *find_name_problems(settings.features, settings.history),
        *find_model_problems(settings),
        *find_embedding_problems(settings),
        *_find_refit_problems(settings),
        *find_reference_problems(settings),
        *_find_retention_problems(settings),
    ]
    if problems:
        raise ValueError("\n".join(problems))
    return settings


def _find_label_problems(settings: Settings) -> list[str]:
    if settings.label.outcome_events:
        name, logs = next(iter(settings.label.outcome_events)), settings.logs
        if logs.events is None:
            return [f"label.also.{name}: the outcome comes from events, but `logs.events` is not declared"]
        if logs.impressions.id is None:
            return ["logs.impressions.id: this key is required to join events; set it to the column with the id"]
    if settings.trainer.outcome_weight != 1 and not settings.label.also:
        return ["trainer.outcome_weight: there are no further outcomes; declare `label.also`, or remove this key"]
    hours = settings.window.days * 24
    for name, outcome in settings.label.outcome_events.items():
        if outcome.window_hours > hours:
            days = math.ceil(outcome.window_hours / 24)
            return [
                f"label.also.{name}: its window of {outcome.window_hours:g} hours is longer than the training window, "
                f"so the outcome is not known for most or all training rows; set window.days to at least {days}"
            ]
    from_clicks = isinstance(settings.label, LabelFromClicks)
    if from_clicks and settings.logs.clicks is None:
        return ["label.window_hours: the label comes from clicks, but `logs.clicks` is not declared"]
    if from_clicks and settings.logs.impressions.id is None:
        return ["logs.impressions.id: this key is required to join clicks; set it to the column with the id"]
    label_column = settings.label.column if isinstance(settings.label, LabelColumn) else None
    if "label" in settings.logs.impressions.outcomes and label_column != "label":
        return [
            "logs.impressions.outcomes: a column named `label` conflicts with the label itself "
            "(`outcome: label` in `history`); rename it in the log, or remove it from the list"
        ]
    return []


def _find_domain_problems(settings: Settings) -> list[str]:
    known = settings.domains.known or []
    problems = [f"domains.known: `{d}` is reserved; rename that domain" for d in sorted(RESERVED_NAMES & set(known))]
    return problems + [
        f"domains.known: `{d}` is listed twice; delete one" for d in sorted(set(known)) if known.count(d) > 1
    ]


def _find_history_problems(settings: Settings) -> list[str]:
    problems = []
    outcomes = {*settings.logs.impressions.outcomes, "label"}
    for name, kind in settings.history.items():
        if kind.outcome and kind.outcome not in outcomes:
            problems.append(
                f"history.{name}.outcome: `{kind.outcome}` is neither `label` nor one of "
                f"`logs.impressions.outcomes`{suggest_nearest(kind.outcome, outcomes)}"
            )
        if kind.behaviours and settings.logs.behaviours is None:
            problems.append(f"history.{name}.behaviours: `logs.behaviours` is not declared")
        if kind.also and settings.logs.behaviours is not None and settings.logs.behaviours.time:
            problems.append(
                f"history.{name}.also: the rows of `logs.behaviours` have times, so a later `{kind.also}` would count "
                f"too early; declare a separate kind for `{kind.also}`"
            )
    return problems


def _find_retention_problems(settings: Settings) -> list[str]:
    if settings.retention.history is None or settings.state.expire_days is not None:
        return []
    return [
        "retention.history: history is deleted only after it was merged into a base, which requires that keys expire; "
        "set state.expire_days, or remove this key"
    ]


def _find_refit_problems(settings: Settings) -> list[str]:
    label = settings.label
    if settings.gate.publish != "refit":
        return []
    if isinstance(label, LabelFromClicks) and label.window_hours >= 24 and label.open == "drop":
        return [
            "gate.publish: a refit is also trained on the newest day, whose labels are all open with a "
            f"label.window_hours of {label.window_hours:g}; set label.open to keep, or gate.publish to evaluated"
        ]
    if settings.trainer.warm_start is not None:
        return [
            "gate.publish: a refit is trained from scratch, but with trainer.warm_start each night continues from an "
            "earlier one and learns from the day anyway; set gate.publish to evaluated, or remove trainer.warm_start"
        ]
    return []
