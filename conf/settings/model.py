"""Settings of the model. The defaults are those of the paper if it gives a value."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from star_ctr.conf.settings.base import SettingsModel

Width = Annotated[int, Field(ge=1)]
"""A positive number of units, layers or experts."""


class EmbeddingSettings(SettingsModel):
    """One embedding table, which all domains share.

    With `encode: vocabulary`, every known value has an embedding, and all other values share one for unknown values.
    With `encode: hash` (the hashing trick), a hash of the value selects one of `rows` embeddings. Values that collide
    share an embedding. There is no vocabulary, so the size of the table does not depend on the values.
    """

    dim: Width | None = Field(None, description="width of the embeddings; default: `model.dim`")
    min_count: int = Field(
        1,
        ge=1,
        description="minimum number of occurrences in the training rows for an embedding; rarer values share the "
        "embedding of unknown values; default: every value has an embedding",
    )
    encode: Literal["vocabulary", "hash"] = Field(
        "vocabulary",
        description="how a value selects its embedding: by the `vocabulary` of the training rows, or by its `hash`",
    )
    rows: int | None = Field(
        None, ge=1, le=1_000_000_000, description="number of embeddings; required with `encode: hash`, and only then"
    )
    expire_days: int | None = Field(
        None,
        ge=1,
        le=3650,
        description="a value that has not occurred in the training rows of this number of days before the night is "
        "dropped, and its id is reused for a new value, with a new embedding; requires `split.vocabulary: grown`; "
        "default: values are never dropped",
    )

    @model_validator(mode="after")
    def _check_encoding(self) -> EmbeddingSettings:
        if self.encode == "hash" and self.rows is None:
            raise ValueError("`encode: hash` needs `rows`, the number of embeddings; set it")
        if self.encode == "hash" and self.min_count > 1:
            raise ValueError("`min_count` has no effect with `encode: hash`; remove it")
        if self.encode == "hash" and self.expire_days is not None:
            raise ValueError("`expire_days` has no effect with `encode: hash`; remove it")
        if self.encode == "vocabulary" and self.rows is not None:
            raise ValueError("`rows` needs `encode: hash`; set it, or remove `rows`")
        return self


class ModelSettings(SettingsModel):
    """The network: STAR (§3), a model that the paper compares it with (§4.1), or a later one (PLE, PEPNet).

    A description that begins with the name of a model, such as "MMoE:", is a setting of that model. Other models ignore
    it.
    """

    name: Literal["star", "base", "shared_bottom", "mulann", "mmoe", "cross_stitch", "ple", "pepnet"] = Field(
        "star", description="network: STAR (§3.4), a compared model (§4.1), PLE or PEPNet; see docs/compare.md"
    )
    norm: Literal["pn", "bn", "ln"] = Field(
        "pn",
        description="normalization of the pooled features: partitioned (§3.3), batch, or layer normalization; pn needs "
        "single-domain batches",
    )
    combine: Literal["product", "sum"] = Field(
        "product", description="STAR: how W and W_p are combined into W_p* (eq. 5), elementwise; the paper's: product"
    )
    domain_spread: float = Field(
        0.0,
        ge=0,
        description="STAR: standard deviation of the initial W_p around its neutral value; 0: every domain starts as "
        "the shared model",
    )
    adversarial: float = Field(0.1, ge=0, description="MulANN: weight of the domain discriminator's loss")
    experts: Width | None = Field(
        None, description="MMoE: number of experts, default: one per domain; PLE: number of shared experts, default: 1"
    )
    levels: Width = Field(2, description="PLE: number of extraction layers that the hidden layers are divided among")
    gate_width: Width = Field(32, description="PEPNet: hidden width of its gates")
    aux: bool = Field(True, description="whether the model has the auxiliary network (§3.5)")
    aux_width: Width = Field(32, description="hidden width of the two-layer auxiliary network (§3.5)")
    domain_dim: Width = Field(8, description="width of the domain embedding in the auxiliary network and in PEPNet")
    pooling: Literal["mean", "din", "dien"] = Field(
        "mean",
        description="pooling of sequences of events: their mean, or attention to the candidate as in DIN or DIEN; "
        "lists of values are always averaged",
    )
    attention_width: Width = Field(36, description="DIN: hidden width of the attention network")
    interest_loss: float = Field(1.0, ge=0, description="DIEN: weight of the interest extractor's auxiliary loss")
    layers: list[Width] = Field(
        default=[512, 256, 128, 64, 32, 16],
        min_length=1,
        description="widths of the hidden layers; an output layer of width 1 is added; default: seven layers in total",
    )
    activation: Literal["relu", "silu"] = Field(
        "relu", description="activation of the hidden layers (phi in eq. 6) and of DIN's attention network"
    )
    dim: Width = Field(16, description="width of the embeddings; `embeddings` can set another width for a table")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="probability of dropping an output of a hidden layer in training; 0: no dropout"
    )
    norm_momentum: float = Field(
        0.1,
        gt=0,
        le=1,
        description="weight of a batch in the running mean E_p and variance Var_p (eq. 4); the first batch has "
        "weight 1",
    )
    norm_eps: float = Field(
        1e-5,
        gt=0,
        description="epsilon of eq. 3 and 4, added to the variance; a larger value limits the scaling of features that "
        "hardly vary",
    )
    embeddings: dict[str, EmbeddingSettings] = Field(
        default_factory=dict,
        description="settings of embedding tables by name; default: every table has the defaults of all keys",
    )
