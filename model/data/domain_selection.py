"""Selection of the domains to train on."""

from __future__ import annotations

from collections.abc import Sequence

from star_ctr.conf.contracts.domains import DomainIndex
from star_ctr.conf.errors import DataError, UserError, suggest_nearest
from star_ctr.conf.settings.trainer import DataSettings
from star_ctr.model.data.batch_order import DataFile


def find_excluded(data: DataSettings, domains: DomainIndex) -> list[int]:
    """Return the numbers of the domains that are not trained on."""
    return [p for p, name in enumerate(domains.names) if not data.is_selected(name)]


def select_files(files: Sequence[DataFile], data: DataSettings, domains: DomainIndex) -> list[DataFile]:
    """Return the files of the domains that are trained on.

    Args:
        files: The files of all training rows.
        data: Settings that select the domains (`domains`, `exclude_domains`).
        domains: The numbers of the domains.

    Raises:
        DataError: The selected domains have no training rows.
        UserError: A domain is not known.
    """
    key = "exclude_domains" if data.domains is None else "domains"
    names = data.exclude_domains if data.domains is None else data.domains
    if unknown := next((name for name in names if name not in domains.names), None):
        hint = suggest_nearest(unknown, domains.names)
        raise UserError(f"trainer.data.{key}: no training rows of the domain `{unknown}`{hint}; correct or remove it")
    excluded = find_excluded(data, domains)
    selected = [file for file in files if file.domain not in excluded]
    if files and not selected:
        raise DataError(f"trainer.data.{key}: no training rows are selected; select at least one domain that has some")
    return selected
