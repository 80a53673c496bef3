"""Derived names are unique: settings with a collision are rejected with one message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from star_ctr.conf.errors import ConfigError
from star_ctr.conf.load import load
from tests.conftest import ROOT

DEMO = ROOT / "conf/demo.yaml"


def lines_of(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> list[str]:
    """Return the errors of the demo settings after applying `change`."""
    data = yaml.safe_load(DEMO.read_text())
    change(data)
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(data))
    try:
        load(tmp_path / "x.yaml")
    except ConfigError as error:
        return str(error).splitlines()
    return []


def adding(*features: dict[str, Any], **history: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        data["features"] += features
        data["history"] |= history

    return change


def statistic(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "statistic", "by": ["user_id"], **more}


def categorical(name: str, column: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "categorical", "column": column, **more}


NUMERIC = {"kind": "numeric", "column": "items.price"}
SHOWN = {"impressions": True}
CLASHES = {
    "two columns": ([categorical("x", "items.a.b"), categorical("y", "items.a_b")], {}, "column of `features` `items_a_b`"),
    "columns that differ only in case": ([categorical("x", "items.Tag"), categorical("y", "items.tag")], {}, "`items_tag`"),
    "a count and a time": ([statistic("s", counts=["since_x"], since=["x"])], {"x": SHOWN, "since_x": SHOWN}, "`s__since_x`"),
    "two statistics": (
        [statistic("a__b", counts=["c"]), statistic("a", counts=["b__c"])], {"c": SHOWN, "b__c": SHOWN}, "`a__b__c`",
    ),
    "a count and a rate": (
        [statistic("s", counts=["rate_click"], rates={"click": "shown"})], {"rate_click": SHOWN}, "number `s__rate_click`",
    ),
    "a number and a rate": ([NUMERIC | {"name": "by_item__rate_click"}], {}, "number `by_item__rate_click`"),
    "a number and a vector": (
        [NUMERIC | {"name": "x__missing"}, {"name": "x", "kind": "vector", "column": "items.x", "length": 3}], {},
        "number `x__missing`",
    ),
    "a number and a missing-value flag": (
        [NUMERIC | {"name": "p", "encode": ["missing"]}, NUMERIC | {"name": "p__missing"}], {}, "number `p__missing`",
    ),
    "an embedding and buckets": ([categorical("price__bucket", "items.shop")], {}, "embedding table `price__bucket`"),
    "the gaps of sequences": ([categorical("gap", "items.gap")], {}, "embedding table `gap`"),
    "the kinds of events": ([categorical("x", "items.a", embedding="behaviour")], {}, "embedding table `behaviour`"),
    "a column and a gap": (
        [
            {"name": "s", "kind": "sequence", "of": ["click"], "columns": {"items.x": "x", "items._gap": "y"}},
            {"name": "s__items", "kind": "sequence", "of": ["click"], "columns": {"items.x": "x"}},
        ],
        {},
        "`s__items__gap`",
    ),
    "kinds that differ only in case": ([], {"Click": SHOWN}, "only in case"),
    "a kind with a dot": ([], {"a.b": SHOWN}, "`a.b`: a name may only have letters, digits, `_` and `-`; rename it"),
}  # fmt: skip


@pytest.mark.parametrize("case", CLASHES)
def test_colliding_names_are_rejected(tmp_path: Path, case: str) -> None:
    features, history, message = CLASHES[case]
    lines = lines_of(tmp_path, adding(*features, **history))
    assert len(lines) == 1, lines
    assert message in lines[0]
    assert "rename" in lines[0]


def test_similar_names_are_accepted(tmp_path: Path) -> None:
    odd = ["x_max", "x_sum", "__first", "since_", "rate", "gap", "behaviour", "a-b"]
    features = [
        statistic("s", counts=odd, since=odd, rates=dict.fromkeys(odd, "shown")),
        categorical("label", "items.label"),
        categorical("ts", "items.ts"),
        categorical("domain", "domain"),
        categorical("again", "domain"),
        NUMERIC | {"name": "price_log", "log": True, "encode": ["standard", "bucket"]},
        categorical("type", "items.type"),
    ]
    assert lines_of(tmp_path, adding(*features, **dict.fromkeys(odd, SHOWN))) == []


def test_an_outcome_name_may_contain_a_dot(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["logs"]["impressions"]["outcomes"] = ["after.click"]
        data["features"].append(categorical("x", "impressions.after.click"))

    (line,) = lines_of(tmp_path, change)
    assert "`impressions.after.click` is declared an outcome" in line
