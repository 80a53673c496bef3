"""The inputs of a split other than `features`: an earlier night, and the warm-start run."""

from __future__ import annotations

from typing import Any, NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from star_ctr.conf.contracts.catalog import NIGHT_TABLES, SplitTables
from star_ctr.conf.contracts.dates import list_window_days
from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.contracts.fingerprint import hash_code
from star_ctr.conf.contracts.run_id import hash_features_settings, hash_split_settings
from star_ctr.conf.contracts.stored import parse_stored
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.label_records import find_days_with_other_columns, find_labels_of_other_nights
from star_ctr.jobs.io.split_commits import LINEAGE, find_split, find_split_before
from star_ctr.jobs.io.warehouse import WarehouseTables
from star_ctr.jobs.registry.warm_starts import Start, find_start


class EarlierSplit(NamedTuple):
    """The night whose vocabularies are extended.

    Attributes:
        ds: The night.
        version: The Delta version of its split.
        layout: The layout of its split.
        vocabularies: The rows of its vocabularies.
        settings: The hash of the settings of its split.
        lineage: The hashes that identify its vocabularies and those that they extend, newest first.
    """

    ds: str
    version: int
    layout: Layout
    vocabularies: DataFrame
    settings: str
    lineage: list[str]


class SplitInputs(NamedTuple):
    """The inputs of an encoding. Both are None if the encoding is fitted only on the days of the window.

    Attributes:
        previous: The night whose vocabularies are extended.
        start: The warm-start run, whose numeric encoding is reused.
    """

    previous: EarlierSplit | None
    start: Start | None

    def get_kept_layout(self) -> Layout | None:
        """Return the layout whose scales, bounds and base rates are kept; None if all are fitted again.

        The layout of the warm-start run takes precedence over that of the earlier night, because weights are only valid
        for the encoding that they were trained on.
        """
        if self.start:
            return self.start.layout
        return self.previous and self.previous.layout

    def fingerprint(self, settings: Settings, store: WarehouseTables) -> dict[str, Any]:
        """Return all inputs that determine the rows of a split: hashes, and versions of tables.

        Args:
            settings: The settings of the data set.
            store: The tables.

        Returns:
            The fingerprint, which is stored in the metadata of the split's commit.
        """
        return {
            "settings": hash_split_settings(settings),
            "code": hash_code(["star_ctr.jobs.split"]),
            "features": store.get_version("features"),
            "labels": store.get_version("labels"),
            "grown_from": self.previous and {"ds": self.previous.ds, "version": self.previous.version},
            "numbers": self.start and self.start.hash_numbers(),
        }


def find_inputs(settings: Settings, store: WarehouseTables, ds: str, tables: SplitTables) -> SplitInputs:
    """Find the inputs of the split of a night or of its refit.

    Args:
        settings: The settings of the data set.
        store: The tables.
        ds: The night.
        tables: The tables of the split: those of the night, or those of its refit.

    Returns:
        The earlier split and the warm-start run. A refit has no warm-start run.

    Raises:
        UserError: Training cannot start from the run in `trainer.warm_start`.
    """
    return SplitInputs(_find_before(settings, store, ds, tables), _find_start(settings, ds, tables))


def is_written(settings: Settings, store: WarehouseTables, ds: str, tables: SplitTables) -> bool:
    """Return whether the split of a night, or of its refit, was written with its current inputs."""
    found = find_split(store.warehouse.table(tables.split), ds)
    current = find_inputs(settings, store, ds, tables).fingerprint(settings, store)
    return found is not None and current.items() <= found[1].items()


def is_encoded_for(settings: Settings, ds: str, metadata: dict[str, Any]) -> bool:
    """Return whether a night's split was written with the current settings and encoding of numbers.

    Args:
        settings: The settings of the data set.
        ds: The night.
        metadata: The metadata of the commit that wrote the split.
    """
    start = _find_start(settings, ds, NIGHT_TABLES)
    current = {"settings": hash_split_settings(settings), "numbers": start and start.hash_numbers()}
    return current.items() <= metadata.items()


def has_features(settings: Settings, store: WarehouseTables, night: str) -> bool:
    """Return whether the tables have the features of a night's ingested days for these settings, and its labels."""
    if not (store.exists("features") and store.exists("impressions")):
        return False
    needed = set(list_window_days(settings, night))
    rows = store.read("features").where(F.col("settings") == hash_features_settings(settings))
    days = {r.ds for r in rows.select("ds").distinct().collect()}
    ingested = needed.intersection(store.list_days("impressions"))
    has_labels = not find_labels_of_other_nights(settings, night, ingested)
    return night in days and ingested <= days and has_labels and not find_days_with_other_columns(settings, ingested)


def _find_start(settings: Settings, ds: str, tables: SplitTables) -> Start | None:
    """Find the warm-start run; None for a refit, which is trained from scratch."""
    return find_start(settings, ds) if tables is NIGHT_TABLES else None


def _find_before(settings: Settings, store: WarehouseTables, ds: str, tables: SplitTables) -> EarlierSplit | None:
    """Find the night whose vocabularies are extended; None if there is none. A refit extends those of night `ds`."""
    if settings.split.vocabulary == "fitted":
        return None
    find = find_split_before if tables is NIGHT_TABLES else find_split
    earlier = find(store.warehouse.table("split"), ds)
    if earlier is None:
        return None
    version, metadata = earlier
    vocabularies = store.read("vocabularies", metadata["vocabularies"]).where(F.col("ds") == metadata["ds"])
    layout = parse_stored(Layout, metadata["layout"], store.warehouse.table("split"))
    return EarlierSplit(metadata["ds"], version, layout, vocabularies, metadata["settings"], metadata.get(LINEAGE, []))
