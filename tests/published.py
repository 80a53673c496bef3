"""Published attempts for tests, written without training: folders with a record and a few files."""

from __future__ import annotations

import json
from pathlib import Path

from star_ctr.conf.contracts.catalog import LAYOUT_FILE, RECORD_FILE, WEIGHTS_FILE, Warehouse
from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.files import hash_file
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.registry.attempts import Attempt, get_attempt_folder, get_published_attempt
from tests.model.synthetic import LAYOUT


def publish(
    settings: Settings,
    run_id: str,
    ds: str,
    number: int = 1,
    layout: Layout = LAYOUT,
    weights: bytes = b"weights",
    **record: object,
) -> Attempt:
    """Publish an attempt of a run of night `ds`; replaces an existing one."""
    folder = get_attempt_folder(Warehouse(settings.paths), run_id, number)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LAYOUT_FILE).write_text(layout.model_copy(update={"ds": ds}).model_dump_json())
    (folder / WEIGHTS_FILE).write_bytes(weights)
    files = {name: hash_file(folder / name) for name in (LAYOUT_FILE, WEIGHTS_FILE)}
    (folder / RECORD_FILE).write_text(json.dumps({"ds": ds, "attempt": number, "files": files, **record}))
    return Attempt(run_id, number, folder)


def newest_folder(settings: Settings, run_id: str) -> Path:
    """Return the folder of the newest published attempt of a run."""
    return get_published_attempt(Warehouse(settings.paths), run_id).folder
