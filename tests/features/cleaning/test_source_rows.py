"""Computed columns, the condition `where`, and lists of displayed items."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from pydantic import ValidationError
from pyspark.sql import DataFrame, SparkSession

from star_ctr.conf.errors import DataError
from star_ctr.conf.settings.expressions import reads_any
from star_ctr.conf.settings.sources import LogSource
from star_ctr.features.cleaning.clean_log import LEFT_OUT_BY_WHERE, clean_log
from star_ctr.features.cleaning.log_columns import CORRUPT
from star_ctr.features.cleaning.raw_rows import union_frames
from star_ctr.features.cleaning.source_rows import prepare_rows
from tests.features.cleaning.test_clean_log import AT, conf

pytestmark = pytest.mark.spark


def prepare(rows: DataFrame, **log: Any) -> DataFrame:
    return prepare_rows(conf(**log).logs.impressions, rows, "logs.impressions")


def test_columns_and_where(spark: SparkSession) -> None:
    """Rows that do not meet the condition are counted with a reason, and need not be valid otherwise."""
    values = [
        ("a", "home", "phone", "false"),
        ("b", "home", "web", "true"),
        ("c", None, "web", "false"),
        ("d", "search", "web", None),
        (None, "home", "web", "true"),
    ]
    rows = spark.createDataFrame(values, "who string, page string, device string, is_bot string").selectExpr(
        "*", f"{AT}L AS at", "0 AS clk", "who AS id", "'x' AS what"
    )
    declared = conf(columns={"where": "concat(page, '/', device)", "what": "upper(what)"}, where="is_bot = 'false'")
    found = clean_log(declared, "impressions", prepare_rows(declared.logs.impressions, rows, "logs.impressions"))
    by_id = {r.impression_id: r for r in found.collect()}
    assert (by_id["a"].domain, by_id["a"].item_id, by_id["a"].reason) == ("home/phone", "X", None)
    assert {by_id[k].reason for k in ("b", "d", None)} == {LEFT_OUT_BY_WHERE}
    assert {by_id[k].raw for k in ("b", "d", None)} == {None}
    assert by_id["c"].reason == "where: missing"


def test_an_unreadable_row_is_not_left_out_by_where(spark: SparkSession) -> None:
    rows = spark.createDataFrame(
        [("a", "1", None), ("b", None, "b,x,y,z")], f"id string, n string, {CORRUPT} string"
    ).selectExpr("*", "id AS who", "id AS what", "'d' AS where", f"{AT}L AS at", "0 AS clk")
    declared = conf(columns={"what": "cast(n AS int) + 1"}, where="n = '1'")
    found = clean_log(declared, "impressions", prepare_rows(declared.logs.impressions, rows, "k"))
    assert {r.impression_id: r.reason for r in found.collect()} == {"a": None, "b": "unreadable row"}


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ({"where": "is_bott"}, "logs.impressions.where: no column `is_bott`; did you mean `is_bot`?"),
        ({"where": "page"}, "logs.impressions.where: `page` is not a condition"),
        ({"where": "is_bot = "}, "logs.impressions.where: "),
        ({"columns": {"x": "sum(n)"}}, "logs.impressions.columns.x: `sum(n)` must be computed from one row"),
        ({"columns": {"x": "row_number() over (order by n)"}}, "must be computed from one row"),
        ({"columns": {"x": "explode(array(1, 2))"}}, "must be computed from one row"),
        ({"columns": {"x": "(select 1)"}}, "must be computed from one row"),
        ({"columns": {"x": "nosuch(n)"}}, "logs.impressions.columns.x: "),
        ({"explode": {"items": "page"}}, "logs.impressions.explode.items: `page` is a string and not a list"),
        ({"explode": {"items": "pages"}}, "logs.impressions.explode.items: no column `pages`"),
    ],
)
def test_invalid_expressions_are_one_sentence(spark: SparkSession, log: dict[str, Any], message: str) -> None:
    rows = spark.createDataFrame([("home", True, 1)], "page string, is_bot boolean, n int")
    with pytest.raises(DataError) as caught:
        prepare(rows, **log)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "rand() < 0.5", "current_date() > at", "current_timestamp > at", "uuid()", "at < NOW()", "shuffle(a)",
        "at < date'today'", "at < TIMESTAMP ' Now '", "unix_timestamp () > at", "`it's` = rand() OR x = 'y'",
        "_metadata.file_name = 'x'", "current_time > at", "`current_date`() > at", "`_metadata`.file_name = 'x'",
    ],
)  # fmt: skip
def test_expressions_that_change_from_run_to_run_are_rejected_at_loading(text: str) -> None:
    with pytest.raises(ValidationError, match="can change from run to run"):
        LogSource(path="x", where=text)


@pytest.mark.parametrize(
    "text",
    [
        "note = 'now()'", "current_date_of_log = 1", "`now` = 1", "operand(1) = 2", "x.rand = 1", "a * b > 2 * (c * 2)",
        "at < date'2026-01-01'", "note = 'today'", "a = 1 -- rand()", "unix_timestamp(at) > 1",
    ],
)  # fmt: skip
def test_names_and_texts_are_not_mistaken_for_functions(text: str) -> None:
    assert LogSource(path="x", where=text).where == text


@pytest.mark.parametrize("text", ["hash(*) > 0", "to_json(struct(log.*))", "concat_ws(',', a, *)", "*"])
def test_expressions_list_their_columns(text: str) -> None:
    """An asterisk would include the label."""
    with pytest.raises(ValidationError, match="would include the label"):
        LogSource(path="x", where=text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clk", True), ("CLK + 1", True), ("`clk`", True), ("a.`clk`", False), ("clk . x", True), ("f(a, clk)", True),
        ("'clk'", False), ("\"clk\"", False), ("a -- clk\n + b", False), ("a /* clk */ + b", False),
        ("`it's` + clk + `it's`", True), ("'it''s' || clk || 'x'", True), ("r'\\' || clk || r'\\'", True),
        ("a -- it's\n + clk -- it's", True), ("clks", False), ("'a\\'' || clk || ''", True),
    ],
)  # fmt: skip
def test_columns_of_an_expression(text: str, expected: bool) -> None:
    assert reads_any(text, ["clk"]) is expected


def explode_by_hand(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Return id, item, position, clicked, price and problem of each expected row."""
    found: list[tuple[Any, ...]] = []
    for row in rows:
        items, prices, clicked = row["shown"], row["prices"], row["clicked"]
        if not items:
            found.append((f"{row['id']}#-", None, None, None, None, "shown: no items"))
        elif prices is None or len(prices) != len(items):
            found.append((f"{row['id']}#-", None, None, None, None, "shown, prices: lists of different lengths"))
        else:
            for k, item in enumerate(items):
                is_clicked = item in (clicked or []) and items.index(item) == k
                found.append((f"{row['id']}#{k + 1}", item, k + 1, int(is_clicked), prices[k], None))
            if set(clicked or []) - {None} - set(items):
                found.append((f"{row['id']}#-", None, None, None, None, "clicked: an item that is not in shown"))
    return sorted(found, key=str)


