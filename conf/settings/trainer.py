"""Settings of the trainer, in groups. Each group declares whether it affects the trained weights."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from star_ctr.conf.settings.base import SettingsModel

PREVIOUS = "previous"
"""Value of `trainer.warm_start`: the newest finished run of an earlier night with this configuration."""
ACCEPTED = "accepted"
"""Value of `trainer.warm_start`: the newest run of an earlier night that the gate or a person accepted (§4.4)."""


class TrainerGroup(SettingsModel):
    """Base of the groups of trainer settings."""

    affects_weights: ClassVar[bool]
    """Whether the settings of the group are part of the identity of a run."""


class OptimizerSettings(TrainerGroup):
    """Adam (§4.1), learning rates, weight decay and EMA."""

    affects_weights = True

    lr: float = Field(0.001, gt=0, description="learning rate of the shared dense weights")
    embedding_lr: float | None = Field(None, gt=0, description="learning rate of the embeddings; default: `lr`")
    domain_lr: float | None = Field(
        None,
        gt=0,
        description="learning rate of the domain-specific weights (W_p, b_p, gamma_p, beta_p); default: `lr`",
    )
    lr_final: float = Field(
        1.0, gt=0, le=1, description="final learning rates as a share of the initial ones; they decay linearly"
    )
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay of the dense weights")
    domain_decay: float | None = Field(
        None,
        ge=0,
        description="decoupled decay of the domain-specific weights toward the shared model; default: `weight_decay`",
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
        description="precision of matrix products in training (autocast); weights, optimizer state and loss are float32",
    )
    warm_start_state: Literal["keep", "reset"] = Field(
        "keep",
        description="optimizer state and EMA at a warm start: keep them, or reset them and start from the EMA weights",
    )


class DataSettings(TrainerGroup):
    """Which rows make a batch, and how they are shuffled."""

    affects_weights = True

    batches: Literal["single_domain", "mixed"] = Field(
        "single_domain", description="rows of one domain per batch (§3.2), or of all domains mixed (§4.1, Base)"
    )
    window_rows: int = Field(65_536, ge=1, description="rows of the shuffled sliding window (§4.4)")
    window_bytes: int = Field(1 << 30, ge=1, description="maximum memory of the sliding window in bytes")


class CalibrationSettings(TrainerGroup):
    """What is recomputed after training with frozen weights: normalization statistics and output biases."""

    affects_weights = True

    norm_statistics_rows: int = Field(
        50_000, ge=0, description="rows per domain from which E_p and Var_p (eq. 4) are recomputed; 0: keep them"
    )
    norm_statistics_prior: float = Field(
        100.0, ge=0, description="weight, in rows, of the statistics of all domains in those of a domain"
    )
    half_life: float = Field(1.0, gt=0, description="half-life of a row's weight, in days before the newest day")
    output_biases: bool = Field(
        True, description="set each domain's output bias so that predicted clicks equal actual clicks on these rows"
    )


class DistributedSettings(TrainerGroup):
    """How the processes of a training are started and what each holds."""

    affects_weights = False

    launcher: Literal["torchrun", "spark"] = Field(
        "torchrun", description="start processes with torchrun on this machine, or as Spark tasks on its executors"
    )
    tables: Literal["replicated", "sharded"] = Field(
        "replicated",
        description="embedding tables: a copy per machine or process, or rows sharded over the processes",
    )
    restarts: int = Field(2, ge=0, description="restarts of the process group after a process was lost")


class CheckpointSettings(TrainerGroup):
    """When checkpoints are written and how many are kept."""

    affects_weights = False

    minutes: float = Field(5.0, gt=0, description="minutes between checkpoints; one more is written on SIGTERM")
    keep: int = Field(2, ge=1, description="number of checkpoints to keep")
    resume: Literal["auto", "require"] = Field(
        "auto",
        description="resume from a checkpoint of the same training if there is one; require: fail if there is none",
    )


class RuntimeSettings(TrainerGroup):
    """Decoding threads and logging of a training process."""

    affects_weights = False

    readers: int = Field(0, ge=0, description="threads that decode files; 0: one per four cores")
    tensorboard: bool = Field(True, description="write scalars for TensorBoard to the folder of the run")


class TrainerSettings(SettingsModel):
    """How the model is trained; §4.1 gives Adam, a learning rate of 0.001 and batches of 2000."""

    batch_size: int = Field(2000, ge=2, description="rows per batch")
    epochs: int = Field(1, ge=1, description="passes over the training rows")
    seed: int = Field(0, ge=0, description="seed of initialization, shuffling and dropout")
    warm_start: str | None = Field(
        None,
        description="run to start from (§4.4): its run_id, the newest earlier night of this configuration "
        "(`previous`), or the newest one that the gate accepted (`accepted`); the split encodes numbers like that run",
    )
    parallel: Literal["rows", "batches"] = Field(
        "rows",
        description="what several processes share: the rows of each batch, which gives the model of one process; or "
        "the batches, one per process and step, which makes steps larger",
    )
    processes: int = Field(1, ge=1, description="number of training processes")
    threads: int = Field(
        0,
        ge=0,
        description="torch threads per process; 0: chosen from the batch size and the layers, at most one per core. "
        "Weights are bit-identical only for the same number, so resume and replay reuse the number in the record",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="device to train on; auto: a GPU if there is one"
    )

    optimizer: OptimizerSettings = OptimizerSettings()
    data: DataSettings = DataSettings()
    calibration: CalibrationSettings = CalibrationSettings()
    distributed: DistributedSettings = DistributedSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    runtime: RuntimeSettings = RuntimeSettings()


def _find_settings_without_effect() -> frozenset[str]:
    groups = {
        name: field.annotation
        for name, field in TrainerSettings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, TrainerGroup)
    }
    return frozenset(
        {"processes", "threads", "device", *(name for name, group in groups.items() if not group.affects_weights)}
    )


NOT_AFFECTING_WEIGHTS = _find_settings_without_effect()
"""Names of the trainer settings and groups that do not affect the trained weights, up to rounding."""
