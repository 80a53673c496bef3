"""Stacks of layers with activation and dropout that end in one logit per row.

Tensor names end in their shape: B rows of a batch, F features in, H features out.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from star_ctr.model.layers.linear import PerDomainLinear
from star_ctr.model.layers.segments import Segment


def activate(x: Tensor, name: str) -> Tensor:
    """The activation phi of eq. 6, by its name."""
    return torch.nn.functional.silu(x) if name == "silu" else torch.relu(x)


class Dropout(nn.Module):
    """Inverted dropout: in training a share `p` of the entries, drawn anew, is 0 and the others grow by 1 / (1 - p).

    torch's own draws its mask from bernoulli_, which on the CPU takes longer than the layer before it. Here a draw
    of 64 bits serves four entries, so that `p` is rounded to 1 / 65536.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = round(p * 2**16) / 2**16

    def forward(self, x: Tensor) -> Tensor:
        """`x` with a share of its entries dropped; `x` itself in evaluation."""
        if not self.training or self.p == 0:
            return x
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.long, device=x.device).random_(-(2**63), None)
        kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= self.p * 2**16 - 2**15
        return x * kept.to(x.dtype).mul_(1.0 / (1.0 - self.p))


class LayerStack(nn.Module):
    """Hidden layers with an activation and dropout, then a layer to one plain logit."""

    def __init__(self, layers: Iterable[nn.Module], dropout: float = 0.0, activation: str = "relu") -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.dropout = Dropout(dropout)
        self.activation = activation

    def hidden(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """The output of the last hidden layer, B x H."""
        for layer in self.layers[:-1]:
            x_BF = self.dropout(activate(layer(x_BF, segments), self.activation))
        return x_BF

    def forward(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """The logit of each row, B."""
        out: Tensor = self.layers[-1](self.hidden(x_BF, segments), segments)
        return out.squeeze(1)

    def fold_for_inference(self) -> LayerStack:
        """The same with each layer as it is served."""
        return LayerStack([layer.fold_for_inference() for layer in self.layers], 0.0, self.activation)  # type: ignore[operator]


class PerDomainHead(nn.Module):
    """A network that ends in an output layer of each domain's own, and is served as it is."""

    last: PerDomainLinear

    def logit(self, hidden_BH: Tensor, segments: list[Segment]) -> Tensor:
        """The logit of each row, B, from the last hidden layer."""
        out: Tensor = self.last(hidden_BH, segments)
        return out.squeeze(1)

    def fold_for_inference(self) -> PerDomainHead:
        """Itself: what it mixes, and how, is known with the row alone."""
        return self

    def level(self, p: int) -> nn.Parameter:
        """The last bias of domain p."""
        bias: nn.Parameter = self.last.bias[p]
        return bias
