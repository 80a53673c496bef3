"""Logs in which a name or a coincidence of values points at the wrong column."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.new_data_set import draft as drafts
from star_ctr.jobs.new_data_set import file_readers
from star_ctr.jobs.new_data_set.column_words import OUTCOME, matches_words
from star_ctr.jobs.new_data_set.columns import describe_column
from star_ctr.jobs.new_data_set.draft import Draft, draft_settings
from star_ctr.jobs.new_data_set.group_merging import tell_apart
from star_ctr.jobs.new_data_set.log_groups import GroupFile, LogGroup, make_pattern
from star_ctr.jobs.new_data_set.log_samples import read_sample, read_values

N, START = 6_000, 1_767_225_600


def make_rows(n: int = N, days: int = 4, **columns: object) -> pd.DataFrame:
    """Return impressions whose ids of users and items are whole numbers from 1."""
    rng = np.random.default_rng(0)
    rows = {
        "user_id": rng.integers(1, 300, n),
        "item_id": rng.integers(1, 80, n),
        "tab": rng.choice(["home", "search"], n),
        "ts": START + np.sort(rng.integers(0, days * 86_400, n)),
        "click": (rng.random(n) < 0.1).astype(int),
    }
    return pd.DataFrame({**rows, **columns})


def draft(folder: Path, **logs: pd.DataFrame) -> tuple[Draft, Settings]:
    """Write logs as CSV files, and return the draft and its settings."""
    (folder / "logs").mkdir(exist_ok=True)
    for name, rows in logs.items():
        rows.to_csv(folder / "logs" / f"{name}.csv", index=False)
    found = draft_settings(str(folder / "logs"), "mine")
    file = folder / "mine.yaml"
    file.write_text(found.text)
    return found, load(str(file))


def list_columns(settings: Settings) -> set[str]:
    """Return the columns that are features of their own row."""
    return {str(getattr(feature, "column", "")) for feature in settings.features}


def test_items_are_not_users_because_small_numbers_are_equal(tmp_path: Path) -> None:
    items = pd.DataFrame({"item_id": range(1, 301), "price": np.arange(300) + 0.5})
    _, settings = draft(tmp_path, shown=make_rows(), items=items)
    assert settings.logs.users is None
    assert settings.logs.items is not None
    assert settings.logs.items.key == "item_id"
    text_items = items.assign(item_id=[f"i{k}" for k in range(300)], price=range(1, 301))
    _, settings = draft(tmp_path, shown=make_rows(), items=text_items)
    assert settings.logs.users is None


def test_clicks_refer_to_impressions_and_not_by_their_own_row_id(tmp_path: Path) -> None:
    shown = make_rows().drop(columns="click").assign(id=range(1, N + 1))
    at = shown.sample(600, random_state=0)
    clicks = pd.DataFrame({"id": range(1, 601), "impression_id": at["id"].to_numpy(), "ts": at["ts"].to_numpy() + 30})
    _, settings = draft(tmp_path, shown=shown, clicks=clicks)
    assert settings.logs.clicks is not None
    assert (settings.logs.clicks.impression, settings.logs.impressions.id) == ("impression_id", "id")


def test_outcomes_are_found_if_clicks_and_impressions_are_only_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafts, "SAMPLE_ROWS", 2_000)
    shown = make_rows(20_000).drop(columns="click")
    shown["view"] = [f"v{k}" for k in range(len(shown))]
    clicked = np.random.default_rng(1).random(len(shown)) < 0.1
    shown["video_pct"] = np.where(clicked, 0.5, 0)
    shown["day"] = pd.to_datetime(shown["ts"], unit="s").dt.strftime("%Y-%m-%d")
    for name, rows in (("shown", shown), ("clicks", shown.loc[clicked, ["view", "ts", "day"]])):
        (tmp_path / "logs" / name).mkdir(parents=True)
        for day, own in rows.groupby("day"):
            own.drop(columns="day").to_csv(tmp_path / "logs" / name / f"{day}.csv", index=False)
    found, settings = draft(tmp_path)
    assert settings.logs.impressions.outcomes == ["video_pct"]
    assert "click rates from 0." not in found.text


@pytest.mark.parametrize(
    ("columns", "label"),
    [
        ({"is_click": lambda c: c, "ad_label": lambda c: 1 - c}, "is_click"),
        ({"click_count": lambda c: c * (1 + np.arange(N) % 2)}, "click_count"),
    ],
)
def test_the_label(tmp_path: Path, columns: dict[str, Callable[[pd.Series], pd.Series]], label: str) -> None:
    rows = make_rows()
    rows = rows.assign(**{name: make(rows["click"]) for name, make in columns.items()}).drop(columns="click")
    _, settings = draft(tmp_path, shown=rows)
    assert settings.label.column == label  # type: ignore[union-attr]
    if label == "click_count":
        assert settings.label.positive == ["1", "2"]  # type: ignore[union-attr]
    assert not {c for c in list_columns(settings) if "click" in c or "label" in c}


def test_outcomes_of_any_type_and_form(tmp_path: Path) -> None:
    rows, rng = make_rows(), np.random.default_rng(2)
    rows["is_liked"] = rng.random(N) < 0.1
    rows["shares"] = rng.integers(0, 3, N)
    rows["click_type"] = np.where(rows["click"] == 1, "button", None)
    rows["reaction"] = np.where(rows["click"] == 1, rng.choice(["a", "b"], N), None)
    rows["seconds_on_screen"] = rng.normal(5, 1, N) + 4 * rows["click"]
    rows["time_on_page"] = rng.integers(0, 9, N)
    rows["country"] = rng.choice(["de", "fr"], N)
    rows = rows.drop(columns="tab")
    _, settings = draft(tmp_path, shown=rows)
    log = settings.logs.impressions
    assert log.domain == "country"
    assert {"is_liked", "shares", "click_type", "reaction", "seconds_on_screen"} <= set(log.outcomes)


def test_popularity_without_a_day_is_no_feature(tmp_path: Path) -> None:
    items = pd.DataFrame(
        {"item_id": range(1, 80), "clicks_total": range(1, 80), "ctr": 0.1, "price": np.arange(79) / 2}
    )
    items["ctr"] += np.arange(79) / 1000
    found, settings = draft(tmp_path, shown=make_rows(), items=items)
    assert {c for c in list_columns(settings) if c.startswith("items.")} == {"items.price"}
    assert "items.ctr: a count or rate without a day" in found.text


def test_the_day_of_a_row_is_that_of_its_time(tmp_path: Path) -> None:
    rows = make_rows()
    rows["signup_date"] = "2024-03-0" + pd.Series(1 + np.arange(N) % 9).astype(str)
    rows["campaign_start"] = "20260101"
    _, settings = draft(tmp_path, shown=rows)
    assert settings.logs.impressions.day is None
    rows["log_date"] = pd.to_datetime(rows["ts"] + 8 * 3600, unit="s").dt.strftime("%Y%m%d")
    _, settings = draft(tmp_path, shown=rows)
    assert settings.logs.impressions.day is not None
    assert settings.logs.impressions.day.column == "log_date"


def test_the_time_of_a_row_is_not_that_of_something_else(tmp_path: Path) -> None:
    rows = make_rows()
    rows["registered_at"] = START - np.arange(N) * 60
    rows["clicked_at"] = np.where(rows["click"] == 1, rows["ts"] + 5, np.nan)
    rows["ts"] = rows["ts"] * 1_000_000
    found, settings = draft(tmp_path, shown=rows)
    log = settings.logs.impressions
    assert (log.time.column, log.time.unit) == ("time_in_ms", "ms")
    assert log.columns == {"time_in_ms": "cast(`ts` as bigint) div 1000"}
    assert any("registered_at" in question for question in found.questions)


def test_month_and_day_are_not_exchanged(tmp_path: Path) -> None:
    rows = make_rows()
    rows["ts"] = pd.to_datetime(rows["ts"] + 4 * 86_400, unit="s").dt.strftime("%m/%d/%Y %H:%M:%S")
    found, settings = draft(tmp_path, shown=rows)
    assert settings.logs.impressions.time.format == "MM/dd/yyyy HH:mm:ss"
    assert any("with day and month exchanged" in question for question in found.questions)


def test_ids_are_not_types_times_or_numbers(tmp_path: Path) -> None:
    rows = make_rows(device_type=["ios", "android"] * (N // 2), user_city=["x", "y", "z"] * (N // 3), item_type="t")
    rows["user_id"] = (2**63 + 10 * rows["user_id"].astype("uint64")).astype(str)
    rows["item_id"] = 1_650_000_000 + rows["item_id"]
    _, settings = draft(tmp_path, shown=rows)
    assert (settings.logs.impressions.user, settings.logs.impressions.item) == ("user_id", "item_id")
    _, settings = draft(tmp_path, shown=rows.rename(columns={"user_id": "openid"}))
    assert settings.logs.impressions.user == "openid"


def test_numbers_of_pages_are_no_domains(tmp_path: Path) -> None:
    rows = make_rows(page_number=np.arange(N) % 7, app_version=np.arange(N) % 5, platform=["web", "app"] * (N // 2))
    _, settings = draft(tmp_path, shown=rows.drop(columns="tab"))
    assert settings.logs.impressions.domain == "platform"


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["server01/2026-01-0{d}.csv", "server02/2026-01-0{d}.csv"], "*/{ds}.csv"),
        (["2026-01-0{d}/export_2026-02-01.csv"], "{ds}/export_*.csv"),
        (["2026/0{d}/part-0.csv"], "2026/*/part-*.csv"),
        (["events.0.{d}.csv"], "events.*.csv"),
        (["2026-01-0{d}/00/p.csv", "2026-01-0{d}/31/p.csv"], "{ds}/*/p.csv"),
        (["train/a.csv", "test/a.csv"], "*/a.csv"),
    ],
)
def test_files_of_one_log_are_one_log(tmp_path: Path, names: list[str], pattern: str) -> None:
    rows = make_rows()
    parts = [name.format(d=d) for name in names for d in (range(1, 5) if "{d}" in name else [0])]
    for k, name in enumerate(parts):
        file = tmp_path / "logs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        rows.iloc[k :: len(parts)].to_csv(file, index=False)
    found, settings = draft(tmp_path)
    assert settings.logs.impressions.path == pattern
    assert settings.logs.behaviours is None
    assert len(found.logs) == 1


def test_a_pattern_does_not_match_the_files_of_another_log(tmp_path: Path) -> None:
    rows, users = make_rows(), pd.DataFrame({"user_id": range(1, 300), "age": np.arange(299) % 60})
    _, settings = draft(tmp_path, log_1=rows.iloc[:3_000], log_2=rows.iloc[3_000:], log_users=users)
    assert settings.logs.impressions.path == "log_[0-9]*.csv"
    assert settings.logs.users is not None
    assert settings.logs.users.path == "log_users.csv"


def test_a_pattern_matches_all_files_of_its_log() -> None:
    def group(pattern: str, *names: str) -> LogGroup:
        return LogGroup(pattern, "csv", [GroupFile(f"/logs/{name}", None, 1) for name in names])

    shown = group("*/{ds}.csv", "one/2026-01-01.csv", "two/2026-01-01.csv")
    found = tell_apart([shown, group("users/{ds}.csv", "users/2026-01-01.csv")])
    assert [g.pattern for g in found] == ["*/{ds}.csv", "users/{ds}.csv"]
    found = tell_apart([group("u*.csv", "u1.csv", "u2.csv"), group("users.csv", "users.csv")])
    assert [g.pattern for g in found] == ["u[0-9]*.csv", "users.csv"]


@pytest.mark.parametrize("kind", ["csv", "json", "parquet", "orc", "delta"])
def test_all_values_of_a_column_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A sample is limited in size, but not the clicks that tell which impressions of a sample were clicked."""
    monkeypatch.setattr(file_readers, "_MAX_BYTES", 1)
    monkeypatch.setattr(file_readers, "_MAX_FILES", 1)
    rows = pd.DataFrame({"view": [f"v{k}" for k in range(3_000)], "other": range(3_000)})
    path = tmp_path / f"a.{kind}"
    match kind:
        case "csv":
            rows.to_csv(path, index=False)
        case "json":
            rows.to_json(path, orient="records", lines=True)
        case "parquet":
            rows.to_parquet(path)
        case "orc":
            pa.orc.write_table(pa.Table.from_pandas(rows), str(path))
        case _:
            for part in (rows.iloc[:2_000], rows.iloc[2_000:]):
                write_deltalake(str(path), part, mode="append")
    sample = read_sample(fsspec.filesystem("file"), LogGroup(path.name, kind, [GroupFile(str(path), None, 1)]), 100)
    assert not sample.is_complete
    values = read_values(sample, "view", None)
    assert values is not None
    assert sorted(values) == sorted(rows["view"])


