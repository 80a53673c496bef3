"""Domains: their names and numbers, unknown domains, mixed batches, and the aggregate over all domains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

OTHER_DOMAIN = 0
"""The domain number that all domains unknown in training share."""
MIXED = -1
"""Stands for the domain number of a batch with rows of several domains."""
OTHER_NAME, MIXED_NAME = "other", "mixed"
"""The names of `OTHER_DOMAIN` and `MIXED`."""
OVERALL = "overall"
"""Value of the column `domain` in rows that aggregate all domains. No domain may have this name."""
RESERVED_NAMES = frozenset({OTHER_NAME, OVERALL})
"""Names that no domain of a log may have."""


class DomainIndex:
    """The domains that training knows, with the numbers that identify them in encoded rows and in the model.

    Number 0 stands for all unknown domains; the known ones are numbered from 1, in their order.
    """

    def __init__(self, known: Sequence[str]) -> None:
        self.names = (OTHER_NAME, *known)
        # The first number of a name that is repeated.
        self._numbers = {name: number for number, name in reversed(list(enumerate(self.names))) if number}

    def __len__(self) -> int:
        """Return the number of domains, including number 0."""
        return len(self.names)

    def __contains__(self, name: str) -> bool:
        """Return whether training knows a domain."""
        return name in self._numbers

    def get_number(self, name: str) -> int:
        """Return the number of a domain; `OTHER_DOMAIN` if training does not know it."""
        return self._numbers.get(name, OTHER_DOMAIN)

    def get_numbers(self, names: pa.Array) -> pa.Array:
        """Return the number of each name (int32); `OTHER_DOMAIN` for null and for names that training does not know."""
        # Imported here, because settings import this module and commands such as `--help` must start fast.
        import pyarrow as pa
        import pyarrow.compute as pc

        known = pa.array(self.names[1:], pa.string())
        return pc.cast(pc.add(pc.fill_null(pc.index_in(names, value_set=known, skip_nulls=True), -1), 1), pa.int32())

    def get_name(self, number: int) -> str:
        """Return the name of a domain number; `other` for 0 and `mixed` for `MIXED`."""
        return MIXED_NAME if number == MIXED else self.names[number]


def domain_sort_key(domain: str) -> tuple[bool, int, str]:
    """Return the sort key of a domain: numeric names by number, then other names, and `overall` last."""
    return domain == OVERALL, int(domain) if domain.isdigit() else 1 << 60, domain
