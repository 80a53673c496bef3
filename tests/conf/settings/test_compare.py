"""The runs of a comparison, and the overrides that define each of its models."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from star_ctr.conf.contracts.run_id import format_variant, hash_config, hash_split_settings
from star_ctr.conf.errors import ConfigError
from star_ctr.conf.load import load
from star_ctr.conf.settings.compare import PREDEFINED_MODELS, Comparison, Plan


def test_overrides_define_every_model_of_the_paper_on_the_same_split() -> None:
    comparison = Comparison()
    split = hash_split_settings(load("demo"))
    variants = {}
    for model in [*PREDEFINED_MODELS, *(f"{m}_noaux" for m in PREDEFINED_MODELS)]:
        settings = load("demo", comparison.list_overrides(model))
        variants[model] = (format_variant(settings), hash_config(settings))
        assert hash_split_settings(settings) == split
    assert len(set(variants.values())) == len(variants)
    assert variants["star"][0] == "star-pn-aux"
    assert variants["star_bn_noaux"][0] == "star-bn-noaux-mixed"


def test_settings_apply_to_variants_of_a_model_and_its_overrides_take_precedence() -> None:
    comparison = Comparison.model_validate(
        {
            "settings": {"base": {"trainer.optimizer.lr": 0.01, "model.dropout": 0.3}},
            "models": {
                "din": {"model.name": "base", "model.norm": "bn", "model.pooling": "din", "trainer.optimizer.lr": 0.5}
            },
            "plans": [{"models": ["din", "base_pn_noaux", "star"]}],
        }
    )
    assert comparison.list_overrides("base_pn_noaux")[:2] == ["trainer.optimizer.lr=0.01", "model.dropout=0.3"]
    assert "model.aux=false" in comparison.list_overrides("base_pn_noaux")
    assert "trainer.optimizer.lr=0.5" in comparison.list_overrides("din")
    assert "trainer.optimizer.lr=0.01" not in comparison.list_overrides("din")
    assert not any("lr" in o for o in comparison.list_overrides("star"))
    settings = load("demo", ["compare.settings={star: {trainer.optimizer.lr: 0.5}}"])
    assert hash_config(settings) == hash_config(load("demo"))  # comparison settings do not change a model


def test_each_run_is_listed_once_and_first_seeds_come_first() -> None:
    plans = [
        Plan(models=["base", "star"], nights=["2026-01-01", "2026-01-02"], seeds=2),
        Plan(models=["star", "mmoe"], nights=["2026-01-02"], seeds=1),
    ]
    runs = list(Comparison(plans=plans).iter_runs())
    assert len(runs) == len(set(runs)) == 9
    assert [seed for _, _, seed in runs] == [0] * 5 + [1] * 4


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"plans": [{"models": ["stra"]}]}, "did you mean `star`"),
        ({"settings": {"mmo": {}}}, "did you mean `mmoe`"),
        ({"models": {"x": {"model.embeddings": {}}}}, "cannot differ between training runs"),
        ({"models": {"x": {"features": []}}}, "`features` cannot differ"),
        ({"plans": [{"nights": ["yesterday"]}]}, "is not a date"),
        ({"models": {"x_noaux": {"model.dim": 4}}}, "x_noaux: the suffix _noaux is reserved for a model"),
    ],
)
def test_invalid_comparisons_are_rejected(value: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Comparison.model_validate(value)


def test_attention_requires_a_feature_that_shares_an_embedding_with_the_events() -> None:
    load("demo", ["model.pooling=din"])
    with pytest.raises(ConfigError, match="no categorical feature shares an embedding"):
        load("kuairand", ["model.pooling=din", "features.video.embedding=other", "features.tag.embedding=another"])
