"""Stacks of layers with activation and dropout that end in one logit per row.

Tensor names end in their shape: B rows of the batch, F input features, H output features.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from star_ctr.model.layers.linear import PerDomainLinear
from star_ctr.model.layers.segments import Segment


def activate(x: Tensor, name: str) -> Tensor:
    """Apply the activation phi of eq. 6: SiLU if `name` is `silu`, otherwise ReLU."""
    return torch.nn.functional.silu(x) if name == "silu" else torch.relu(x)


class Dropout(nn.Module):
    """Inverted dropout: in training, zero a random share `p` of the entries and scale the others by 1 / (1 - p).

    `torch.nn.Dropout` draws its mask with `bernoulli_`, which on the CPU takes longer than the layer before it. Here,
    one 64-bit draw serves four entries, so `p` is rounded to a multiple of 1 / 65536.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = round(p * 2**16) / 2**16

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with dropout applied; in evaluation, or if `p` is 0, return `x` itself."""
        if not self.training or self.p == 0:
            return x
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.long, device=x.device).random_(-(2**63), None)
        is_kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= self.p * 2**16 - 2**15
        return x * is_kept.to(x.dtype).mul_(1.0 / (1.0 - self.p))


class LayerStack(nn.Module):
    """Hidden layers with activation and dropout, followed by a linear layer that returns one logit.

    Args:
        layers: The hidden layers and the output layer. They are called with the rows and their segments.
        dropout: The share of the hidden layers' outputs that is dropped in training.
        activation: The name of the activation, see `activate`.
    """

    def __init__(self, layers: Iterable[nn.Module], dropout: float = 0.0, activation: str = "relu") -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.dropout = Dropout(dropout)
        self.activation = activation

    def compute_hidden(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """Return the output of the last hidden layer, B x H; the rows must be sorted by domain."""
        for layer in self.layers[:-1]:
            x_BF = self.dropout(activate(layer(x_BF, segments), self.activation))
        return x_BF

    def compute_logit(self, hidden_BH: Tensor, segments: list[Segment]) -> Tensor:
        """Return the logit of each row, B, computed from the last hidden layer."""
        out: Tensor = self.layers[-1](hidden_BH, segments)
        return out.squeeze(1)

    def forward(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """Return the logit of each row, B; the rows must be sorted by domain."""
        return self.compute_logit(self.compute_hidden(x_BF, segments), segments)

    def fold_for_inference(self) -> LayerStack:
        """Return a stack of the layers' inference forms, without dropout."""
        return LayerStack([layer.fold_for_inference() for layer in self.layers], 0.0, self.activation)  # type: ignore[operator]


class PerDomainHead(nn.Module):
    """Base class of networks that end in a per-domain output layer and have no separate form for inference."""

    last: PerDomainLinear

    def compute_hidden(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """Return the output of the last hidden layer, B x H; the rows must be sorted by domain."""
        raise NotImplementedError

    def compute_logit(self, hidden_BH: Tensor, segments: list[Segment]) -> Tensor:
        """Return the logit of each row, B, computed from the last hidden layer."""
        out: Tensor = self.last(hidden_BH, segments)
        return out.squeeze(1)

    def forward(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """Return the logit of each row, B; the rows must be sorted by domain."""
        return self.compute_logit(self.compute_hidden(x_BF, segments), segments)

    def fold_for_inference(self) -> PerDomainHead:
        """Return the network itself: its mixture or gates depend on the row and cannot be computed ahead of time."""
        return self

    def output_bias(self, p: int) -> nn.Parameter:
        """Return the output bias of domain `p`."""
        bias: nn.Parameter = self.last.bias[p]
        return bias
