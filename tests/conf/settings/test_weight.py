"""The weight of impressions: it cannot be a feature, and settings without one keep their hashes."""

from __future__ import annotations

import pytest

from star_ctr.conf.contracts.run_id import (
    hash_config,
    hash_features_settings,
    hash_history_settings,
    hash_ingest_settings,
    hash_label_settings,
    hash_log_settings,
    hash_split_settings,
)
from star_ctr.conf.errors import ConfigError
from star_ctr.conf.load import load
from star_ctr.features.encoding.scoring_rows import _drop_outcomes


def problem(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load("kuairand", list(overrides))
    return str(caught.value)


@pytest.mark.parametrize(
    ("weight", "columns", "feature", "message"),
    [
        ("w", "{}", "w", "is the weight (logs.impressions.weight)"),
        ("w", "{w: 'duration / 2', x: 'w + 1'}", "x", "declared an outcome"),
        ("w", "{w: 'dwell / 2'}", "dwell", "is used to compute the weight"),
        ("long_view", "{}", "long_view", "declared an outcome"),
        ("w", "{w: 'slot / 2', copied: slot}", "copied", ""),
        ("w", "{w: raw, copied: raw}", "copied", ""),
    ],
)
def test_a_weight_cannot_be_a_feature(weight: str, columns: str, feature: str, message: str) -> None:
    overrides = [
        f"logs.impressions.weight={weight}",
        f"logs.impressions.columns={columns}",
        f"features.video.column=impressions.{feature}",
    ]
    if message:
        assert message in problem(*overrides)
    else:
        load("kuairand", overrides)


def test_a_domain_cannot_be_computed_from_the_weight_but_the_weight_from_the_domain() -> None:
    columns = "logs.impressions.columns={w: \"if(tab = '1', 2, 1)\"}"
    load("kuairand", [columns, "logs.impressions.weight=w"])
    found = problem("logs.impressions.weight=w", "logs.impressions.columns={page: w}", "logs.impressions.domain=page")
    assert "logs.impressions.domain: `page` is an outcome, or computed from one" in found


@pytest.mark.parametrize("column", ["is_click", "user_id", "video_id", "tab", "time_ms", "date"])
def test_a_weight_needs_a_column_without_another_role(column: str) -> None:
    found = problem(f"logs.impressions.weight={column}", "logs.impressions.day.column=date")
    assert f"logs.impressions.weight: `{column}` is also " in found
    assert "copy it under another name in logs.impressions.columns" in found
    assert "may contain the label" not in found


def test_scoring_needs_no_weight() -> None:
    weighted = load("kuairand", ["logs.impressions.weight=w", "logs.impressions.columns={w: 'slot / 2'}"])
    log = _drop_outcomes(weighted, ["user_id", "slot"]).logs.impressions
    assert (log.weight, log.columns) == (None, {})


def test_only_the_hashes_of_what_a_weight_changes_depend_on_it() -> None:
    plain, weighted = load("kuairand"), load("kuairand", ["logs.impressions.weight=w"])
    assert "weight" not in plain.model_dump()["logs"]["impressions"]
    assert type(plain).model_validate(weighted.model_dump(mode="json")) == weighted
    for get_hash in (hash_config, hash_ingest_settings, hash_split_settings):
        assert get_hash(plain) != get_hash(weighted)
    for get_hash in (hash_features_settings, hash_history_settings, hash_label_settings):
        assert get_hash(plain) == get_hash(weighted)
    assert hash_log_settings(plain, "impressions") != hash_log_settings(weighted, "impressions")
    assert hash_log_settings(plain, "items") == hash_log_settings(weighted, "items")