def test_lists_of_displayed_items(spark: SparkSession) -> None:
    """Each displayed item becomes a row; nothing is lost, whatever the lists contain."""
    draw = random.Random(0)
    rows = []
    for k in range(400):
        items = draw.choice([None, [], *([[draw.choice("abcdef") for _ in range(draw.randint(1, 5))]] * 8)])
        clicked = draw.choice([None, [], [draw.choice("abcdefz")], [draw.choice("abcdef") for _ in range(2)], [None]])
        prices = [draw.random() for _ in range(len(items or []) + draw.choice([0] * 9 + [1]))]
        rows.append({"id": f"v{k}", "shown": items, "clicked": clicked, "prices": draw.choice([prices] * 9 + [None])})
    schema = "id string, shown array<string>, clicked array<string>, prices array<double>"
    table = spark.createDataFrame([[r[c] for c in ("id", "shown", "clicked", "prices")] for r in rows], schema)
    explode = {"items": "shown", "clicked": "clicked", "parallel": ["prices"], "position": "slot"}
    found = prepare(table, explode=explode).collect()
    values = [(r.id, r.shown, r.slot, r.clicked, r.prices, r._star_ctr_problem) for r in found]
    assert sorted(values, key=str) == explode_by_hand(rows)
    kept = {r.id.partition("#")[0]: json.loads(r._star_ctr_original) for r in found if r._star_ctr_problem}
    by_id = {r["id"]: r for r in rows}
    assert kept
    assert all(row.get("shown") == by_id[name]["shown"] for name, row in kept.items())


