"""Compatibility of a run with the rows of a split that training continues on."""

from __future__ import annotations

import pytest

from star_ctr.conf.contracts.compatibility import (
    check_fitted,
    check_model,
    check_split,
    dump_number_encodings,
    list_number_changes,
)
from star_ctr.conf.contracts.encoded_row import (
    BucketField,
    IdField,
    Layout,
    NumericField,
    NumericSource,
    SequenceField,
    VectorField,
)
from star_ctr.conf.errors import UserError
from star_ctr.conf.settings.model import EmbeddingSettings, ModelSettings

RATE = NumericSource(column="clicks", denominator="views", prior=5, base=0.2)
BEFORE = Layout(
    ds="2026-01-02",
    domains=["a"],
    embeddings={"user": 9},
    categorical=[IdField(name="user", column="u", embedding="user")],
    buckets=[
        BucketField(name="x__bucket", source=NumericSource(column="x"), bounds=[1.0, 2.0]),
        BucketField(name="empty__bucket", source=NumericSource(column="e")),
    ],
    numeric=[
        NumericField(name="rate", source=RATE, mean=0.2, std=0.1),
        NumericField(name="still", source=NumericSource(column="s"), mean=3.0, std=0.0),
    ],
    sequences=[],
)


def other(**parts: object) -> Layout:
    return BEFORE.model_copy(update={"ds": "2026-01-03", **parts})


def test_days_domains_and_vocabularies_may_differ() -> None:
    check_split("last", BEFORE, other(domains=["a", "b"], embeddings={"user": 12}))


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        (
            ["user"],
            ["user"],
            "the embedding `user` has 7 hashed rows in last but 10 hashed rows in the split of 2026-01-03",
        ),
        ([], ["user"], "has a vocabulary in last but 10 hashed rows in"),
        (["user"], [], "has 7 hashed rows in last but a vocabulary in"),
    ],
)
def test_hashed_rows_keep_their_number(before: list[str], now: list[str], words: str) -> None:
    earlier, current = other(hashed=before), other(hashed=now, embeddings={"user": 12})
    for check in (check_split, check_fitted):
        with pytest.raises(UserError, match=words):
            check("last", earlier, current)
    check_split("last", earlier, earlier)


def test_a_constant_number_may_be_fitted_later() -> None:
    numeric = [BEFORE.numeric[0], BEFORE.numeric[1].model_copy(update={"mean": 4.0, "std": 2.0})]
    buckets = [BEFORE.buckets[0], BEFORE.buckets[1].model_copy(update={"bounds": [5.0]})]
    later = other(numeric=numeric, buckets=buckets)
    check_split("last", BEFORE, later)
    check_fitted("last", BEFORE, later)
    assert dump_number_encodings(BEFORE).keys() == {"rate", "x__bucket"}
    assert list_number_changes(later, BEFORE), "but not vice versa"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"numeric": [BEFORE.numeric[0].model_copy(update={"mean": 0.25}), BEFORE.numeric[1]]}, "rate.mean: 0.2 -> 0.25"),
        ({"numeric": [BEFORE.numeric[0].model_copy(update={"std": 0.0}), BEFORE.numeric[1]]}, "rate.std: 0.1 -> 0.0"),
        (
            {
                "numeric": [
                    BEFORE.numeric[0].model_copy(update={"source": RATE.model_copy(update={"base": 0.3})}),
                    BEFORE.numeric[1],
                ]
            },
            "rate.source.base: 0.2 -> 0.3",
        ),
        (
            {"buckets": [BEFORE.buckets[0].model_copy(update={"bounds": [1.0, 3.0]}), BEFORE.buckets[1]]},
            "x__bucket.bounds: [1.0, 2.0] -> [1.0, 3.0]",
        ),
    ],
)  # fmt: skip
def test_a_different_encoding_requires_a_new_split(changed: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as error:
        check_split("last", BEFORE, other(**changed))
    assert words in str(error.value)
    assert "the split of 2026-01-03 does not encode numbers like last" in str(error.value)
    assert "star-ctr split --ds 2026-01-03" in str(error.value)
    with pytest.raises(
        UserError, match="trainer.warm_start: last was trained with different features.*set trainer.warm_sta"
    ):
        check_fitted("last", BEFORE, other(**changed))


def test_different_features_require_a_different_run() -> None:
    for check in (check_split, check_fitted):
        with pytest.raises(
            UserError, match="last was trained with different features.*numbers.*set trainer.warm_start"
        ):
            check("last", BEFORE, other(numeric=BEFORE.numeric[:1]))


SEEN = SequenceField(name="seen", length=3, separator=",", sides=[IdField(name="item", column="s", embedding="item")])
WITH_SEQUENCE = BEFORE.model_copy(update={"sequences": [SEEN]})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"categorical": [IdField(name="user", column="v", embedding="user")]}, "ids.user.column: u -> v"),
        ({"categorical": [IdField(name="user", column="u", embedding="item")]}, "ids.user.embedding: user -> item"),
        ({"sequences": [SEEN.model_copy(update={"separator": "|"})]}, "sequences.seen.separator: , -> |"),
        ({"sequences": [SEEN.model_copy(update={"separator": None})]}, "sequences.seen.separator: , -> None"),
        ({"sequences": [SEEN.model_copy(update={"length": 4})]}, "sequences.seen.length: 3 -> 4"),
        (
            {"sequences": [SEEN.model_copy(update={"sides": [SEEN.sides[0].model_copy(update={"column": "t"})]})]},
            "sequences.seen.sides.0.column: s -> t",
        ),
        (
            {"sequences": [SEEN.model_copy(update={"sides": [*SEEN.sides, *SEEN.sides]})]},
            "sequences.seen.sides.1: None -> ",
        ),
        ({"numeric": BEFORE.numeric[::-1]}, "numbers: ['rate', 'still'] -> ['still', 'rate']"),
    ],
)  # fmt: skip
def test_a_feature_with_the_same_name_but_another_definition_is_rejected(
    changed: dict[str, object], words: str
) -> None:
    now = WITH_SEQUENCE.model_copy(update={"ds": "2026-01-03", **changed})
    for check in (check_split, check_fitted):
        with pytest.raises(UserError) as error:
            check("last", WITH_SEQUENCE, now)
        assert words in str(error.value)
        assert "last was trained with different features" in str(error.value)


