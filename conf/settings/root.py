"""The settings of one data set: what its YAML file may say, checked as a whole.

Everything that a step needs to know about a data set stands there; a new data set is a new YAML file.
`load` in `star_ctr.conf.load` reads one.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from star_ctr.conf.contracts.column_names import find_name_problems
from star_ctr.conf.contracts.encoded_row import OTHER, OVERALL
from star_ctr.conf.errors import suggest_nearest
from star_ctr.conf.settings.base import SettingsModel
from star_ctr.conf.settings.checks import CheckSettings
from star_ctr.conf.settings.compare import Comparison
from star_ctr.conf.settings.features import (
    AnyFeature,
    Categorical,
    Column,
    Feature,
    History,
    Sequence,
    Statistic,
    list_read_columns,
)
from star_ctr.conf.settings.gate import GateSettings
from star_ctr.conf.settings.label import LabelColumn, LabelFromClicks
from star_ctr.conf.settings.logs import LogSettings, Zone
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.conf.settings.retention import RetentionSettings
from star_ctr.conf.settings.simulate import SimulateSettings
from star_ctr.conf.settings.trainer import TrainerSettings

F = TypeVar("F", bound=Feature)


class PathSettings(SettingsModel):
    """Where the logs are read and the tables are written (folders, or URLs that Spark understands)."""

    logs: str
    warehouse: str
    models: str | None = Field(
        None,
        description="the folder of the trainings, on a file system that all machines see; `models` below `warehouse` "
        "if not given, which must then be such a folder too",
    )


class WindowSettings(SettingsModel):
    """The training window: the `days` before the test day."""

    days: int = Field(7, ge=1)


def _parse_domain_name(value: Any) -> Any:
    """Convert a number to text; reject a bool, because YAML reads an unquoted `no` as false."""
    if isinstance(value, bool):
        raise ValueError(f"YAML reads this as {str(value).lower()}; quote the domain's name, for example 'no'")
    return str(value) if isinstance(value, int) else value


class DomainSettings(SettingsModel):
    """Which domains there are, and what becomes of rows of any other.

    With `known`, rows of other domains are met at ingest; without, a domain is known once it occurs in the
    training window. `drop` leaves their rows out (counted, with the reason), `bucket` gives them to `other`.
    """

    known: list[Annotated[str, BeforeValidator(_parse_domain_name)]] | None = None
    unknown: Literal["drop", "bucket"] = "bucket"


class SplitSettings(SettingsModel):
    """How the encoded rows are laid out: one row group a file, one domain a file."""

    rows_per_file: int = Field(16_384, ge=1)
    vocabulary: Literal["fitted", "grown"] = Field(
        "fitted",
        description="fitted on the window's days alone; or grown out of the newest night before: its values keep their "
        "ids, its domains their places and its numbers their scales, and what is new is added",
    )


class EvaluateSettings(SettingsModel):
    """Intervals of AUC and GAUC: the bootstrap over a night's users."""

    replicates: int = Field(200, ge=0, description="draws of the users; 0: no intervals")
    level: float = Field(0.95, gt=0, lt=1)
    seed: int = Field(0, ge=0, description="other draws for another seed; runs that are compared share them")


class SparkSettings(SettingsModel):
    """The Spark session that `star-ctr` commands start; under spark-submit, spark-submit's own settings hold."""

    master: str = "local[*]"
    driver_memory: str = "4g"
    shuffle_partitions: int = Field(8, ge=1)
    conf: dict[str, str] = Field(default_factory=dict)


