"""Parameters of which each domain has its own."""

from __future__ import annotations

from torch import Tensor, nn


class PerDomain(nn.ParameterList):
    """What each domain has of its own, in the order of the layout's numbers.

    Parameters of a domain are tensors of their own, one a domain, and not rows of a common one: after a step
    on a batch of one domain all others have no gradient, so that the optimizer leaves their weights and its own
    moments of them untouched to the bit (a row of a common tensor would go on moving by Adam's momentum).
    """


def repeat_per_domain(domains: int, value: Tensor) -> PerDomain:
    """A copy of `value` for each domain."""
    return PerDomain(nn.Parameter(value.clone()) for _ in range(domains))


def copy_domain(network: nn.Module, p: int, into: int) -> None:
    """Give a domain what belongs to domain p in `network`: each module that has something of a domain knows how."""
    for module in network.modules():
        if (own := getattr(module, "copy_domain", None)) is not None:
            own(p, into)
