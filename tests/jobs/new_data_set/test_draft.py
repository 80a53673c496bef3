"""The draft of a YAML file names the right logs and columns, for logs of several shapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from deltalake import write_deltalake
from pyspark.sql import SparkSession
from typer.testing import CliRunner

from star_ctr.conf.errors import UserError
from star_ctr.conf.load import load
from star_ctr.conf.settings.features import Sequence, Statistic, Vector
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.new_data_set.draft import Draft, draft_settings
from star_ctr.jobs.new_data_set.log_groups import _get_format
from star_ctr.jobs.tools import check
from star_ctr.workflows import nightly
from star_ctr.workflows.cli import app
from tests import small_logs
from tests.conftest import KUAIRAND, kuairand


def draft(folder: Path) -> tuple[Draft, Settings]:
    """Return a draft, and its settings, which must be valid."""
    found = draft_settings(str(folder), "mine")
    file = folder.parent / "mine.yaml"
    file.write_text(found.text)
    return found, load(str(file))


def make_rows(n: int = 4_000, days: int = 4) -> pd.DataFrame:
    """Return impressions with a label, an outcome and a number that depends on nothing."""
    rng = np.random.default_rng(0)
    clicked = rng.random(n) < 0.1
    return pd.DataFrame(
        {
            "uid": rng.integers(0, 300, n),
            "newsId": [f"N{k}" for k in rng.integers(0, 80, n)],
            "section": rng.choice(["home", "sports", "mail"], n),
            "ts": 1_767_225_600 + np.sort(rng.integers(0, days * 86_400, n)),
            "clicked": clicked.astype(int),
            "seconds": np.where(clicked & (rng.random(n) < 0.9), rng.integers(5, 300, n), 0),
            "length": rng.integers(100, 5_000, n),
        }
    )


@pytest.mark.parametrize("ending", ["snappy.parquet", "c000.snappy.parquet", "csv.gz", "zst.parquet", "orc", "json"])
def test_formats_are_found_with_compressed_files(ending: str) -> None:
    assert _get_format(f"views/part-00000-{'0' * 8}.{ending}") == next(
        part for part in ending.split(".") if part in ("parquet", "csv", "orc", "json")
    )


def test_a_few_repeated_rows_hide_no_click_log(tmp_path: Path) -> None:
    frames = small_logs.frames()
    views = next(name for name, frame in frames.items() if "view" in frame.columns and "visitor" in frame.columns)
    rows = frames[views]
    frames[views] = pd.concat([rows, rows.tail(2)])
    small_logs.write(tmp_path, frames)
    _, settings = draft(tmp_path / "logs")
    assert settings.logs.clicks is not None


def test_a_shop_with_a_click_log(tmp_path: Path) -> None:
    small_logs.write(tmp_path, small_logs.frames())
    found, settings = draft(tmp_path / "logs")
    logs, want = settings.logs, small_logs.CONF["logs"]
    assert isinstance(want, dict)
    shown = logs.impressions
    assert (shown.path, shown.id, shown.user, shown.item, shown.domain, shown.time.column, shown.time.unit) == (
        "views/{yyyymmdd}.parquet", "view", "visitor", "sku", "surface", "seen", "timestamp",
    )  # fmt: skip
    assert logs.clicks is not None
    assert (logs.clicks.impression, logs.clicks.time.column) == ("view", "at")
    assert logs.users is not None
    assert logs.users.day is not None
    assert (logs.users.key, logs.users.day.column) == ("visitor", "snapshot")
    assert logs.items is not None
    assert (logs.items.key, logs.items.format) == ("sku", "csv")
    assert settings.window.days == 3
    assert Path(settings.paths.warehouse).is_absolute()
    features = {f.name: f for f in settings.features}
    assert {"item", "slot", "tier", "labels", "hour", "by_user", "by_item_domain", "clicked"} <= set(features)
    assert features["labels"].separator == "|"  # type: ignore[union-attr]
    assert features["price"].kind == "numeric"
    assert any("as_of" in question for question in found.questions)


@kuairand
def test_kuairand() -> None:
    text = draft_settings(str(KUAIRAND), "kuairand").text
    found = yaml.safe_load(text)
    want = load("kuairand", [f"paths.logs={KUAIRAND}"])
    logs = found["logs"]
    shown, day = logs["impressions"], want.logs.impressions.day
    assert day is not None
    for key in ("user", "item", "domain"):
        assert shown[key] == getattr(want.logs.impressions, key)
    assert shown["time"] == {"column": "time_ms", "unit": "ms"}
    assert shown["day"] == {"column": day.column, "format": day.format}
    assert set(shown["outcomes"]) == set(want.logs.impressions.outcomes)
    assert logs["behaviours"]["order"] == "pos"
    assert set(found["history"]) == {"shown", "click", "watch", "long_watch", "like"}
    assert (logs["users"]["key"], logs["items"]["key"], "day" in logs["items"]) == ("user_id", "video_id", False)
    assert found["label"] == {"column": "is_click"}
    assert "author_id: 6,510 distinct values" in text


def test_what_happened_afterwards_is_found_by_the_values(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    make_rows().to_csv(folder / "events.csv", index=False)
    _, settings = draft(folder)
    log = settings.logs.impressions
    assert (log.user, log.item, log.domain, log.time.unit) == ("uid", "newsId", "section", "s")
    assert log.outcomes == ["seconds"]
    assert settings.label.column == "clicked"  # type: ignore[union-attr]
    columns = {str(getattr(f, "column", "")) for f in settings.features}
    assert "impressions.length" in columns
    assert "impressions.seconds" not in columns


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("{ds}.csv", "{ds}.csv"),
        ("dt={ds}/part-0000{k}-77e0c1a4-4b8c-4a3e-9d0f-1d8a0f9b7c11-c000.csv", "dt={ds}/part-*.csv"),
        ("{ymd}/events_{k}.csv", "{yyyymmdd}/events_*.csv"),
        ("{y}/{m}/{d}/1{k}/x.csv", "{yyyy}/{mm}/{dd}/{hh}/x.csv"),
        ("year={y}/month={m}/day={d}/x.csv", "year={yyyy}/month={mm}/day={dd}/x.csv"),
        ("hourly/{ds}/hour=0{k}/{k}.csv", "hourly/{ds}/hour={hh}/*.csv"),
    ],
)
def test_days_and_hours_in_paths(tmp_path: Path, file: str, pattern: str) -> None:
    rows = make_rows()
    rows["day"] = pd.to_datetime(rows["ts"], unit="s").dt.strftime("%Y-%m-%d")
    for day, own in rows.groupby("day"):
        y, m, d = str(day).split("-")
        for k in range(2):
            path = tmp_path / "logs" / file.format(ds=day, ymd=f"{y}{m}{d}", y=y, m=m, d=d, k=k)
            path.parent.mkdir(parents=True, exist_ok=True)
            own.iloc[k::2].drop(columns="day").to_csv(path, index=False)
    (tmp_path / "logs" / "_SUCCESS").write_text("")
    _, settings = draft(tmp_path / "logs")
    assert settings.logs.impressions.path == pattern
    assert settings.window.days == 3


def test_separators_encodings_decimals_and_labels(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    rows = make_rows()
    rows["section"] = rows["section"].map({"home": "首页", "sports": "体育", "mail": "邮件"})
    rows["clicked"] = rows["clicked"].replace(0, -1)
    rows["price"] = np.random.default_rng(1).gamma(2, 10, len(rows))
    rows.to_csv(folder / "a.csv", index=False, sep=";", decimal=",", encoding="gbk", float_format="%.2f")
    _, settings = draft(folder)
    log = settings.logs.impressions
    assert (log.separator, log.encoding, log.decimal) == (";", "GBK", ",")
    label = settings.label
    assert (label.positive, label.negative) == (["1"], ["-1"])  # type: ignore[union-attr]
    assert {f.kind for f in settings.features if f.name == "price"} == {"numeric"}


def test_delta_tables_and_json_with_lists(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    rows = make_rows().assign(topics=lambda f: [["a", "b"][: 1 + k % 2] for k in range(len(f))])
    items = pd.DataFrame({"newsId": [f"N{k}" for k in range(80)], "topic": [f"t{k % 7}" for k in range(80)]})
    write_deltalake(str(folder / "items"), items, partition_by=["topic"])
    (folder / "shown").mkdir()
    with (folder / "shown" / "all.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows.to_dict("records"))
    _, settings = draft(folder)
    assert settings.logs.items is not None
    assert (settings.logs.items.format, settings.logs.items.path, settings.logs.items.key) == (
        "delta",
        "items",
        "newsId",
    )
    features = {f.name: f for f in settings.features}
    assert features["topics"].multiple is True  # type: ignore[union-attr]
    assert {"topic", "by_topic", "by_user_topic"} <= set(features)


def test_coarse_and_fine_attributes_of_items_get_statistics(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    make_rows().to_csv(folder / "views.csv", index=False)
    rng = np.random.default_rng(0)
    items = pd.DataFrame({"newsId": [f"N{k}" for k in range(80)]})
    for name, values in (("author", 40), ("topic", 7), ("layout", 5), ("size", 3)):
        items[name] = [f"{name[0]}{k}" for k in rng.integers(0, values, 80)]
    items.to_csv(folder / "items.csv", index=False)
    _, settings = draft(folder)
    by = {tuple(f.by) for f in settings.features if isinstance(f, Statistic)}
    assert {("user_id", "items.author"), ("user_id", "items.topic"), ("items.author",), ("items.topic",)} <= by
    assert sum("items." in ref for group in by for ref in group) == 6, "at most three attributes"
    sequence = next(f for f in settings.features if isinstance(f, Sequence))
    assert list(sequence.columns) == ["item_id", "items.author", "items.topic"]


def test_without_a_domain_all_rows_are_in_one(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    make_rows().drop(columns="section").to_csv(folder / "a.csv", index=False)
    found, settings = draft(folder)
    assert settings.logs.impressions.domain == "everything"
    assert any("no column looks like a domain" in question for question in found.questions)


def test_logs_without_impressions_and_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        draft_settings(str(tmp_path / "logs"), "mine")
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "notes.md").write_text("hello")
    with pytest.raises(UserError, match="no log files; expected"):
        draft_settings(str(folder), "mine")
    (folder / "broken.parquet").write_bytes(b"PAR1 not a file")
    make_rows().drop(columns="clicked").to_csv(folder / "a.csv", index=False)
    with pytest.raises(UserError, match=r"(?s)no impression log among .*broken\.parquet: cannot read"):
        draft_settings(str(folder), "mine")
    make_rows().to_csv(folder / "a.csv", index=False)
    notes = draft_settings(str(folder), "mine").notes
    assert any("notes.md" in note for note in notes)
    assert any("broken.parquet" in note for note in notes)


def test_the_command_replaces_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "news" / "logs").mkdir(parents=True)
    make_rows().to_csv(tmp_path / "news" / "logs" / "a.csv", index=False)
    arguments = ["init", "--logs", "news/logs"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "star-ctr check --conf news.yaml" in result.output
    assert load("news.yaml").name == "news"
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, UserError)
    assert "news.yaml exists" in str(again.exception)
    assert CliRunner().invoke(app, [*arguments, "--force"]).exit_code == 0


@pytest.mark.spark
@pytest.mark.slow
def test_a_night_runs_with_a_draft(tmp_path: Path, spark: SparkSession) -> None:
    small_logs.write(tmp_path, small_logs.frames())
    found, _ = draft(tmp_path / "logs")
    file = tmp_path / "mine.yaml"
    file.write_text(found.text.replace("zone: UTC", f"zone: {small_logs.ZONE}"))
    settings = load(str(file), [f"paths.warehouse={tmp_path / 'warehouse'}", "spark.shuffle_partitions=2"])
    reports = check.run(settings, spark, None, False)
    assert [problem for report in reports for problem in report["problems"]] == []
    metrics = nightly.run(settings, spark, small_logs.DAYS[-1])["metrics"]
    assert {m["domain"] for m in metrics} >= {"home", "search", "mail"}


@pytest.mark.parametrize("kind", ["parquet", "json", "csv"])
def test_lists_of_numbers_of_one_length_are_vectors(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "logs"
    (folder / "views").mkdir(parents=True)
    rng = np.random.default_rng(0)
    make_rows().to_parquet(folder / "views" / "all.parquet", index=False)
    images = [v.round(3).tolist() for v in rng.normal(size=(80, 16))]
    images[3], images[5] = images[3][:-1], None
    columns = {
        "image": images,
        "codes": rng.integers(0, 9, (80, 16)).tolist(),
        "box": rng.normal(size=(80, 4)).tolist(),
    }
    news = pd.DataFrame({"newsId": [f"N{k}" for k in range(80)], **columns})
    if kind == "parquet":
        news.to_parquet(folder / "news.parquet", index=False)
    elif kind == "json":
        news.to_json(folder / "news.jsonl", orient="records", lines=True)
    else:
        texts = news["image"].map(lambda v: v and "|".join(map(str, v)))
        news.assign(image=texts, codes="x", box=news["box"].map(lambda v: ",".join(map(str, v)))).to_csv(
            folder / "news.csv", index=False
        )
    found, settings = draft(folder)
    vectors = {f.name: f for f in settings.features if isinstance(f, Vector)}
    assert set(vectors) == {"image", "box"}
    image = vectors["image"]
    assert (image.column, image.length, image.separator) == ("items.image", 16, "|" if kind == "csv" else ",")
    assert "  # box: 100% of 80 values are lists of 4 numbers\n" in found.text
    assert "  # check: image: 78 of 79 lists have 16 numbers, and 1 has another length or elements" in found.text
