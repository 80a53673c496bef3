"""What a night's split depends on besides its features: an earlier night, and the run that training starts from."""

from __future__ import annotations

from typing import Any, NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.compatibility import encoded_numbers
from star_ctr.conf.hashing import code_hash, digest
from star_ctr.conf.identity import split_hash
from star_ctr.conf.layout import Layout
from star_ctr.conf.settings import Settings
from star_ctr.conf.tables import OF_NIGHT, SplitTables
from star_ctr.jobs.commits import find_split, split_before
from star_ctr.jobs.starts import Start, find_start
from star_ctr.jobs.store import Store


class Before(NamedTuple):
    """The night whose vocabularies a night's grow from, and the version of the split that holds it."""

    ds: str
    version: int
    layout: Layout
    vocabularies: DataFrame


class SplitInputs(NamedTuple):
    """What a night's encoding goes on from; both are None where it is fitted on the window's days alone."""

    before: Before | None
    start: Start | None

    def encoding(self) -> Layout | None:
        """The layout whose scales, bounds and base rates are kept.

        That of the run to start from, if there is one, whatever night the vocabularies grow from: weights belong to
        the encoding of the rows that they were trained on.
        """
        if self.start:
            return self.start.layout
        return self.before and self.before.layout

    def fingerprint(self, settings: Settings, store: Store) -> dict[str, Any]:
        """Everything that decides the rows of a split."""
        return {
            "settings": split_hash(settings),
            "code": code_hash(["star_ctr.jobs.split"]),
            "features": store.version("features"),
            "grown_from": self.before and {"ds": self.before.ds, "version": self.before.version},
            "numbers": _numbers(self.start),
        }


def find_inputs(settings: Settings, store: Store, ds: str, tables: SplitTables) -> SplitInputs:
    """Look up what the split of night `ds` goes on from; `UserError` for a run that cannot be started from."""
    return SplitInputs(_before(settings, store, ds, tables), _start(settings, ds, tables))


def is_written(settings: Settings, store: Store, ds: str, tables: SplitTables) -> bool:
    """Whether the split of a night was written from the inputs that it would be written from now."""
    found = find_split(store.warehouse.table(tables.split), ds)
    now = find_inputs(settings, store, ds, tables).fingerprint(settings, store)
    return found is not None and now.items() <= found[1].items()


def is_encoded_for(settings: Settings, ds: str, metadata: dict[str, Any]) -> bool:
    """Whether a commit of a night's split has the settings, and encodes numbers, as it would now."""
    now = {"settings": split_hash(settings), "numbers": _numbers(_start(settings, ds, OF_NIGHT))}
    return now.items() <= metadata.items()


def _start(settings: Settings, ds: str, tables: SplitTables) -> Start | None:
    """The run that the night's training starts from; a refit trains from scratch."""
    return find_start(settings, ds) if tables is OF_NIGHT else None


def _numbers(start: Start | None) -> str | None:
    """Hash of how the run to start from encodes numbers.

    The run's name is not part of it: if another run that encodes numbers alike becomes the one to start from, the
    split stays valid.
    """
    return start and digest(encoded_numbers(start.layout), 32)


def _before(settings: Settings, store: Store, ds: str, tables: SplitTables) -> Before | None:
    """The newest night before, where the settings say that a night grows from it; a refit grows from its own night."""
    if settings.split.vocabulary == "fitted":
        return None
    find = split_before if tables is OF_NIGHT else find_split
    earlier = find(store.warehouse.table("split"), ds)
    if earlier is None:
        return None
    version, metadata = earlier
    vocabularies = store.read("vocabularies", metadata["vocabularies"]).where(F.col("ds") == metadata["ds"])
    return Before(metadata["ds"], version, Layout.model_validate(metadata["layout"]), vocabularies)
