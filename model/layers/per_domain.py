"""Domain-specific parameters."""

from __future__ import annotations

from collections.abc import Collection

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


class ParametersByDomain:
    """The parameters of a model by domain.

    A step visits only the parameters that it can change, so its time does not grow with the number of domains.

    Attributes:
        shared: Names and parameters that do not belong to a single domain.
        own: Names and parameters of each domain.
    """

    def __init__(self, model: nn.Module) -> None:
        domain_of = {
            id(parameter): p
            for module in model.modules()
            if isinstance(module, PerDomain)
            for p, parameter in enumerate(module)
        }
        self.shared: list[tuple[str, nn.Parameter]] = []
        self.own: dict[int, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in model.named_parameters():
            p = domain_of.get(id(parameter))
            (self.shared if p is None else self.own.setdefault(p, [])).append((name, parameter))

    def select(self, domains: Collection[int] | None) -> list[tuple[str, nn.Parameter]]:
        """Return the names and parameters that a step can change.

        Args:
            domains: The domains of the step; None for all domains.

        Returns:
            The shared parameters, followed by those of the domains.
        """
        numbers = sorted(self.own if domains is None else domains)
        return self.shared + [pair for p in numbers for pair in self.own.get(p, ())]


def copy_domain(network: nn.Module, source: int, target: int) -> None:
    """Copy the parameters of domain `source` to domain `target` in all modules that define `copy_domain`."""
    for module in network.modules():
        if (copy_in_module := getattr(module, "copy_domain", None)) is not None:
            copy_in_module(source, target)