def test_expressions_see_null_markers_as_null(spark: SparkSession) -> None:
    """Other columns keep their text, so that the quarantine shows what the log contains."""
    rows = spark.createDataFrame([("a", "\\N", "NULL"), ("b", "12", "x")], "id string, click_at string, camp string")
    columns = {"clk": "if(click_at IS NULL, 0, 1)", "camp": "coalesce(camp, 'none')"}
    found = prepare(rows, columns=columns, where="click_at IS NOT NULL").collect()
    assert [(r.clk, r.camp, r.click_at, r._star_ctr_excluded) for r in found] == [
        (0, "none", "\\N", True), (1, "x", "12", False),
    ]  # fmt: skip
    assert set(found[0].asDict()) == {"id", "click_at", "camp", "clk", "_star_ctr_excluded"}


def test_lists_and_single_items_in_one_json_file(spark: SparkSession) -> None:
    """Spark then reads the lists as text."""
    rows = spark.createDataFrame(
        [("v1", ["a", "b"], '["b"]'), ("v2", ["a", "b"], "a"), ("v3", ["[x"], "[x"), ("v4", ["a"], None)],
        "id string, s array<string>, c string",
    )
    found = prepare(rows, format="json", explode={"items": "s", "clicked": "c"}).collect()
    assert [(r.id, r.c) for r in found] == [
        ("v1#1", 0), ("v1#2", 1), ("v2#1", 1), ("v2#2", 0), ("v3#1", 1), ("v4#1", 0),
    ]  # fmt: skip
    texts = spark.createDataFrame([('["x", "y"]',), ("z",), ("[promo] w",)], "tags string")
    lists = spark.createDataFrame([(["u"],)], "tags array<string>")
    assert [r.tags for r in union_frames([lists, texts]).collect()] == [["u"], ["x", "y"], ["z"], ["[promo] w"]]


def test_ids_of_pages_are_checked_before_they_are_exploded(spark: SparkSession) -> None:
    rows = spark.createDataFrame(
        [(12.0, ["a"]), (float(2**53), ["a"]), (float(2**53 + 2), ["a"]), (None, ["a", "b"])],
        "id double, s array<string>",
    )
    found = prepare(rows, explode={"items": "s"}).collect()
    assert [(r.id, r.s) for r in found if not r._star_ctr_problem] == [("12#1", "a")]
    assert [r._star_ctr_problem.partition(":")[0] for r in found if r._star_ctr_problem] == ["id"] * 3
    assert "id: missing" in {r._star_ctr_problem for r in found}


def test_lists_in_text_and_a_single_clicked_item(spark: SparkSession) -> None:
    rows = spark.createDataFrame(
        [("v1", "a|b|c", "b"), ("v2", "a", ""), ("v3", "", "a")], "id string, s string, c string"
    )
    found = prepare(rows, explode={"items": "s", "clicked": "c", "separator": "|"}).collect()
    assert sorted((r.id, r.s, r.c) for r in found if r.s) == [
        ("v1#1", "a", 0), ("v1#2", "b", 1), ("v1#3", "c", 0), ("v2#1", "a", 0),
    ]  # fmt: skip
    assert [r._star_ctr_problem for r in found if not r.s] == ["s: no items"]
    spaced = spark.createDataFrame([("v1", " a, b ,NULL", "\\N, b")], "id string, s string, c string")
    found = prepare(spaced, explode={"items": "s", "clicked": "c", "separator": ","}).collect()
    assert [(r.s, r.c, r._star_ctr_problem) for r in found] == [("a", 0, None), ("b", 1, None), ("NULL", 0, None)]
    mixed = spark.createDataFrame([("v1", [3, 5], ["5.0", "3"], 1)], "id string, s array<int>, c array<string>, x int")
    assert {(r.s, r.c) for r in prepare(mixed, explode={"items": "s", "clicked": "c"}, format="csv").collect()} == {
        (3, 1), (5, 1),
    }  # fmt: skip
    single = spark.createDataFrame([("v1", [3, 5], 5)], "id string, s array<int>, c int")
    assert [(r.s, r.c) for r in prepare(single, explode={"items": "s", "clicked": "c"}).collect()] == [(3, 0), (5, 1)]


def test_rows_left_out_are_not_exploded(spark: SparkSession) -> None:
    rows = spark.createDataFrame(
        [("v1", ["a", "b"], True), ("v2", ["a", "b"], False)], "id string, s array<string>, bot boolean"
    )
    found = prepare(rows, explode={"items": "s"}, where="NOT bot").collect()
    assert sorted((r.id, r.s, r._star_ctr_excluded) for r in found) == [
        ("v1#-", None, True), ("v2#1", "a", False), ("v2#2", "b", False),
    ]  # fmt: skip
