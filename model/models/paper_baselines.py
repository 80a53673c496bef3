"""The networks that §4.1 compares STAR with: Base, Shared Bottom, MulANN, MMoE and Cross-Stitch.

All take the normalised features z' and give a logit a row; embeddings, pooling, normalization and the auxiliary network
around them are those of STAR. Tensor names end in their shape: B rows, F features in, H out, D domains, E experts.

Whatever of them belongs to a domain starts at random or untrained, so that domain 0, which stands for those that
training did not know, has nothing to go by: it `adopts` what a trained domain has.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.layers.normalization import PerDomain, Segment, repeat_per_domain, sum_over_ranks
from star_ctr.model.layers.star import DomainLinear, Dropout, LayerStack, activate


def init_kaiming(*shape: int) -> Tensor:
    """Weights (… x F x H) by Kaiming's rule for F inputs."""
    weight = torch.empty(*shape)
    bound = (6.0 / shape[-2]) ** 0.5
    return weight.uniform_(-bound, bound)


class SharedLinear(nn.Module):
    """A layer that all domains share."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(init_kaiming(features, out)), nn.Parameter(torch.zeros(out))

    def forward(self, x_BF: Tensor, segments: Iterable[Segment]) -> Tensor:
        """The layer's output before activation, B x H."""
        return torch.addmm(self.bias, x_BF, self.weight)

    def fold_for_inference(self) -> SharedLinear:
        """Itself."""
        return self


class PerDomainLinear(nn.Module):
    """A layer of which each domain has its own; only the segment's own domain is computed."""

    def __init__(self, features: int, out: int, domains: int) -> None:
        super().__init__()
        self.weight = PerDomain(nn.Parameter(init_kaiming(features, out)) for _ in range(domains))
        self.bias = repeat_per_domain(domains, torch.zeros(out))

    def forward(self, x_BF: Tensor, segments: Iterable[Segment]) -> Tensor:
        """The layer's output before activation, B x H."""
        return torch.cat([torch.addmm(self.bias[p], x_BF[start:stop], self.weight[p]) for p, start, stop in segments])

    @torch.no_grad()
    def copy_domain(self, p: int, into: int) -> None:
        """The layer of the domain `into` becomes that of domain p."""
        self.weight[into].copy_(self.weight[p])
        self.bias[into].copy_(self.bias[p])

    def fold_for_inference(self) -> DomainLinear:
        """The weights of all domains in one tensor."""
        return DomainLinear(torch.stack(list(self.weight)).detach(), torch.stack(list(self.bias)).detach())


class BaseFCN(LayerStack):
    """Base: one network for all domains, which it cannot tell apart but by the auxiliary network."""

    def __init__(self, settings: ModelSettings, features: int) -> None:
        layers = [SharedLinear(a, b) for a, b in pairwise([features, *settings.layers, 1])]
        super().__init__(layers, settings.dropout, settings.activation)

    def level(self, p: int) -> nn.Parameter:
        """The last bias, which all domains share."""
        bias: nn.Parameter = self.layers[-1].bias  # type: ignore[assignment]
        return bias