class Settings(SettingsModel):
    """One data set from its logs to its model."""

    name: str = Field(min_length=1)
    about: str = ""
    zone: Zone = Field("UTC", description="time zone in which days begin and end, and of times without a zone")
    paths: PathSettings
    logs: LogSettings
    label: LabelColumn | LabelFromClicks
    domains: DomainSettings = DomainSettings()
    checks: CheckSettings = CheckSettings()
    history: dict[str, History] = Field(default_factory=dict)
    features: list[AnyFeature] = Field(min_length=1)
    window: WindowSettings = WindowSettings()
    split: SplitSettings = SplitSettings()
    model: ModelSettings = ModelSettings()
    trainer: TrainerSettings = TrainerSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    gate: GateSettings = GateSettings()
    retention: RetentionSettings = RetentionSettings()
    spark: SparkSettings = SparkSettings()
    simulate: SimulateSettings | None = None
    compare: Comparison = Comparison()

    @model_validator(mode="before")
    @classmethod
    def _inherit_zone(cls, given: Any) -> Any:
        """Let times without a zone be in the zone of the days, unless their log declares another one."""
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
        problems = [
            *_find_label_problems(self),
            *_find_domain_problems(self),
            *_find_history_problems(self),
            *_find_feature_problems(self),
            *find_name_problems(self.features, self.history),
            *_find_model_problems(self),
            *_find_refit_problems(self),
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def outcomes(self) -> frozenset[str]:
        """Columns of the impression log that hold what happened after the impression, the label included."""
        label = {self.label.column} if isinstance(self.label, LabelColumn) else set()
        return frozenset({*self.logs.impressions.outcomes, *label})

    def select_features(self, kind: type[F]) -> list[F]:
        """The features of one kind, in their order."""
        return [f for f in self.features if isinstance(f, kind)]


def _find_label_problems(settings: Settings) -> list[str]:
    from_clicks = isinstance(settings.label, LabelFromClicks)
    if from_clicks and settings.logs.clicks is None:
        return ["label.window_hours: the label comes from clicks, but `logs.clicks` is not declared"]
    if from_clicks and settings.logs.impressions.id is None:
        return ["logs.impressions.id: clicks are joined by the impression's id; declare its column"]
    own = settings.label.column if isinstance(settings.label, LabelColumn) else None
    if "label" in settings.logs.impressions.outcomes and own != "label":
        return [
            "logs.impressions.outcomes: a column named `label` conflicts with the label itself "
            "(`outcome: label` in `history`); rename it in the log, or remove it from the list"
        ]
    return []


def _find_domain_problems(settings: Settings) -> list[str]:
    reserved = {OVERALL, OTHER} & set(settings.domains.known or [])
    return [f"domains.known: `{name}` is reserved; rename that domain" for name in sorted(reserved)]


def _find_history_problems(settings: Settings) -> list[str]:
    problems = []
    outcomes = {*settings.outcomes(), "label"}
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
                f"history.{name}.also: the rows of `logs.behaviours` have times, so a later `{kind.also}` would "
                f"be known too early; make `{kind.also}` a kind of its own"
            )
    return problems


def _find_feature_problems(settings: Settings) -> list[str]:
    problems = []
    seen: set[str] = set()
    for feature in settings.features:
        where = f"features.{feature.name}"
        if feature.name in seen:
            problems.append(f"{where}: the name is used twice; rename one")
        seen.add(feature.name)
        for column in list_read_columns(feature):
            problems += [f"{where}: {problem}" for problem in _find_column_problems(settings, feature, column)]
        kinds: list[str] = []
        if isinstance(feature, Sequence):
            kinds = feature.of
        elif isinstance(feature, Statistic):
            kinds = [*feature.kinds(), *feature.since]
        problems += [
            f"{where}: `{kind}` is no kind of `history`{suggest_nearest(kind, settings.history)}"
            for kind in kinds
            if kind not in settings.history
        ]
        only_rates = {name for name, kind in settings.history.items() if kind.less}
        if isinstance(feature, Statistic):
            kinds = [*feature.counts, *feature.since, *feature.rates.values()]
        problems += [
            f"{where}: `{kind}` has `less`, so that it can only be the first of a pair of `rates`"
            for kind in kinds
            if kind in only_rates
        ]
    return problems


def _find_model_problems(settings: Settings) -> list[str]:
    problems = _find_pooling_problems(settings)
    if settings.trainer.data.batches == "single_domain":
        if settings.model.name == "mulann":
            problems.append(
                "trainer.data.batches: MulANN's discriminator needs batches of several domains; set it to mixed"
            )
        return problems
    if settings.model.norm == "pn":
        problems.append(
            "model.norm: partitioned normalization takes its moments from batches of one domain; "
            "set trainer.data.batches to single_domain, or model.norm to bn or ln"
        )
    if settings.trainer.parallel == "batches":
        problems.append(
            "trainer.parallel: processes share out batches of one domain each, not mixed ones; set it to rows"
        )
    return problems


def _find_refit_problems(settings: Settings) -> list[str]:
    if settings.gate.publish == "refit" and settings.trainer.warm_start is not None:
        return [
            "gate.publish: a refit is trained from scratch, but trainer.warm_start wants nights that go on from each "
            "other (the next one learns from the day anyway); set gate.publish to evaluated, or no trainer.warm_start"
        ]
    return []


def _find_pooling_problems(settings: Settings) -> list[str]:
    if settings.model.pooling == "mean":
        return []
    of_row = {f.embedding or f.name for f in settings.select_features(Categorical) if f.splitter is None}
    return [
        f"model.pooling: {settings.model.pooling} weighs the events of `{sequence.name}` by the candidate, but no "
        "categorical feature shares an embedding with it; give one of them, or set model.pooling to mean"
        for sequence in settings.select_features(Sequence)
        if not of_row & set(sequence.columns.values())
    ]


def _find_column_problems(settings: Settings, feature: AnyFeature, column: Column) -> list[str]:
    table, _, name = column.partition(".")
    if table == "impressions" and name in settings.outcomes():
        return [
            f"`{column}` is declared an outcome (it happens after the impression), so it cannot be a feature; "
            "take a `statistic` of it over earlier impressions instead"
        ]
    if table in ("users", "items") and getattr(settings.logs, table) is None:
        return [f"`{column}` is a column of `logs.{table}`, which is not declared"]
    if isinstance(feature, Sequence) and table == "users":
        return [f"`{column}`: a sequence holds what it knows of each event's item; user columns do not change along it"]
    return []
