"""Models of published attempts, with the layout, vocabularies and settings that scoring needs."""

from __future__ import annotations

from typing import NamedTuple

from star_ctr.conf.contracts.catalog import LAYOUT_FILE, RECORD_FILE, Warehouse
from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.contracts.stored import parse_stored
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.registry.attempts import Attempt, check_files, get_published_attempt


class ScoringModel(NamedTuple):
    """A published attempt, its layout, and the settings that it was trained with."""

    attempt: Attempt
    layout: Layout
    settings: Settings

    @property
    def vocabularies(self) -> list[str]:
        """Paths of the vocabulary files, sorted."""
        return [str(file) for file in sorted((self.attempt.folder / "vocabularies").glob("*.parquet"))]


def find_scoring_model(settings: Settings, run_id: str, number: int | None = None) -> ScoringModel:
    """Find a published attempt for scoring, and verify its files. Its weights are loaded by `Predictor`.

    Args:
        settings: The current settings. The model uses their `paths` and `spark`, and its own settings otherwise.
        run_id: The run.
        number: The number of the attempt; the newest published one by default.

    Returns:
        The model, with the settings that it was trained with.

    Raises:
        UserError: The run or the attempt does not exist.
        DataError: A file of the attempt is damaged.
    """
    attempt = check_files(get_published_attempt(Warehouse(settings.paths), run_id, number))
    file = attempt.folder / LAYOUT_FILE
    layout = parse_stored(Layout, file.read_text(encoding="utf-8"), file)
    trained = parse_stored(Settings, attempt.record()["settings"], attempt.folder / RECORD_FILE)
    trained = trained.model_copy(update={"paths": settings.paths, "spark": settings.spark})
    return ScoringModel(attempt, layout, trained)
