"""Settings of the trainer. They are divided into groups, and each group declares whether it affects the weights."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AliasChoices, BeforeValidator, Field, model_validator

from star_ctr.conf.settings.base import DomainName, SettingsModel

PREVIOUS = "previous"
"""Value of `trainer.warm_start`: the newest finished run of an earlier night with this configuration."""
ACCEPTED = "accepted"
"""Value of `trainer.warm_start`: the newest run of an earlier night that the gate or a person accepted (§4.4)."""


def _check_warm_start(given: Any) -> Any:
    """Raise `ValueError` for a value that cannot be the id of a run, all of which contain hyphens."""
    if given is None or given in (PREVIOUS, ACCEPTED) or (isinstance(given, str) and "-" in given):
        return given
    raise ValueError(f"this must be `{PREVIOUS}`, `{ACCEPTED}` or a run_id of the table `runs` (got `{given}`)")


SamplingRate = Annotated[float, Field(gt=0, le=1)]
"""A sampling rate in (0, 1]."""


class TrainerGroup(SettingsModel):
    """Base class of the groups of trainer settings."""

    affects_weights: ClassVar[bool]
    """Whether the settings of the group are part of the identity of a run."""


class OptimizerSettings(TrainerGroup):
    """Adam (§4.1): learning rates, weight decay, precision, and the EMA of the weights."""

    affects_weights = True

    lr: float = Field(0.001, gt=0, description="learning rate of the shared dense weights")
    embedding_lr: float | None = Field(None, gt=0, description="learning rate of the embeddings; default: `lr`")
    domain_lr: float | None = Field(
        None,
        gt=0,
        description="learning rate of the domain-specific weights (W_p, b_p, gamma_p, beta_p); default: `lr`",
    )
    lr_final: float = Field(
        1.0,
        gt=0,
        le=1,
        description="final learning rates as a share of the initial ones; they decay linearly; 1: constant",
    )
    weight_decay: float = Field(
        0.0,
        ge=0,
        description="decoupled weight decay of the shared dense weights (AdamW), relative to the learning rate",
    )
    domain_decay: float | None = Field(
        None,
        ge=0,
        description="decoupled decay of the domain-specific weights toward the shared model, relative to their "
        "learning rate; default: `weight_decay`",
    )
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay per step of the exponential moving average (EMA) of the weights, which is evaluated and "
        "exported instead of the weights; 0: no EMA",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="precision of matrix products in training (autocast); weights, optimizer state and loss are "
        "float32",
    )
    warm_start_state: Literal["keep", "reset"] = Field(
        "keep",
        description="optimizer state and EMA at a warm start: `keep` continues those of the earlier run; `reset` "
        "starts from its EMA weights, with a new optimizer state and a new EMA",
    )


class DataSettings(TrainerGroup):
    """Domains to train on, composition of batches, shuffling, and new ids."""

    affects_weights = True

    domains: list[DomainName] | None = Field(
        None,
        min_length=1,
        description="names of the domains to train on, with `other` for unknown domains; rows of domains that are not "
        "listed are scored like those of unknown domains; default: all domains",
    )
    exclude_domains: list[DomainName] = Field(
        default_factory=list,
        description="names of the domains not to train on; their rows are scored like those of unknown domains; "
        "default: none",
    )
    batches: Literal["single_domain", "mixed"] = Field(
        "single_domain", description="rows of one domain per batch (§3.2), or of all domains mixed (§4.1, Base)"
    )
    window_rows: int = Field(65_536, ge=1, description="number of rows in the shuffled sliding window (§4.4)")
    new_ids_as_unknown: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the rows with a new id (an id of a categorical feature that no earlier training day "
        "contains) in which training treats the id as unknown, as scoring treats the new ids of the next day; 0: none",
    )
    window_bytes: int = Field(
        1 << 30, ge=1, description="maximum memory of the sliding window in bytes; limits `window_rows` for wide rows"
    )

    @model_validator(mode="after")
    def _check_domains(self) -> DataSettings:
        if self.domains is not None and self.exclude_domains:
            raise ValueError("`domains` and `exclude_domains` cannot be combined; remove one of them")
        return self

    def is_selected(self, domain: str) -> bool:
        """Return whether the rows of a domain are trained on."""
        return domain not in self.exclude_domains if self.domains is None else domain in self.domains


class CalibrationSettings(TrainerGroup):
    """Normalization statistics, output biases, and calibration on earlier scores, all with frozen weights.

    Training rows are weighted by their age, because the next day is more similar to the newest days.
    """

    affects_weights = True

    norm_statistics_rows: int = Field(
        50_000,
        ge=0,
        description="approximate number of training rows per domain from which E_p and Var_p (eq. 4) are recomputed; "
        "0: keep the running statistics, and do not calibrate output biases",
    )
    norm_statistics_prior: float = Field(
        100.0, ge=0, description="weight of the statistics of all domains in those of a domain, in rows"
    )
    half_life: float = Field(
        1.0, gt=0, description="age in days at which a row has half the weight of a row of the newest training day"
    )
    output_biases: bool = Field(
        True,
        description="whether to calibrate each domain's output bias, so that predicted clicks match actual clicks on "
        "the same training rows",
    )
    method: Literal["none", "bias", "platt", "isotonic"] = Field(
        "bias",
        validation_alias=AliasChoices("method", "earlier_scores"),  # the second one is the name in earlier versions
        description="map that is fitted on the scores that the models of earlier nights gave to their test days: "
        "`bias` shifts the logits of each domain, `platt` also changes their slope, `isotonic` shifts them and applies "
        "a monotone map; `none`: no map (normalization statistics and output biases are calibrated anyway)",
    )
    earlier_nights: int = Field(
        7,
        ge=1,
        description="number of earlier test days to calibrate on: the newest ones whose labels are final",
    )


class DistributedSettings(TrainerGroup):
    """How the processes of a training run are started, and which embedding rows each of them holds."""

    affects_weights = False

    launcher: Literal["torchrun", "spark"] = Field(
        "torchrun", description="start the processes with torchrun on this machine, or as tasks of the Spark session"
    )
    tables: Literal["replicated", "sharded"] = Field(
        "replicated",
        description="embedding tables: a copy per process (CPU processes on one machine share one), or rows sharded "
        "over the processes",
    )
    restarts: int = Field(2, ge=0, description="maximum number of restarts by torchrun after a process was lost")


class CheckpointSettings(TrainerGroup):
    """Checkpoints: when they are written, how many are kept, and whether training resumes from them."""

    affects_weights = False

    minutes: float = Field(
        5.0, gt=0, description="minutes between checkpoints; one is also written on SIGTERM and at the end"
    )
    keep: int = Field(2, ge=1, description="number of checkpoints to keep")
    resume: Literal["auto", "require"] = Field(
        "auto",
        description="`auto`: resume from a checkpoint of the same training run if one exists; `require`: fail if none "
        "does",
    )


class RuntimeSettings(TrainerGroup):
    """Decoding threads and logging of a training process."""

    affects_weights = False

    readers: int = Field(0, ge=0, description="number of threads that decode files; 0: one per four cores")
    tensorboard: bool = Field(True, description="whether to write scalars for TensorBoard to the attempt's folder")


class TrainerSettings(SettingsModel):
    """Training of the model. The paper uses Adam with a learning rate of 0.001 and batches of 2000 rows (§4.1)."""

    batch_size: int = Field(2000, ge=2, description="rows per batch")
    epochs: int = Field(1, ge=1, description="number of passes over the training rows")
    seed: int = Field(0, ge=0, description="seed of initialization, shuffling and dropout")
    warm_start: Annotated[str | None, BeforeValidator(_check_warm_start)] = Field(
        None,
        description="run to start from (§4.4): its run_id, `previous` (the newest finished run of an earlier night "
        "with this configuration), or `accepted` (the newest one that the gate or a person accepted); the split "
        "encodes numbers like that run; default: train from scratch",
    )
    negatives: SamplingRate | dict[str, SamplingRate] = Field(
        1.0,
        description="share of the negatives (training rows without a click) to keep, or shares by domain (others keep "
        "all); predictions are corrected for it, and test rows are never downsampled; 1: all",
    )
    outcome_weight: float = Field(
        1.0,
        ge=0,
        le=100,
        # With this value, the settings have the same hashes as before this key existed.
        exclude_if=lambda weight: weight == 1,
        description="factor that multiplies all weights in `label.also`; 0: train only the label",
    )
    parallel: Literal["rows", "batches"] = Field(
        "rows",
        description="what several processes divide among them: the rows of each batch, which gives the same model as "
        "one process up to rounding; or the batches, one per process and step, which makes steps larger",
    )
    processes: int = Field(1, ge=1, description="number of training processes")
    threads: int = Field(
        0,
        ge=0,
        description="number of torch threads per process; 0: chosen from the batch size and the layers, at most one "
        "per core. Weights are bit-identical only for the same number, so resume and replay reuse the number in the "
        "record",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="device to train on; auto: a GPU if one is available, else the CPU"
    )

    optimizer: OptimizerSettings = Field(OptimizerSettings(), description="optimizer, learning rates and EMA")
    data: DataSettings = Field(DataSettings(), description="domains, composition of batches, and shuffling")
    calibration: CalibrationSettings = Field(
        CalibrationSettings(), description="normalization statistics, output biases, and calibration on earlier scores"
    )
    distributed: DistributedSettings = Field(DistributedSettings(), description="processes and embedding shards")
    checkpoint: CheckpointSettings = Field(CheckpointSettings(), description="checkpoints and resuming")
    runtime: RuntimeSettings = Field(RuntimeSettings(), description="decoding threads and logging")

    @classmethod
    def from_names(cls, **values: Any) -> TrainerSettings:
        """Make settings from names without their groups, for example `lr` for `optimizer.lr`."""
        nested: dict[str, Any] = {}
        for name, value in values.items():
            group = next((group for group, model in _GROUPS.items() if name in model.model_fields), None)
            (nested.setdefault(group, {}) if group else nested)[name] = value
        return cls.model_validate(nested)


_GROUPS: dict[str, type[TrainerGroup]] = {
    name: field.annotation
    for name, field in TrainerSettings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, TrainerGroup)
}

NOT_AFFECTING_WEIGHTS = frozenset(
    {"processes", "threads", "device", *(name for name, group in _GROUPS.items() if not group.affects_weights)}
)
"""Names of the trainer settings and groups that do not affect the trained weights, up to rounding."""
