"""A warm start (§4.4): what is known comes over by value and by name, what is new starts as it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from deltalake import write_deltalake

from star_ctr.conf.errors import UserError
from star_ctr.conf.settings.trainer import DistributedSettings
from star_ctr.model.train import launch
from star_ctr.model.training import trainer_state
from star_ctr.model.training.callbacks import Callback, CallbackEvent
from star_ctr.model.training.ema import compute_averages
from star_ctr.model.training.job import TrainingJob, WarmStart
from star_ctr.model.training.run import train
from star_ctr.model.training.trainer import Trainer
from star_ctr.model.training.warm_start import start_from_run
from tests.model.synthetic import LAYOUT, job, record, same_weights, version_of, write_split

BEFORE = {"user": [f"u{i}" for i in range(48)], "item": [f"i{i}" for i in range(28)]}
NOW = {
    "user": [*[f"u{i}" for i in range(47, 9, -1)], *[f"new{i}" for i in range(20)]],
    "item": [*BEFORE["item"], "i99"],
}
"""Ten users are left out, the others stand in another order; users and an item are new."""
NEXT = LAYOUT.model_copy(
    update={"domains": ["c", "a", "d"], "embeddings": {name: 2 + len(values) for name, values in NOW.items()}}
)
"""The domain b is left out, d is new, and the others have other numbers."""


def vocabularies(values: dict[str, list[str]]) -> pa.Table:
    """Vocabularies as the split's step writes them."""
    rows = [(name, v, i + 2) for name, vs in values.items() for i, v in enumerate(vs)]
    embedding, value, ids = (list(x) for x in zip(*rows, strict=True))
    return pa.table(
        {"embedding": embedding, "value": value, "id": pa.array(ids, pa.int32()), "ds": [LAYOUT.ds] * len(rows)}
    )


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    """Last night's run."""
    folder = tmp_path_factory.mktemp("before")
    j = job(write_split(folder), folder / "run")
    j = j.model_copy(update={"run_id": "last", "settings": {"history": {}, "model": j.model.model_dump(mode="json")}})
    train(j)
    (j.path / "vocabularies").mkdir()
    pq.write_table(vocabularies(BEFORE).drop_columns("ds"), j.path / "vocabularies" / "part-0.parquet")
    return j


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The next night's split and vocabularies."""
    folder = tmp_path_factory.mktemp("now")
    write_split(folder, {"a": 300, "c": 80, "d": 70}, layout=NEXT)
    write_split(folder, {"a": 20}, part="test", layout=NEXT)
    write_deltalake(str(folder / "vocabularies"), vocabularies(NOW))
    return folder


def now(before: TrainingJob, split: Path, folder: Path, **trainer: object) -> TrainingJob:
    """A job that starts from last night's run."""
    j = job(str(split / "split"), folder, **trainer)
    return j.model_copy(
        update={
            "versions": {"split": version_of(str(split / "split")), "vocabularies": 0},
            "vocabularies": str(split / "vocabularies"),
            "layout": NEXT,
            "settings": {"history": {}},
            "start": WarmStart(run_id=before.run_id, folder=before.folder, weights="w"),
        }
    )


def resumed(j: TrainingJob) -> Trainer:
    """A trainer where a finished training left off."""
    trainer = Trainer(j)
    assert trainer_state.resume(trainer)
    return trainer


def started(j: TrainingJob) -> tuple[Trainer, dict[str, Any]]:
    trainer = Trainer(j)
    return trainer, start_from_run(trainer)


