"""Settings of the model and of its trainer; defaults are the paper's where it gives a value."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from star_ctr.conf.settings.base import SettingsModel

Width = Annotated[int, Field(ge=1)]
NOT_AFFECTING_WEIGHTS = frozenset(
    {
        "checkpoint_minutes",
        "keep",
        "tensorboard",
        "restarts",
        "processes",
        "launcher",
        "tables",
        "threads",
        "readers",
        "device",
    }
)
"""Settings of the trainer that say how it works and not what comes out."""


PREVIOUS = "previous"
"""As `trainer.warm_start`: this configuration's newest finished run of an earlier night."""
ACCEPTED = "accepted"
"""The same: its newest run of an earlier night that the gate, or a person, accepted (§4.4)."""


class EmbeddingSettings(SettingsModel):
    """One shared embedding table: ids seen fewer than `min_count` times in training share one row."""

    dim: Width | None = Field(None, description="width of its rows; `model.dim` if not given")
    min_count: int = Field(1, ge=1)


class ModelSettings(SettingsModel):
    """STAR (§3), a model that §4.1 compares it with, or a later one: which parts, how wide, how deep."""

    name: Literal["star", "base", "shared_bottom", "mulann", "mmoe", "cross_stitch", "ple", "pepnet"] = "star"
    norm: Literal["pn", "bn", "ln"] = Field("pn", description="partitioned (§3.3), batch or layer normalization")
    combine: Literal["product", "sum"] = Field("product", description="STAR: how W and W_p make W_p* (eq. 5)")
    domain_spread: float = Field(
        0.0, ge=0, description="STAR: deviation of W_p at the start; 0: every domain starts as the shared model"
    )
    adversarial: float = Field(0.1, ge=0, description="MulANN: weight of the domain discriminator's loss")
    experts: Width | None = Field(
        None, description="MMoE: number of experts, one a domain if not given; PLE: of shared experts, one if not given"
    )
    levels: Width = Field(2, description="PLE: extraction layers, over which the hidden layers are dealt")
    gate_width: Width = Field(32, description="PEPNet: hidden width of its gates")
    aux: bool = Field(True, description="the auxiliary network (§3.5)")
    aux_width: Width = Field(32, description="hidden width of the two-layer auxiliary network")
    domain_dim: Width = Field(8, description="width of the domain's embedding in the auxiliary network")
    pooling: Literal["mean", "din", "dien"] = Field(
        "mean", description="of sequences of events: their mean, or attention to the candidate as in DIN or DIEN"
    )
    attention_width: Width = Field(36, description="DIN: hidden width of the network that weighs an event")
    interest_loss: float = Field(1.0, ge=0, description="DIEN: weight of the interest extractor's auxiliary loss")
    layers: list[Width] = Field(
        default=[512, 256, 128, 64, 32, 16],
        min_length=1,
        description="widths of the hidden layers; the output layer is added: seven layers by default",
    )
    activation: Literal["relu", "silu"] = "relu"
    dim: Width = Field(16, description="width of the embeddings")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the hidden layers' outputs, in training")
    norm_momentum: float = Field(0.1, gt=0, le=1, description="step of the moving moments E_p, Var_p (eq. 4)")
    norm_eps: float = Field(
        1e-5,
        gt=0,
        description="epsilon of eq. 3 and 4; a larger one keeps features that hardly vary yet from being blown up",
    )
    embeddings: dict[str, EmbeddingSettings] = Field(default_factory=dict)


class TrainerSettings(SettingsModel):
    """How the model is trained: §4.1 gives Adam, 0.001 and batches of 2000."""

    batch_size: int = Field(2000, ge=2)
    lr: float = Field(0.001, gt=0)
    embedding_lr: float | None = Field(None, gt=0, description="of the embeddings; `lr` if not given")
    domain_lr: float | None = Field(
        None, gt=0, description="of what a domain adds to shared weights (W_p, b_p, gamma_p, beta_p); `lr` if not given"
    )
    lr_final: float = Field(1.0, gt=0, le=1, description="the rates fall linearly to this share of themselves")
    weight_decay: float = Field(0.0, ge=0, description="decoupled, of the dense weights")
    domain_decay: float | None = Field(
        None,
        ge=0,
        description="decoupled, of W_p, b_p, gamma_p, beta_p towards the shared model; `weight_decay` if not given",
    )
    epochs: int = Field(1, ge=1)
    seed: int = Field(0, ge=0)
    batches: Literal["single_domain", "mixed"] = Field(
        "single_domain", description="of one domain each (§3.2), or of all samples mixed (§4.1, Base)"
    )
    warm_start: str | None = Field(
        None,
        description="run to start from (§4.4): its run_id, the newest earlier night of this configuration "
        "(`previous`), or the newest one that the gate accepted (`accepted`); the split encodes numbers like that run",
    )
    optimizer: Literal["kept", "reset"] = Field(
        "kept",
        description="at a warm start: Adam's moments and the average go on; or they begin anew, from the average",
    )
    averaging: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay per step of an exponential moving average (EMA) of the weights, which is evaluated and "
        "exported instead of the weights; 0: no EMA",
    )
    moments_rows: int = Field(
        50_000, ge=0, description="rows of each domain over which E_p, Var_p are made true at the end; 0: none"
    )
    moments_prior: float = Field(
        100.0, ge=0, description="rows of all domains together that count with a domain's own in them"
    )
    half_life: float = Field(1.0, gt=0, description="days by which a row's weight in moments and levels halves")
    levels: bool = Field(
        True, description="set each domain's output bias so that predicted clicks are the actual ones of those rows"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the layers' products in training (autocast); weights, moments and loss stay float32"
    )
    window_rows: int = Field(65_536, ge=1, description="rows of the shuffled sliding window (§4.4)")
    window_bytes: int = Field(1 << 30, ge=1, description="memory of its rows: fewer of them where they are wide")
    processes: int = Field(1, ge=1, description="processes that train together")
    parallel: Literal["rows", "batches"] = Field(
        "rows",
        description="what they share out: the rows of each batch, so that they train the model that one would; or the "
        "batches, each process one of its own in a step, which is then of as many batches' rows",
    )
    launcher: Literal["torchrun", "spark"] = Field(
        "torchrun",
        description="what starts the processes: torchrun on this machine, or Spark as tasks on its executors",
    )
    tables: Literal["replicated", "sharded"] = Field(
        "replicated",
        description="embeddings: whole for each process (once in memory, where it can be had in common), or their rows "
        "shared out over the processes",
    )
    threads: int = Field(
        0,
        ge=0,
        description="torch threads per process; 0: chosen from the batch size and the layers, at most one per core. "
        "Weights are bit-identical only for the same number, so resume and replay reuse the number in the record",
    )
    readers: int = Field(
        0, ge=0, description="threads of a stream that decode files ahead of the training; 0: one for every four cores"
    )
    restarts: int = Field(2, ge=0, description="times that a group of processes is started again when one is lost")
    checkpoint_minutes: float = Field(5.0, gt=0, description="time between checkpoints; one more on SIGTERM")
    keep: int = Field(2, ge=1, description="checkpoints kept, the newest ones")
    tensorboard: bool = Field(True, description="write scalars for TensorBoard into the run's folder as it trains")
    device: Literal["auto", "cpu", "cuda"] = "auto"
