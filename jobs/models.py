"""Finished runs, as what they left in their folders lets others use them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from star_ctr.conf.errors import UserError, nearest
from star_ctr.conf.layout import Layout
from star_ctr.conf.settings import Settings
from star_ctr.conf.tables import Warehouse
from star_ctr.jobs.train import read_record
from star_ctr.model.export import LAYOUT


class Model(NamedTuple):
    """A finished run: its folder, the layout of its rows, and the settings that it was made with."""

    run_id: str
    folder: Path
    layout: Layout
    settings: Settings

    @property
    def vocabularies(self) -> list[str]:
        """The files of its vocabularies, which training put beside it."""
        return [str(file) for file in sorted((self.folder / "vocabularies").glob("*.parquet"))]


def find_model(settings: Settings, run_id: str) -> Model:
    """The finished run of that name; `UserError` that lists the newest ones where there is none."""
    warehouse = Warehouse(settings.paths)
    folder, there = Path(warehouse.model(run_id)), warehouse.finished()[::-1]
    if run_id not in there:
        newest = f"the newest: {', '.join(there[:5])}" if there else "none is there yet; run `star-ctr train` first"
        raise UserError(f"--run-id {run_id}: no finished run in {folder.parent}{nearest(run_id, there)} ({newest})")
    layout = Layout.model_validate_json((folder / LAYOUT).read_text(encoding="utf-8"))
    own = Settings.model_validate(read_record(folder)["settings"])
    own = own.model_copy(update={"paths": settings.paths, "spark": settings.spark})
    return Model(run_id, folder, layout, own)
