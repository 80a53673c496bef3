"""Error messages of invalid settings: they name file, line, key and remedy."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from star_ctr.conf.contracts.run_id import hash_config, make_run_id
from star_ctr.conf.errors import ConfigError
from star_ctr.conf.load import load
from star_ctr.conf.settings.features import Categorical
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAR_CTR_DATA", "/logs")


def problem(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load("kuairand", overrides)
    return str(caught.value)


def test_unknown_key_suggests_the_nearest() -> None:
    assert "trainer.batchsize: unknown key; did you mean `batch_size`?" in problem("trainer.batchsize=3")


def test_invalid_value_is_shown() -> None:
    assert "trainer.optimizer.lr: this must be greater than 0 (got `-1`)" in problem("trainer.optimizer.lr=-1")


def test_error_names_file_and_line(tmp_path: Path) -> None:
    source = Path("conf/demo.yaml").read_text()
    line = next(i for i, text in enumerate(source.splitlines(), 1) if text.startswith("window:"))
    file = tmp_path / "mine.yaml"
    file.write_text(source.replace("window: {days: 3}", "window: {dys: 3}"))
    with pytest.raises(ConfigError, match=rf"mine.yaml:{line}: window.dys: unknown key; did you mean `days`"):
        load(file)


@pytest.mark.parametrize("column", ["is_click", "long_view", "play_time_ms"])
def test_an_outcome_cannot_be_a_feature(column: str) -> None:
    assert "declared an outcome" in problem(f"features.video.column=impressions.{column}")


def test_an_outcome_cannot_be_a_group_or_a_side_of_a_sequence() -> None:
    assert "declared an outcome" in problem("features.by_user.by=[user_id, impressions.is_like]")
    assert "declared an outcome" in problem("features.watched.columns={impressions.long_view: video}")


def test_unknown_kind_of_history_is_named() -> None:
    assert "`clik` is not declared in `history`; did you mean `click`" in problem("features.watched.of=[clik]")


def test_behaviours_with_times_do_not_support_also() -> None:
    message = problem("logs.behaviours.time={column: at, unit: ms}", "logs.behaviours.order=null")
    assert "history.old_long.also: the rows of `logs.behaviours` have times" in message


def test_a_kind_with_less_is_valid_only_in_rates() -> None:
    assert "features.old_user: `over_users` has `less`" in problem("features.old_user.counts=[over_users]")
    assert "features.watched: `over_users` has `less`" in problem("features.watched.of=[over_users]")
    assert "`also`, which is not given" in problem("history.over_users={behaviours: watch, less: user_id}")


def test_label_from_clicks_needs_a_click_log() -> None:
    assert "`logs.clicks` is not declared" in problem("label={window_hours: 24}")


def test_reserved_domain_is_rejected() -> None:
    assert "`overall` is reserved" in problem("domains.known=[overall, '1']")


def test_missing_file_suggests_a_shipped_configuration() -> None:
    with pytest.raises(ConfigError, match="did you mean `kuairand`"):
        load("kuairnd")


def test_missing_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STAR_CTR_DATA")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="export STAR_CTR_DATA"):
        load("kuairand")


def test_overrides_set_values_of_named_features_numbers_and_lists() -> None:
    settings = load("kuairand", ["features.by_user.prior=7", "trainer.optimizer.lr=1e-3", "model.layers=[8, 4]"])
    assert next(f for f in settings.features if f.name == "by_user").prior == 7
    assert settings.trainer.optimizer.lr == 0.001
    assert settings.model.layers == [8, 4]


def test_run_id_depends_on_settings_and_seed_but_not_on_paths() -> None:
    base = load("kuairand")
    assert hash_config(load("kuairand", ["paths.warehouse=/x", "trainer.threads=1"])) == hash_config(base)
    assert hash_config(load("kuairand", ["evaluate.bootstrap_samples=0", "evaluate.level=0.5"])) == hash_config(base)
    assert hash_config(load("kuairand", ["trainer.optimizer.lr=0.5"])) != hash_config(base)
    other_seed = load("kuairand", ["trainer.seed=5"])
    assert make_run_id(other_seed, "2022-05-05") != make_run_id(base, "2022-05-05")
    assert hash_config(other_seed) == hash_config(base)


def test_partitioned_normalization_needs_batches_of_one_domain() -> None:
    assert "set trainer.data.batches to single_domain, or model.norm to bn or ln" in problem(
        "trainer.data.batches=mixed"
    )
    assert "discriminator needs batches of several domains" in problem("model.name=mulann")
    message = problem("trainer.data.batches=mixed", "model.norm=bn", "trainer.parallel=batches")
    assert "trainer.parallel: `batches` needs batches of one domain, not mixed ones" in message


def test_a_misspelled_key_of_a_union_is_the_only_reported_error(tmp_path: Path) -> None:
    text = (ROOT / "conf/demo.yaml").read_text()
    (tmp_path / "x.yaml").write_text(text.replace("window_hours: 24", "window_hour: 24"))
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "x.yaml")
    assert len(str(caught.value).splitlines()) == 1
    assert "did you mean `window_hours`" in str(caught.value)
    (tmp_path / "y.yaml").write_text(text.replace("kind: statistic", "kind: statistics", 1))
    with pytest.raises(ConfigError, match="unknown kind `statistics`; did you mean `statistic`"):
        load(tmp_path / "y.yaml")


def test_times_have_the_zone_of_the_data_set_unless_their_log_declares_another() -> None:
    """A log without a zone must not fall back to UTC if the data set declares a zone."""
    assert load("demo", ["zone=Europe/Berlin"]).logs.impressions.time.zone == "Europe/Berlin"
    other = ["zone=Europe/Berlin", "logs.impressions.time.zone=Asia/Tokyo"]
    assert load("demo", other).logs.impressions.time.zone == "Asia/Tokyo"
    assert load("demo").logs.impressions.time.zone == "UTC"


def test_the_earlier_name_of_a_key_is_accepted_with_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("star_ctr"), "propagate", True)  # commands disable it
    assert load("demo", ["evaluate.replicates=7"]).evaluate.bootstrap_samples == 7
    assert "evaluate.bootstrap_samples" in caplog.text


def test_a_key_that_is_given_twice_is_an_error(tmp_path: Path) -> None:
    text = (ROOT / "conf/demo.yaml").read_text()
    lines = len(text.splitlines())
    (tmp_path / "twice.yaml").write_text(text + "window: {days: 2}\n")
    with pytest.raises(ConfigError, match=f"twice.yaml:{lines + 1}: `window` is given twice"):
        load(tmp_path / "twice.yaml")


@pytest.mark.parametrize("name", ["a[1]", "a%20b", "a^b", "a|b"])
def test_folders_that_delta_tables_do_not_support_are_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"paths.warehouse: Delta tables cannot be in a folder with `.*` in its path"):
        load("demo", [f"paths.warehouse={tmp_path}/{name}/w"])
    assert load("demo", [f"paths.warehouse='{tmp_path}/My Ads (50%) #1+ü?:{{x}}/w'"])


def test_an_earlier_name_of_a_setting_is_accepted() -> None:
    assert load("demo", ["trainer.calibration.earlier_scores=platt"]).trainer.calibration.method == "platt"


def test_one_wrong_zone_is_one_error() -> None:
    assert problem("zone=Europe/Berln").count("is not a time zone") == 1


def test_errors_of_overrides_name_the_override() -> None:
    assert problem("window.days=x") == "--set window.days=x: window.days: this must be a whole number (got `x`)"
    assert problem("features.video.column=impressions.is_click").startswith("--set features.video.column=")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.layers=3", "model.layers: this must be a list, such as [a, b] (got `3`)"),
        ("trainer.device=gpu", "trainer.device: this must be one of `auto`, `cpu` or `cuda`; did you mean `cpu`?"),
        ("logs.impressions=3", "logs.impressions: this must be a mapping of settings"),
        ("checks.max_quarantined=2", "checks.max_quarantined: this must be at most 1 (got `2`)"),
        ("features=[]", "features: this list needs at least 1 item(s)"),
        ("trainer.warm_start=true", "trainer.warm_start: this must be `previous`, `accepted` or a run_id"),
        ("trainer.warm_start=last", "or a run_id of the table `runs` (got `last`)"),
        (
            "label.also=[order]",
            "label.also: this must map each outcome to the weight of its loss or to a section, such as {long_view: 0.3}",
        ),
        (
            "features=[{name: v, kind: vector, column: items.v, length: 2, encode: [missing]}]",
            "features.v.encode: unknown key (known keys: column, dim, kind, length, name, separator)",
        ),
        (
            "features=[{name: v, kind: numeric, column: items.v, encode: [flag]}]",
            "this must be one of `standard`, `bucket` or `missing`",
        ),
        ("logs.impressions.time.earliest=abc", "this must be a date, such as 2022-05-05 (got `abc`)"),
    ],
)
def test_messages_say_what_a_value_must_be(override: str, message: str) -> None:
    assert message in problem(override)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"name: x\n\tpaths: y\n",
            "bad.yaml:2: not valid YAML: found character '\\t' that cannot start any token; indent",
        ),
        (b"name: [a\n", "bad.yaml:2: not valid YAML: "),
        (b"name: caf\xe9\n", "bad.yaml: the file is not UTF-8 text; save it as UTF-8"),
        (b"- a\n", "bad.yaml: the top level must be a mapping of settings"),
        (b"", "bad.yaml: the top level must be a mapping of settings"),
    ],
)
def test_files_that_are_not_yaml(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "bad.yaml")
    assert str(caught.value).startswith(f"{tmp_path}/{message}")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("columns", "feature", "message"),
    [
        ("{x: 'is_click + 1'}", "x", "declared an outcome"),
        ("{x: 'to_json(struct(`long_view`))'}", "x", "declared an outcome"),
        ("{is_click: 'event = 2'}", "event", "is used to compute the label or an outcome"),
        ("{is_click: 'event.kind = 2'}", "event", "is used to compute the label or an outcome"),
        ("{x: \"concat(note, 'is_click')\"}", "x", ""),
        ("{is_click: 'event = 2', copied: event}", "copied", ""),
    ],
)
def test_columns_that_carry_the_label_cannot_be_features(columns: str, feature: str, message: str) -> None:
    overrides = [f"logs.impressions.columns={columns}", f"features.video.column=impressions.{feature}"]
    if message:
        assert message in problem(*overrides)
    else:
        load("kuairand", overrides)


@pytest.mark.parametrize(
    ("columns", "role"),
    [
        ("{}", "domain=is_click"),
        ("{page: \"if(`is_click` = 1, 'a', 'b')\"}", "domain=page"),
        ('{page: "concat(tab, long_view)"}', "domain=page"),
        ("{at: 'time_ms + is_click'}", "time.column=at"),
        ("{who: 'user_id + is_click'}", "user=who"),
        ("{what: 'video_id + is_click'}", "item=what"),
        ("{day: 'concat(date, is_click)'}", "day.column=day"),
    ],
)
def test_keys_domains_and_times_cannot_carry_the_label(columns: str, role: str) -> None:
    found = problem(f"logs.impressions.columns={columns}", f"logs.impressions.{role}")
    key, _, column = role.partition("=")
    assert f"logs.impressions.{key}: `{column}` is an outcome, or computed from one" in found


def test_the_domain_cannot_be_a_column_that_the_label_is_computed_from() -> None:
    columns = "logs.impressions.columns={is_click: \"if(action = 'click', 1, 0)\", place: action}"
    assert "logs.impressions.domain: `action` is used to compute the label" in problem(
        columns, "logs.impressions.domain=action"
    )
    load("kuairand", [columns, "logs.impressions.domain=place"])
    load("kuairand", ["logs.impressions.columns={is_click: 'time_ms % 2'}"])


def test_all_sources_of_an_attribute_log_have_days_or_none() -> None:
    sources = "logs.users.sources={a: {path: 'a/{ds}.csv'}, b: {path: 'b.csv'}}"
    log = ["logs.users.path=", "logs.users.day="]
    assert "sources.b: the path contains no day, but the paths of other sources do" in problem(*log, sources)
    load("kuairand", [*log, sources.replace("b.csv", "b/{ds}.csv")])
    load("kuairand", [*log, sources, "logs.users.day={column: day}"])


def test_a_struct_that_contains_an_outcome_cannot_be_a_feature() -> None:
    overrides = ["logs.impressions.outcomes=[event.dwell]", "features.video.column=impressions.event", "history={}"]
    assert "`impressions.event` is declared an outcome" in problem(*overrides)


def test_the_clicked_list_cannot_be_a_feature() -> None:
    explode = "logs.impressions.explode={items: shown, clicked: chosen}"
    assert "`impressions.chosen` is declared an outcome" in problem(explode, "features.video.column=impressions.chosen")


@pytest.mark.parametrize(
    ("embedding", "words"),
    [
        ("{encode: hash}", "`encode: hash` needs `rows`"),
        ("{encode: hash, rows: 9, min_count: 2}", "`min_count` has no effect with `encode: hash`; remove it"),
        ("{rows: 9}", "`rows` needs `encode: hash`"),
    ],
)
def test_settings_of_hashed_embeddings(embedding: str, words: str) -> None:
    assert words in problem(f"model.embeddings={{user: {embedding}}}")


def test_a_hashed_embedding_is_used() -> None:
    name = next(f.embedding or f.name for f in load("kuairand").select_features(Categorical))
    load("kuairand", [f"model.embeddings={{{name}: {{encode: hash, rows: 9}}}}"])
    message = problem(f"model.embeddings={{{name}s: {{encode: hash, rows: 9}}}}")
    assert f"model.embeddings.{name}s: no categorical feature or sequence uses this embedding; did you mean" in message


def test_a_cross_has_two_columns_of_single_values() -> None:
    assert load("kuairand", ["features.hour.column=[items.tag, domain]"]).features
    assert "features.hour.column: this list needs at least 2 item(s)" in problem("features.hour.column=[item_id]")
    assert "`column` lists a column twice" in problem("features.hour.column=[item_id, item_id]")
    several = problem("features.hour.column=[items.tag, domain]", "features.hour.separator=x")
    assert "`multiple` and `separator` need a single `column`" in several
    assert "is declared an outcome" in problem("features.hour.column=[item_id, impressions.is_like]")
    message = problem("features.hour.column=[item_id, itms.tag]")
    assert len(message.splitlines()) == 1
    assert "features.hour.column.1: `itms.tag` is not a column" in message


def test_a_number_is_not_categorical() -> None:
    message = problem("features.hour.column=[impressions.duration_ms, domain]")
    assert "features.hour: `impressions.duration_ms` is read as a number, because features." in message


def test_values_expire_only_if_no_training_row_can_have_them() -> None:
    load("kuairand", ["model.embeddings={tag: {expire_days: 30}}", "split.vocabulary=grown", "window.days=30"])
    assert "set split.vocabulary to grown" in problem("model.embeddings={tag: {expire_days: 30}}")
    message = problem("model.embeddings={tag: {expire_days: 3}}", "split.vocabulary=grown", "window.days=4")
    assert "model.embeddings.tag.expire_days: 3 is less than window.days (4)" in message
    hashed = "model.embeddings={tag: {encode: hash, rows: 9, expire_days: 30}}"
    assert "`expire_days` has no effect with `encode: hash`" in problem(hashed, "split.vocabulary=grown")
