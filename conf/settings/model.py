"""Settings of the model; the defaults are the paper's where it gives a value."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from star_ctr.conf.settings.base import SettingsModel

Width = Annotated[int, Field(ge=1)]


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
