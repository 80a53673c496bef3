"""The rule chooses valid settings for any size of data, and the paper's network and batch size for a billion rows."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from star_ctr.conf.load import load
from star_ctr.conf.recipe import TrainingSize, fill_unset
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.registry.recipes import estimate_training_size
from star_ctr.model.recipe_rule import choose_settings


def make_settings(rows: int, clicks: int, domains: int) -> Settings:
    settings = load("demo", ["preset=auto", "model={}", "trainer={}"], with_recipe=False)
    return fill_unset(
        settings, choose_settings(TrainingSize(rows=rows, clicks=clicks, domains=domains, used_rows=rows))
    )


@settings(deadline=None)  # loading settings takes long on a busy machine
@given(rows=st.integers(1, 10**11), share=st.floats(0, 1), domains=st.integers(1, 2000), more=st.integers(1, 10**11))
def test_settings_are_valid_and_batches_grow_with_the_rows(rows: int, share: float, domains: int, more: int) -> None:
    settings = make_settings(rows, int(rows * share), domains)
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings
    assert 32 <= settings.trainer.batch_size <= 2000
    sizes = [TrainingSize(rows=n, clicks=0, domains=domains, used_rows=n) for n in (rows, rows + more)]
    batch_sizes = [choose_settings(size)["trainer.batch_size"] for size in sizes]
    assert batch_sizes == sorted(batch_sizes)
    assert settings.trainer.optimizer.lr <= (settings.trainer.optimizer.domain_lr or 1) <= 0.02 or share >= 0.15


def test_settings_for_known_sizes() -> None:
    small, large = make_settings(450_000, 14_500, 19), make_settings(2 * 10**9, 4 * 10**7, 200)
    assert (small.model.layers, small.trainer.batch_size, small.trainer.epochs) == ([128, 64], 128, 1)
    assert small.trainer.optimizer.domain_lr == 0.019
    assert (large.model.layers, large.trainer.batch_size) == ([512, 256, 128, 64, 32, 16], 2000)
    clicked = make_settings(56_000, 19_000, 8)
    assert (clicked.trainer.epochs, clicked.model.dropout, clicked.trainer.optimizer.embedding_lr) == (2, 0.2, 0.0003)


def test_few_rows_are_trained_with_small_batches_for_three_epochs() -> None:
    for rows, batch_size, epochs in ((1, 32, 3), (10_000, 32, 3), (15_000, 64, 3), (31_999, 128, 3), (32_000, 128, 1)):
        trainer = make_settings(rows, rows // 30, 19).trainer
        assert (trainer.batch_size, trainer.epochs) == (batch_size, epochs)
        assert trainer.optimizer.embedding_lr == (0.0002 if epochs == 3 else None)
    frequent = make_settings(15_000, 4_000, 19).trainer
    assert (frequent.batch_size, frequent.epochs, frequent.optimizer.embedding_lr) == (128, 2, 0.0003)
    sampled = TrainingSize(rows=10**6, clicks=20_000, domains=3, used_rows=29_000)
    assert "trainer.epochs" not in choose_settings(sampled), "few rows after downsampling are not few clicks"


def test_downsampling_counts_for_sizes_but_not_for_the_click_rate() -> None:
    size = TrainingSize(rows=600_000_000, clicks=6_000_000, domains=3, used_rows=12_000_000)
    chosen = choose_settings(size)
    assert chosen["trainer.batch_size"] == 256
    assert "trainer.epochs" not in choose_settings(size.model_copy(update={"used_rows": 12_000_00}))


def test_check_estimates_the_size_from_whole_days() -> None:
    settings = load("demo", ["window.days=7"], with_recipe=False)
    domains = [{"domain": "a", "rows": 60, "click rate": None}, {"domain": "b", "rows": 20, "click rate": None}]
    impressions = {
        "log": "impressions", "days": ["2026-01-05", "2026-01-06"], "rows": 81, "is_whole": True, "domains": domains,
        "training_share": 1.0,
    }  # fmt: skip
    clicks = {"log": "clicks", "days": ["2026-01-06"], "rows": 4, "is_whole": True, "domains": []}
    found = estimate_training_size(settings, [impressions, clicks])
    assert found == TrainingSize(rows=280, clicks=28, domains=2, used_rows=280)
    for reports in ([{**impressions, "is_whole": False}, clicks], [impressions, {**clicks, "is_whole": False}]):
        assert estimate_training_size(settings, reports) is None
    half = {**impressions, "training_share": 0.5}
    assert estimate_training_size(settings, [half, clicks]) == TrainingSize(
        rows=140, clicks=14, domains=2, used_rows=140
    )
    labelled = {**impressions, "domains": [{**row, "click rate": 0.25} for row in domains]}
    sampled = load("demo", ["window.days=7", "trainer.negatives={a: 0.1}"], with_recipe=False)
    expected = TrainingSize(rows=280, clicks=70, domains=2, used_rows=70 + round(0.1 * 157.5 + 52.5))
    assert estimate_training_size(sampled, [labelled]) == expected
