"""Domain-specific parameters."""

from __future__ import annotations

from torch import Tensor, nn


class PerDomain(nn.ParameterList):
    """A list with one parameter per domain, in the order of the layout's domain numbers.

    Each domain has a separate tensor instead of a row of a common one. After a step on a batch of one domain, the
    parameters of all other domains have no gradient, so the optimizer leaves them and their Adam moments unchanged to
    the bit. A row of a common tensor would continue to move with Adam's momentum.
    """


def repeat_per_domain(domains: int, value: Tensor) -> PerDomain:
    """Return a parameter list with a copy of `value` for each domain."""
    return PerDomain(nn.Parameter(value.clone()) for _ in range(domains))


def copy_domain(network: nn.Module, source: int, target: int) -> None:
    """Copy the parameters of domain `source` to domain `target` in all modules that define `copy_domain`."""
    for module in network.modules():
        if (copy_in_module := getattr(module, "copy_domain", None)) is not None:
            copy_in_module(source, target)