def test_commas_between_ids_are_no_decimals() -> None:
    for texts, kind in ((["12,65", "3,990"] * 5, "text"), (["1,234", "12,345", "999"] * 5, "text")):
        assert describe_column("x", pd.Series(texts), allow_commas=kind == "number").kind == kind
    assert describe_column("x", pd.Series(["1,234", "12,345", "999"] * 5)).kind == "text"
    assert describe_column("x", pd.Series(["1,5", "12,25", "1.234,5"] * 5)).decimal == ","


def test_daily_events_of_users_are_no_attributes(tmp_path: Path) -> None:
    rows, rng = make_rows(), np.random.default_rng(3)
    (tmp_path / "logs" / "searches").mkdir(parents=True)
    for d in range(1, 5):
        events = pd.DataFrame({"user_id": rng.integers(1, 300, 900), "query": rng.integers(0, 50, 900)})
        events.to_csv(tmp_path / "logs" / "searches" / f"2026-01-0{d}.csv", index=False)
    _, settings = draft(tmp_path, shown=rows)
    assert settings.logs.users is None


def test_csv_files_of_several_kinds(tmp_path: Path) -> None:
    rows = make_rows()
    (tmp_path / "logs").mkdir()
    items = pd.DataFrame({"item_id": range(1, 80), "vector": ["0;1;2;3"] * 79, "name": ["Café|Bar"] * 79, "Price": 1.5})
    items.to_csv(tmp_path / "logs" / "items.csv", index=True, encoding="windows-1252")
    (tmp_path / "logs" / "shown_3.csv").write_text("\n")
    _, settings = draft(tmp_path, shown_1=rows.iloc[:3_000], shown_2=rows.iloc[3_000:])
    assert settings.logs.items is not None
    assert (settings.logs.items.separator, settings.logs.items.encoding) == (",", "windows-1252")
    assert not any("Unnamed" in column for column in list_columns(settings))


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    make_rows().to_csv(tmp_path / "shown.csv", index=False)
    (tmp_path / "far").mkdir()
    (tmp_path / "shown.csv").rename(tmp_path / "far" / "shown.csv")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "near").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "loop").symlink_to(tmp_path / "far")
    _, settings = draft(tmp_path)
    assert settings.logs.impressions.path is not None
    assert settings.logs.impressions.path.endswith("shown.csv")


