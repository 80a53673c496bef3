"""The files from which a model is calibrated."""

from __future__ import annotations

from star_ctr.model.data.batch_order import DataFile
from star_ctr.model.training.calibration_sample import choose_sample_files


def make_files(days: list[str], per_day: int, domain: int = 1) -> list[DataFile]:
    return [
        DataFile(f"{domain}/{day}/{k}", domain, 100, (f"{day}-{k}",), ds=day) for day in days for k in range(per_day)
    ]


def test_files_of_one_night_are_taken_in_order() -> None:
    files = make_files(["2026-01-08"], 5)
    assert choose_sample_files(files, 250) == files[:3]
    assert choose_sample_files(files, 10_000) == files


def test_every_day_contributes_even_if_ids_start_with_the_time() -> None:
    files = [*make_files(["2026-01-01", "2026-01-02", "2026-01-03"], 4), *make_files(["2026-01-02"], 2, domain=2)]
    chosen = choose_sample_files(files, 500)
    assert [file.url for file in chosen if file.domain == 1] == [
        "1/2026-01-03/0", "1/2026-01-02/0", "1/2026-01-01/0", "1/2026-01-03/1", "1/2026-01-02/1",
    ]  # fmt: skip
    assert [file for file in chosen if file.domain == 2] == files[12:]