class MulANN(BaseFCN):
    """MulANN: Base, and a discriminator that must not be able to tell the domain by the last hidden layer.

    The discriminator learns to name the domain; the network learns to hide it, by the same cross entropy with its
    gradient reversed. Both join the loss with the weight `model.adversarial`. Batches are mixed.

    A row's domain is hidden once the discriminator gives it no more than its share of the rows seen so far, and then
    the network is left alone. The authors' plain reversal has no such end: the network can raise the discriminator's
    cross entropy for ever by growing its hidden layer, and does (docs/compare.md).
    """

    rows_seen: Tensor

    def __init__(self, settings: ModelSettings, features: int, domains: int) -> None:
        super().__init__(settings, features)
        self.adversarial = settings.adversarial
        self.discriminator = SharedLinear(settings.layers[-1], domains)
        self.register_buffer("rows_seen", torch.zeros(domains))
        self._hidden_BH: Tensor | None = None

    def hidden(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """The output of the last hidden layer, B x H, kept for the discriminator."""
        hidden_BH = super().hidden(x_BF, segments)
        self._hidden_BH = hidden_BH if self.training else None
        return hidden_BH

    def auxiliary_loss(self, segments: list[Segment]) -> Tensor:
        """What the discriminator has to learn, less what the network has to hide, of the last forward's rows, summed.

        As a number, the excess of the discriminator's cross entropy over a guess by the shares, weighted.
        """
        hidden_BH = self._hidden_BH
        assert hidden_BH is not None, "only after a forward in training"
        sizes = torch.tensor([stop - start for _, start, stop in segments])
        domain_S = torch.tensor([p for p, _, _ in segments])
        domain_B = domain_S.repeat_interleave(sizes).to(hidden_BH.device)
        rows_D = torch.zeros_like(self.rows_seen).index_add_(0, domain_S.to(hidden_BH.device), sizes.to(self.rows_seen))
        self.rows_seen += sum_over_ranks(rows_D)
        guess_B = torch.log(self.rows_seen.sum() / self.rows_seen)[domain_B]
        entropy = torch.nn.functional.cross_entropy
        found_B = entropy(self.discriminator(hidden_BH.detach(), segments), domain_B, reduction="none")
        weight_HD, bias_D = self.discriminator.weight.detach(), self.discriminator.bias.detach()
        hidden_B = entropy(torch.addmm(bias_D, hidden_BH, weight_HD), domain_B, reduction="none")
        return self.adversarial * (found_B - torch.minimum(hidden_B, guess_B)).sum()


class SharedBottom(LayerStack):
    """Shared Bottom: the embeddings are shared, and each domain has a network of its own."""

    def __init__(self, settings: ModelSettings, features: int, domains: int) -> None:
        layers = [PerDomainLinear(a, b, domains) for a, b in pairwise([features, *settings.layers, 1])]
        super().__init__(layers, settings.dropout, settings.activation)

    def level(self, p: int) -> nn.Parameter:
        """The last bias of domain p."""
        bias: nn.Parameter = self.layers[-1].bias[p]  # type: ignore[assignment,index]
        return bias


class ExpertLinear(nn.Module):
    """A layer of each of E networks that run side by side: B x F (the same rows for all) or E x B x F to E x B x H."""

    def __init__(self, networks: int, features: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(init_kaiming(networks, features, out))
        self.bias = nn.Parameter(torch.zeros(networks, 1, out))

    def forward(self, x_EBF: Tensor) -> Tensor:
        """The layer's output before activation."""
        return torch.matmul(x_EBF, self.weight) + self.bias

    @torch.no_grad()
    def copy(self, source: int, target: int) -> None:
        """Give one of the networks the weights of another."""
        self.weight[target], self.bias[target] = self.weight[source], self.bias[source]


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


class ParallelNetworks(PerDomainHead):
    """Networks side by side, of which each domain mixes its own last hidden layer; its own output layer follows.

    `networks` hidden stacks are computed for every row, in prediction too; `mixed` says how a domain mixes them.
    """

    def __init__(self, settings: ModelSettings, features: int, domains: int, networks: int) -> None:
        super().__init__()
        sizes = [features, *settings.layers]
        self.hidden = nn.ModuleList(ExpertLinear(networks, a, b) for a, b in pairwise(sizes))
        self.last = PerDomainLinear(sizes[-1], 1, domains)
        self.dropout = Dropout(settings.dropout)
        self.activation = settings.activation

    def mixed(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """What each row's domain makes of the networks, B x H."""
        raise NotImplementedError

    def forward(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """The logit of each row, B."""
        return self.logit(self.mixed(x_BF, segments), segments)


class MMoE(ParallelNetworks):
    """Multi-gate mixture of experts: each domain mixes the experts' outputs by a gate of its own over z'.

    Expert e ends in h_e; domain p's logit is its own linear layer over sum_e softmax(z' G_p)_e h_e. There are as many
    experts as domains unless `model.experts` says otherwise, and every row pays for all of them.
    """

    def __init__(self, settings: ModelSettings, features: int, domains: int) -> None:
        experts = settings.experts or domains - 1
        super().__init__(settings, features, domains, experts)
        self.gates = PerDomainLinear(features, experts, domains)

    def mixed(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """The experts' last hidden layers, by the gate of the row's domain, B x H."""
        h = x_BF
        for layer in self.hidden:
            h = self.dropout(activate(layer(h), self.activation))
        gate_BE = torch.softmax(self.gates(x_BF, segments), dim=1)
        return torch.einsum("be,ebh->bh", gate_BE, h)


class CrossStitch(ParallelNetworks):
    """Cross-Stitch: a network a domain, and after each hidden layer a unit that mixes all of their outputs linearly.

    After layer l domain p goes on with sum_k A_l[p, k] h_k. A starts at 0.9 for its own and shares the rest, as the
    units' authors start it; every row pays for all domains' networks.
    """

    def __init__(self, settings: ModelSettings, features: int, domains: int) -> None:
        super().__init__(settings, features, domains, domains)
        unit_DD = torch.full((domains, domains), 0.1 / max(domains - 1, 1)).fill_diagonal_(0.9 if domains > 1 else 1.0)
        self.units = nn.ParameterList(nn.Parameter(unit_DD.clone()) for _ in settings.layers)

    def mixed(self, x_BF: Tensor, segments: list[Segment]) -> Tensor:
        """The last hidden layer of the row's domain, stitched with the others all the way, B x H."""
        h = x_BF
        for layer, unit_DD in zip(self.hidden, self.units, strict=True):
            h_DBH = self.dropout(activate(layer(h), self.activation))
            h = torch.einsum("pk,kbh->pbh", unit_DD, h_DBH)
        return torch.cat([h[p, start:stop] for p, start, stop in segments])

    @torch.no_grad()
    def copy_domain(self, p: int, into: int) -> None:
        """The network of the domain `into` and its row of each unit become those of domain p."""
        for layer in self.hidden:
            layer.copy(p, into)  # type: ignore[operator]
        for unit_DD in self.units:
            unit_DD[into] = unit_DD[p]


def copy_domain(network: nn.Module, p: int, into: int) -> None:
    """Give a domain what belongs to domain p in `network`: each module that has something of a domain knows how."""
    for module in network.modules():
        if (own := getattr(module, "copy_domain", None)) is not None:
            own(p, into)
