"""Drafts show how to learn from events after impressions."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from star_ctr.conf.load import load
from star_ctr.conf.settings.label import LabelFromClicks, OutcomeEvents
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.new_data_set.draft import Draft, draft_settings
from star_ctr.jobs.new_data_set.event_logs import name_log
from star_ctr.jobs.new_data_set.log_columns import LogColumns
from star_ctr.jobs.new_data_set.log_groups import GroupFile, LogGroup
from star_ctr.jobs.new_data_set.log_samples import LogSample

N, START = 4_000, 1_767_225_600


def make_logs() -> dict[str, pd.DataFrame]:
    """Return impressions, clicks and purchases. The last two refer to impressions."""
    rng = np.random.default_rng(0)
    views = pd.DataFrame(
        {
            "view": [f"v{k}" for k in range(N)],
            "visitor": [f"p{k}" for k in rng.integers(0, 200, N)],
            "sku": [f"s{k}" for k in rng.integers(0, 60, N)],
            "surface": rng.choice(["home", "search"], N),
            "seen": START + np.sort(rng.integers(0, 4 * 86_400, N)),
        }
    )
    clicks, bought = views.sample(600, random_state=0), views.sample(150, random_state=1)
    return {
        "views": views,
        "clicks": pd.DataFrame({"view": clicks["view"], "at": clicks["seen"] + 30}),
        "purchases": pd.DataFrame(
            {"view": bought["view"], "visitor": bought["visitor"], "sku": bought["sku"], "at": bought["seen"] + 900}
        ),
    }


def write_logs(folder: Path, logs: dict[str, pd.DataFrame]) -> None:
    folder.mkdir(exist_ok=True)
    for name, rows in logs.items():
        rows.to_csv(folder / f"{name}.csv", index=False)


def uncomment(text: str) -> str:
    """Remove the `#` of the sections `events` and `also`, as an editor does."""
    lines, is_block = list[str](), False
    for line in text.splitlines():
        is_block = line.startswith("  # ") and (is_block or re.match(r"  # (events|also):", line) is not None)
        lines.append(line.replace("# ", "", 1) if is_block else line)
    return "\n".join(lines)


def draft(folder: Path, logs: dict[str, pd.DataFrame]) -> tuple[Draft, Settings, Settings]:
    """Return a draft, its settings, and its settings with the events."""
    write_logs(folder / "logs", logs)
    found = draft_settings(str(folder / "logs"), "mine")
    file = folder / "mine.yaml"
    file.write_text(found.text)
    before = load(str(file))
    file.write_text(uncomment(found.text))
    return found, before, load(str(file))


def test_purchases_are_proposed_as_further_outcomes(tmp_path: Path) -> None:
    found, before, after = draft(tmp_path, make_logs())
    assert before.logs.events is None
    assert before.label.also == {}
    assert before.logs.behaviours is not None
    assert before.logs.behaviours.path == "purchases.csv"
    assert after.logs.events is not None
    assert after.logs.events.columns == {"event": "'purchases'"}
    assert after.logs.events.event == "event"
    expected = before.logs.model_copy(update={"events": after.logs.events})
    assert after.logs == expected, "only the events are added"
    log = after.logs.events
    assert (log.path, log.impression, log.time.column, log.time.unit) == ("purchases.csv", "view", "at", "s")
    assert isinstance(after.label, LabelFromClicks)
    assert after.label.also == {"purchases": OutcomeEvents(window_hours=24)}  # type: ignore[call-arg]
    assert any("purchases.csv refers to impressions" in question for question in found.questions)
    assert (after.history, after.features) == (before.history, before.features)


def test_each_kind_of_event_is_an_outcome(tmp_path: Path) -> None:
    logs = make_logs()
    rows = logs.pop("purchases").drop(columns=["visitor", "sku"])
    rows["at"] *= 1_000_000
    rows["event"] = 0
    kinds = ["click", "buy", "Add to cart", "1", "on"]
    rows["What"] = [kinds[k % 5] for k in range(len(rows))]
    # Some events do not follow an impression.
    rows.iloc[:9, 0] = None
    found, before, after = draft(tmp_path, {**logs, "events": rows.drop(columns="event")})
    assert before.logs.behaviours is None
    assert found.notes == []
    assert after.logs.events is not None
    assert (after.logs.events.event, after.logs.events.time.column) == ("What", "time_in_ms")
    outcomes = {name: event.event or name for name, event in after.label.outcome_events.items()}
    assert outcomes == {"buy": "buy", "add_to_cart": "Add to cart", "c_1": "1", "on": "on"}
    assert {event.window_hours for event in after.label.outcome_events.values()} == {24}


def test_clicks_are_the_log_with_their_name(tmp_path: Path) -> None:
    logs = make_logs()
    logs["added_to_cart"] = logs.pop("purchases")
    logs["bought"] = logs["added_to_cart"].head(90)[["view", "at"]]
    found, _, after = draft(tmp_path, logs)
    assert after.logs.clicks is not None
    assert after.logs.events is not None
    assert (after.logs.clicks.path, after.logs.events.path) == ("clicks.csv", "added_to_cart.csv")
    assert list(after.label.also) == ["added_to_cart"]
    assert any("Add bought.csv with `sources`" in question for question in found.questions)


def change_times(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(at=rows["at"] - 3 * 86_400)


@pytest.mark.parametrize(
    "change",
    [
        change_times,
        lambda rows: rows.drop(columns="at"),
        lambda rows: rows.assign(view=rows["view"] + "x"),
        lambda rows: rows.drop(columns="view"),
        # Rows with a number of their own that happens to be that of an impression.
        lambda rows: rows.assign(view=range(1, len(rows) + 1)).rename(columns={"view": "id"}),
    ],
)
def test_other_logs_are_no_events(tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    logs = make_logs()
    logs["purchases"] = change(logs["purchases"])
    found, _, after = draft(tmp_path, logs)
    assert after.logs.events is None
    assert "events:" not in found.text
    assert "label.also" not in found.text


def test_names_of_logs() -> None:
    def name(pattern: str) -> str:
        group = LogGroup(pattern, "csv", [GroupFile(f"/logs/{pattern}", None, 1)])
        sample = LogSample(group, pd.DataFrame(), pd.Series(dtype=object), {}, True, None)  # type: ignore[arg-type]
        return name_log(LogColumns(sample, {}))

    for pattern, expected in {
        "purchases.csv": "purchases",
        "Add-To-Cart/{ds}.csv.gz": "add_to_cart",
        "shop/purchases/year={yyyy}/month={mm}/part-*-c000.snappy.parquet": "purchases",
        "logs/bought_[0-9]*.csv": "bought",
        "*/{ds}.csv": "event",
        "购买/{ds}.csv": "event",
    }.items():
        assert name(pattern) == expected