OTHER_VALUES = {
    "name": "base", "norm": "bn", "combine": "sum", "experts": 3, "levels": 3, "gate_width": 8, "aux": False,
    "aux_width": 8, "domain_dim": 4, "pooling": "din", "attention_width": 8, "layers": [8], "activation": "silu",
    "norm_eps": 0.1,
}  # fmt: skip
SAFE_VALUES = {
    "domain_spread": 0.5, "adversarial": 0.5, "interest_loss": 0.5, "dim": 8, "dropout": 0.5, "norm_momentum": 0.5,
    "embeddings": {"user": EmbeddingSettings(min_count=3)},
}  # fmt: skip


def test_each_setting_of_a_model_must_be_the_same_unless_it_is_safe_to_change() -> None:
    before = ModelSettings()
    assert OTHER_VALUES.keys() | SAFE_VALUES.keys() == ModelSettings.model_fields.keys(), "a new setting: is it safe?"
    check_model("last", before, before.model_copy(update=SAFE_VALUES))
    for name, value in OTHER_VALUES.items():
        with pytest.raises(UserError) as error:
            check_model("last", before, before.model_copy(update={name: value}))
        assert f"model.{name}: {getattr(before, name)} -> {value}; change them back, or set trainer" in str(error.value)


VECTOR = VectorField(name="image", column="i", length=3, dim=2, mean=[1.0, 2.0, 3.0], scale=0.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean": [1.0, 2.0, 4.0]}, r"image.hash of mean: [0-9a-f]{16} -> [0-9a-f]{16}; "),
        ({"scale": 0.25}, r"image.scale: 0.5 -> 0.25; "),
        ({"length": 4}, r"vectors.image.length: 3 -> 4; "),
        ({"dim": 3}, r"vectors.image.dim: 2 -> 3; "),
        ({"name": "picture"}, r"vectors: \['image'\] -> \['picture'\]; "),
    ],
)
def test_vectors_keep_their_length_and_scale(changes: dict[str, object], words: str) -> None:
    before, now = other(vectors=[VECTOR]), other(vectors=[VECTOR.model_copy(update=changes)])
    check_fitted("last", before, before)
    for check in (check_split, check_fitted):
        with pytest.raises(UserError, match=words):
            check("last", before, now)
    constant = other(vectors=[VECTOR.model_copy(update={"scale": 0.0})])
    if changes.keys() & {"mean", "scale"}:
        check_fitted("last", constant, now)