def averages_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Return the weights that a trainer would export now."""
    return compute_averages(trainer.model.state_dict(), dict(trainer.ema.state_dict()), trainer.ema.decay)


def id_now(name: str, then: int) -> int:
    return NOW[name].index(BEFORE[name][then - 2]) + 2


def test_no_prediction_of_a_domain_that_stays_changes_by_a_bit(
    before: TrainingJob, split: Path, tmp_path: Path
) -> None:
    earlier, (trainer, report) = resumed(before), started(now(before, split, tmp_path))
    rng = np.random.default_rng(0)
    users, items = rng.integers(12, 50, 200), rng.integers(2, 30, 200)
    seen = rng.integers(2, 30, (200, 4)) * (rng.random((200, 4)) < 0.5)
    lengths = (seen > 0).sum(1)
    floats = torch.from_numpy(rng.normal(size=(200, 1)).astype(np.float32))
    then = np.column_stack([users, items, lengths, seen]).astype(np.int32)
    same = np.column_stack(
        [
            [id_now("user", u) for u in users], [id_now("item", i) for i in items], lengths,
            [[i and id_now("item", i) for i in row] for row in seen],
        ]
    ).astype(np.int32)  # fmt: skip
    earlier.model.eval(), trainer.model.eval()
    for name in ("a", "c"):
        domain_then, domain_now = LAYOUT.domain_index.get_number(name), NEXT.domain_index.get_number(name)
        a = earlier.model.predict(torch.from_numpy(then), floats, torch.full((200,), domain_then))
        b = trainer.model.predict(torch.from_numpy(same), floats, torch.full((200,), domain_now))
        assert torch.equal(a, b), name
    assert (report["domains_added"], report["domains_left_out"]) == (["d"], ["b"])
    assert report["values"]["user"] == {"kept": 38, "new": 20, "left_out": 10}
    assert report["values"]["item"] == {"kept": 28, "new": 1, "left_out": 0}


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_a_new_domain_starts_as_the_shared_model(
    before: TrainingJob, split: Path, tmp_path: Path, spread: float
) -> None:
    """Also where the domains of a training from scratch start spread around it."""
    j = now(before, split, tmp_path)
    j = j.model_copy(update={"model": j.model.model_copy(update={"domain_spread": spread})})
    earlier, (trainer, _) = resumed(before), started(j)
    d = NEXT.domain_index.get_number("d")
    for layer in trainer.model.network.layers:
        assert torch.equal(layer.weight_p[d], torch.ones_like(layer.weight_p[d]))
        assert not layer.bias_p[d].any()
    norm, then = trainer.model.norm, earlier.model.norm
    assert torch.equal(norm.gamma_p[d], torch.ones_like(norm.gamma_p[d]))
    assert norm.steps[d] == 0
    # Of the domains that stay, a alone has moments: one row, as c had, moves none.
    torch.testing.assert_close(norm.mean[d], then.mean[LAYOUT.domain_index.get_number("a")])
    torch.testing.assert_close(norm.var[d], then.var[LAYOUT.domain_index.get_number("a")])
    layers = earlier.model.network.layers
    assert not torch.equal(layers[0].weight_p[1], torch.ones_like(layers[0].weight_p[1])), "a learnt something"


@pytest.mark.parametrize("optimizer", ["keep", "reset"])
def test_known_values_keep_their_rows_and_new_ones_start_afresh(
    before: TrainingJob, split: Path, tmp_path: Path, optimizer: str
) -> None:
    earlier = resumed(before)
    cold = Trainer(now(before, split, tmp_path))
    trainer, _ = started(now(before, split, tmp_path, warm_start_state=optimizer))
    name = "inputs.tables.storages.4"
    average_then = averages_of(earlier)[name]
    then = earlier.model.state_dict()[name] if optimizer == "keep" else average_then
    storage, tables = trainer.model.state_dict()[name], trainer.model.inputs.tables
    for table in ("user", "item"):
        for i, value in enumerate(NOW[table]):
            mine = storage[tables.offset[table] + i + 2]
            if value in BEFORE[table]:
                place = earlier.model.inputs.tables.offset[table] + BEFORE[table].index(value) + 2
                assert torch.equal(mine, then[place]), value
            else:
                assert torch.equal(mine, cold.model.state_dict()[name][tables.offset[table] + i + 2]), value
                assert mine.any()
    assert torch.equal(storage[tables.offset["user"] + 1], then[earlier.model.inputs.tables.offset["user"] + 1])
    assert not storage[0].any()
    moments = dict(trainer.optimizers.state_dict())
    if optimizer == "reset":
        assert not moments
        assert torch.equal(averages_of(trainer)[name], storage)
        assert trainer.ema.steps[name] == 0
        return
    theirs = dict(earlier.optimizers.state_dict())
    assert moments[f"{name}/step"] == theirs[f"{name}/step"] > 0
    old = theirs[f"{name}/exp_avg"][earlier.model.inputs.tables.offset["user"] + BEFORE["user"].index("u30") + 2]
    assert torch.equal(moments[f"{name}/exp_avg"][tables.offset["user"] + NOW["user"].index("u30") + 2], old)
    assert not moments[f"{name}/exp_avg"][tables.offset["user"] + NOW["user"].index("new3") + 2].any()
    a_then, a_now = LAYOUT.domain_index.get_number("a"), NEXT.domain_index.get_number("a")
    key = "network.layers.0.weight_p.{}/exp_avg"
    assert torch.equal(moments[key.format(a_now)], theirs[key.format(a_then)])
    assert key.format(NEXT.domain_index.get_number("d")) not in moments
    average_now, user = averages_of(trainer)[name], tables.offset["user"] + 2
    place = earlier.model.inputs.tables.offset["user"] + BEFORE["user"].index("u30") + 2
    assert torch.equal(average_now[user + NOW["user"].index("u30")], average_then[place])
    assert not torch.equal(average_now[user + NOW["user"].index("u30")], storage[user + NOW["user"].index("u30")])
    assert torch.equal(average_now[user + NOW["user"].index("new3")], storage[user + NOW["user"].index("new3")])
    assert trainer.ema.steps[name] == earlier.ema.steps[name] == earlier.step
    dense = "network.layers.0.weight_p.{}"
    assert trainer.ema.steps[dense.format(a_now)] == earlier.ema.steps[dense.format(a_then)] > 0
    assert trainer.ema.steps[dense.format(NEXT.domain_index.get_number("d"))] == 0


def test_a_night_goes_on_from_the_last_one_and_its_record_says_so(
    before: TrainingJob, split: Path, tmp_path: Path
) -> None:
    """Stopped in its middle and taken up again it comes to the same bits, and does not start a second time."""

    class Stop(Callback):
        def step(self, moment: CallbackEvent) -> None:
            if moment.step == 4:
                raise KeyboardInterrupt

    whole, broken = (now(before, split, tmp_path / n, minutes=1e-9) for n in ("whole", "broken"))
    report = train(whole)["start"]
    assert report["run_id"] == "last"
    with pytest.raises(KeyboardInterrupt):
        train(broken, [Stop()])
    assert train(broken)["resumed"]
    assert record(broken)["start"] == report
    assert record(broken)["rows"] == {"a": 300, "c": 80, "d": 70}
    assert (broken.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
    cold = now(before, split, tmp_path / "cold").model_copy(update={"start": None})
    assert train(cold)["start"] is None
    assert record(cold)["curve"][0][1] > record(whole)["curve"][0][1], "it began without what last night learnt"
    assert cold.fingerprint() != whole.fingerprint()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"layers": [8, 8]}, r"model.layers: \[16, 8\] -> \[8, 8\]"),
        ({"dim": 8}, "last: training cannot start from this run.*is 4 in that run and 8 in this training"),
        ({"name": "mmoe"}, "model.name: star -> mmoe"),
        # Weights of the same shapes that would mean something else.
        (
            {"combine": "sum"},
            "trainer.warm_start: last was trained with different.*model.combine: product -> sum; change",
        ),
        ({"activation": "silu"}, "model.activation: relu -> silu"),
        ({"norm_eps": 0.1}, "model.norm_eps: 1e-05 -> 0.1"),
    ],
)
def test_a_model_that_computes_something_else_is_refused_by_name(
    before: TrainingJob, split: Path, tmp_path: Path, model: dict[str, object], words: str
) -> None:
    j = now(before, split, tmp_path)
    other = j.model_copy(update={"model": j.model.model_copy(update=model)})
    with pytest.raises(UserError, match=words):
        started(other)


def test_a_model_as_wide_as_there_are_domains_needs_the_same_number(
    before: TrainingJob, split: Path, tmp_path: Path
) -> None:
    earlier = job(write_split(tmp_path), tmp_path / "run")
    earlier = earlier.model_copy(
        update={"run_id": "last", "model": earlier.model.model_copy(update={"name": "cross_stitch"})}
    )
    earlier = earlier.model_copy(update={"settings": {"history": {}, "model": earlier.model.model_dump(mode="json")}})
    train(earlier)
    (earlier.path / "vocabularies").mkdir()
    pq.write_table(vocabularies(BEFORE).drop_columns("ds"), earlier.path / "vocabularies" / "part-0.parquet")
    j = now(earlier, split, tmp_path / "now")
    fewer = j.model_copy(update={"model": earlier.model, "layout": NEXT.model_copy(update={"domains": ["c", "a"]})})
    with pytest.raises(UserError, match="depends on the number of domains: 3 -> 2"):
        started(fewer)
    assert started(j.model_copy(update={"model": earlier.model}))[1]["domains_added"] == ["d"]


def test_settings_of_training_alone_may_change(before: TrainingJob, split: Path, tmp_path: Path) -> None:
    j = now(before, split, tmp_path)
    model = {"dropout": 0.3, "norm_momentum": 0.2, "adversarial": 0.5, "interest_loss": 0.5, "domain_spread": 0.1}
    changed, same = started(j.model_copy(update={"model": j.model.model_copy(update=model)}))[0], started(j)[0]
    c = NEXT.domain_index.get_number("c")
    ints, floats = torch.tensor([[5, 3, 2, 4, 6, 0, 0]], dtype=torch.int32), torch.tensor([[0.3]])
    a, b = (t.model.eval().predict(ints, floats, torch.tensor([c])) for t in (changed, same))
    assert torch.equal(a, b)


@pytest.mark.parametrize("averaging", [0.5, 0.9, 0.999])
def test_a_kept_average_is_the_same_under_another_decay(
    before: TrainingJob, split: Path, tmp_path: Path, averaging: float
) -> None:
    earlier, (trainer, _) = resumed(before), started(now(before, split, tmp_path, ema_decay=averaging))
    then, mine = (t.model.inputs.tables.offset["item"] + 2 for t in (earlier, trainer))
    name, known = "inputs.tables.storages.4", len(BEFORE["item"])
    average = averages_of(earlier)[name][then : then + known]
    weights = earlier.model.state_dict()[name][then : then + known]
    assert (average - weights).abs().max() > 1e-4
    torch.testing.assert_close(averages_of(trainer)[name][mine : mine + known], average, atol=1e-7, rtol=1e-6)


def test_other_features_are_refused_by_name(before: TrainingJob, split: Path, tmp_path: Path) -> None:
    j = now(before, split, tmp_path)
    sequence = NEXT.sequences[0].model_copy(update={"name": "liked"})
    other = j.model_copy(update={"layout": NEXT.model_copy(update={"sequences": [sequence]})})
    with pytest.raises(UserError, match="trainer.warm_start: last was trained with different features.*liked"):
        started(other)


def test_a_different_scale_is_rejected_by_name(before: TrainingJob, split: Path, tmp_path: Path) -> None:
    j = now(before, split, tmp_path)
    other = j.model_copy(
        update={"layout": NEXT.model_copy(update={"numeric": [NEXT.numeric[0].model_copy(update={"mean": 0.5})]})}
    )
    with pytest.raises(UserError, match="does not encode numbers like last.*x.mean: 0.0 -> 0.5.*run `star-ctr split"):
        started(other)


@pytest.mark.slow
def test_sharded_tables_start_as_whole_ones_do(before: TrainingJob, split: Path, tmp_path: Path) -> None:
    whole, shared = now(before, split, tmp_path / "whole"), now(before, split, tmp_path / "shared")
    whole, shared = (
        j.model_copy(
            update={
                "model": j.model.model_copy(update={"dropout": 0.0}),
                "trainer": j.trainer.model_copy(
                    update={"processes": n, "distributed": DistributedSettings(tables="sharded")}
                ),
            }
        )
        for j, n in ((whole, 1), (shared, 2))
    )
    launch(whole)
    launch(shared)
    same_weights(whole, shared)
    assert record(shared)["start"] == record(whole)["start"]