def test_patterns_and_words() -> None:
    assert make_pattern("a/20260101_20260131.csv") == ("a/*.csv", None)
    assert make_pattern("2026-01-01/x.parquet.gz") == ("{ds}/x.parquet.gz", "2026-01-01")
    assert matches_words(["liked"], OUTCOME)
    assert matches_words(["shares"], OUTCOME)
    assert not matches_words(["length", "price"], OUTCOME)


def test_headlines_are_no_lists_and_positions_are_asked_about(tmp_path: Path) -> None:
    words = ["mayor, police and the river", "old town opens, at last", "snow, wind and rain in the north"]
    items = pd.DataFrame({"item_id": range(1, 80), "headline": [f"{words[k % 3]} {k}, again" for k in range(79)]})
    rows = make_rows(position=np.arange(N) % 9, device=["ios", "web"] * (N // 2))
    rows["ts"] = pd.to_datetime(rows["ts"], unit="s").dt.strftime("%Y-%m-%dT%H:%M:%S+01:00")
    found, settings = draft(tmp_path, shown=rows, items=items)
    assert "items.headline" not in list_columns(settings)
    assert "items.headline: 79 distinct values in 79 rows; it looks like free text" in found.text
    assert any("leave out `position`" in question for question in found.questions)
    assert any("+01:00" in question for question in found.questions)
    assert "alternatives: device" not in found.text
