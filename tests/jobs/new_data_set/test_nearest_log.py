"""Logs without impressions: the message names the nearest log, what it lacks, and the remedy."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from star_ctr.conf.errors import UserError
from star_ctr.jobs.new_data_set.draft import draft_settings
from tests.jobs.new_data_set.test_events import change_times, make_logs, write_logs


def fail(folder: Path, logs: dict[str, pd.DataFrame]) -> str:
    write_logs(folder, logs)
    with pytest.raises(UserError) as error:
        draft_settings(str(folder), "mine")
    return str(error.value)


def test_clicks_without_the_id_of_the_impression(tmp_path: Path) -> None:
    logs = make_logs()
    logs["clicks"] = logs["purchases"].drop(columns="view")
    del logs["purchases"]
    assert fail(tmp_path, logs).endswith(
        "no impression log among clicks.csv, views.csv. The nearest is views.csv: it has a user (`visitor`), an item "
        "(`sku`) and a time (`seen`), but no column such as `click`, and no other log has values of its id column "
        "`view`. Add a column with the id of the impression to clicks.csv, or add a column `click` with 1 or 0"
    )
    logs["views"] = logs["views"].drop(columns="view")
    message = fail(tmp_path, logs)
    assert (
        "and no column with a unique id. Add one, and a column with the id of the impression to clicks.csv" in message
    )


def test_clicks_that_cannot_be_used(tmp_path: Path) -> None:
    logs = make_logs()
    del logs["purchases"]
    message = fail(tmp_path, {**logs, "clicks": logs["clicks"].drop(columns="at")})
    assert "clicks.csv has values of its id column `view` in `view`, but no time. Add the time of the click" in message
    message = fail(tmp_path, {**logs, "clicks": change_times(logs["clicks"])})
    assert "are earlier than the impression. Correct this log" in message


@pytest.mark.parametrize(
    ("dropped", "text"),
    [
        (
            ["seen"],
            "a user (`visitor`) and an item (`sku`), but no column that looks like a time. Give the column a name",
        ),
        (
            ["sku"],
            "a user (`visitor`) and a time (`seen`), but no column that looks like an item. Give the column a name",
        ),
        (
            ["visitor", "seen"],
            "an item (`sku`), but no column that looks like a user or a time. Give the columns names such as `user_id` "
            "and `time`, or write the file by hand (docs/new-data-set.md)",
        ),
    ],
)
def test_impressions_without_a_key(tmp_path: Path, dropped: list[str], text: str) -> None:
    logs = make_logs()
    message = fail(tmp_path, {"views": logs["views"].drop(columns=dropped), "clicks": logs["clicks"][["view"]]})
    assert f"The nearest is views.csv: it has {text}" in message


def test_logs_without_any_key(tmp_path: Path) -> None:
    message = fail(tmp_path, {"other": pd.DataFrame({"x": range(20), "y": ["a", "b"] * 10})})
    assert "among other.csv. An impression log has a user, an item and a time" in message
