"""Warm starts (§4.4): known values and domains keep their weights, and new ones are initialized."""

from __future__ import annotations

import shutil
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
from star_ctr.model.training import trainer_state
from star_ctr.model.training.callbacks import Callback, CallbackEvent
from star_ctr.model.training.ema import compute_averages
from star_ctr.model.training.job import TrainingJob, WarmStart
from star_ctr.model.training.run import train
from star_ctr.model.training.trainer import Trainer
from star_ctr.model.training.warm_start import start_from_run
from tests.model.processes import Processes
from tests.model.synthetic import LAYOUT, assert_same_weights, job, record, version_of, write_split

BEFORE = {"user": [f"u{i}" for i in range(48)], "item": [f"i{i}" for i in range(28)]}
NOW = {
    "user": [*[f"u{i}" for i in range(47, 9, -1)], *[f"new{i}" for i in range(20)]],
    "item": [*BEFORE["item"], "i99"],
}
"""Ten users are missing, the others have another order, and some users and one item are new."""
NEXT = LAYOUT.model_copy(
    update={"domains": ["c", "a", "d"], "embeddings": {name: 2 + len(values) for name, values in NOW.items()}}
)
"""The domain b is missing, d is new, and the others have other numbers."""


def make_vocabularies(values: dict[str, list[str]]) -> pa.Table:
    """Create vocabularies like the step `split`."""
    rows = [(name, v, i + 2) for name, vs in values.items() for i, v in enumerate(vs)]
    embedding, value, ids = (list(x) for x in zip(*rows, strict=True))
    return pa.table(
        {"embedding": embedding, "value": value, "id": pa.array(ids, pa.int32()), "ds": [LAYOUT.ds] * len(rows)}
    )


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    """Train and publish the run of the previous night."""
    folder = tmp_path_factory.mktemp("before")
    j = job(write_split(folder), folder / "run")
    j = j.model_copy(update={"run_id": "last", "settings": {"history": {}, "model": j.model.model_dump(mode="json")}})
    train(j)
    (j.path / "vocabularies").mkdir()
    pq.write_table(make_vocabularies(BEFORE).drop_columns("ds"), j.path / "vocabularies" / "part-0.parquet")
    return j


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the split and the vocabularies of the next night."""
    folder = tmp_path_factory.mktemp("now")
    write_split(folder, {"a": 300, "c": 80, "d": 70}, layout=NEXT)
    write_split(folder, {"a": 20}, part="test", layout=NEXT)
    write_deltalake(str(folder / "vocabularies"), make_vocabularies(NOW))
    return folder


def make_job(before: TrainingJob, split: Path, folder: Path, **trainer: object) -> TrainingJob:
    """Create a job that starts from the run of the previous night."""
    j = job(str(split / "split"), folder, **trainer)
    return j.model_copy(
        update={
            "versions": {"split": version_of(str(split / "split")), "vocabularies": 0},
            "vocabularies": str(split / "vocabularies"),
            "layout": NEXT,
            "settings": {"history": {}, "model": {}},
            "start": WarmStart(run_id=before.run_id, folder=before.folder, weights="w"),
        }
    )


def resume_trainer(j: TrainingJob) -> Trainer:
    """Create the trainer of a finished training run at its last step."""
    trainer = Trainer(j)
    assert trainer_state.resume(trainer)
    return trainer


def start_trainer(j: TrainingJob) -> tuple[Trainer, dict[str, Any]]:
    trainer = Trainer(j)
    return trainer, start_from_run(trainer)


def compute_ema(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Return the weights that a trainer would export now."""
    return compute_averages(trainer.model.state_dict(), dict(trainer.ema.state_dict()), trainer.ema.decay)


def map_id(name: str, earlier: int) -> int:
    return NOW[name].index(BEFORE[name][earlier - 2]) + 2


def test_predictions_of_a_kept_domain_do_not_change_by_a_bit(before: TrainingJob, split: Path, tmp_path: Path) -> None:
    earlier, (trainer, report) = resume_trainer(before), start_trainer(make_job(before, split, tmp_path))
    rng = np.random.default_rng(0)
    users, items = rng.integers(12, 50, 200), rng.integers(2, 30, 200)
    seen = rng.integers(2, 30, (200, 4)) * (rng.random((200, 4)) < 0.5)
    lengths = (seen > 0).sum(1)
    floats = torch.from_numpy(rng.normal(size=(200, 1)).astype(np.float32))
    earlier_rows = np.column_stack([users, items, lengths, seen]).astype(np.int32)
    rows = np.column_stack(
        [
            [map_id("user", u) for u in users], [map_id("item", i) for i in items], lengths,
            [[i and map_id("item", i) for i in row] for row in seen],
        ]
    ).astype(np.int32)  # fmt: skip
    earlier.model.eval(), trainer.model.eval()
    for name in ("a", "c"):
        earlier_domain, domain = LAYOUT.domain_index.get_number(name), NEXT.domain_index.get_number(name)
        a = earlier.model.predict(torch.from_numpy(earlier_rows), floats, torch.full((200,), earlier_domain))
        b = trainer.model.predict(torch.from_numpy(rows), floats, torch.full((200,), domain))
        assert torch.equal(a, b), name
    assert (report["domains_added"], report["domains_left_out"]) == (["d"], ["b"])
    assert report["values"]["user"] == {"kept": 38, "new": 20, "left_out": 10}
    assert report["values"]["item"] == {"kept": 28, "new": 1, "left_out": 0}


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_a_new_domain_starts_as_the_shared_model(
    before: TrainingJob, split: Path, tmp_path: Path, spread: float
) -> None:
    """Also if the domains are initialized with a spread in training from scratch."""
    j = make_job(before, split, tmp_path)
    j = j.model_copy(update={"model": j.model.model_copy(update={"domain_spread": spread})})
    earlier, (trainer, _) = resume_trainer(before), start_trainer(j)
    d = NEXT.domain_index.get_number("d")
    for layer in trainer.model.network.layers:
        assert torch.equal(layer.weight_p[d], torch.ones_like(layer.weight_p[d]))
        assert not layer.bias_p[d].any()
    norm, earlier_norm = trainer.model.norm, earlier.model.norm
    assert torch.equal(norm.gamma_p[d], torch.ones_like(norm.gamma_p[d]))
    assert norm.steps[d] == 0
    # Of the kept domains, only a has normalization statistics: batches of one row, as in c, do not update them.
    torch.testing.assert_close(norm.mean[d], earlier_norm.mean[LAYOUT.domain_index.get_number("a")])
    torch.testing.assert_close(norm.var[d], earlier_norm.var[LAYOUT.domain_index.get_number("a")])
    layers = earlier.model.network.layers
    assert not torch.equal(layers[0].weight_p[1], torch.ones_like(layers[0].weight_p[1])), "domain a was trained"


@pytest.mark.parametrize("optimizer", ["keep", "reset"])
def test_known_values_keep_their_rows_and_new_ones_are_initialized(
    before: TrainingJob, split: Path, tmp_path: Path, optimizer: str
) -> None:
    earlier = resume_trainer(before)
    cold = Trainer(make_job(before, split, tmp_path))
    trainer, _ = start_trainer(make_job(before, split, tmp_path, warm_start_state=optimizer))
    name = "inputs.tables.storages.4"
    earlier_average = compute_ema(earlier)[name]
    expected = earlier.model.state_dict()[name] if optimizer == "keep" else earlier_average
    storage, tables = trainer.model.state_dict()[name], trainer.model.inputs.tables
    for table in ("user", "item"):
        for i, value in enumerate(NOW[table]):
            row = storage[tables.offset[table] + i + 2]
            if value in BEFORE[table]:
                position = earlier.model.inputs.tables.offset[table] + BEFORE[table].index(value) + 2
                assert torch.equal(row, expected[position]), value
            else:
                assert torch.equal(row, cold.model.state_dict()[name][tables.offset[table] + i + 2]), value
                assert row.any()
    assert torch.equal(storage[tables.offset["user"] + 1], expected[earlier.model.inputs.tables.offset["user"] + 1])
    assert not storage[0].any()
    state = dict(trainer.optimizers.state_dict())
    if optimizer == "reset":
        assert not state
        assert torch.equal(compute_ema(trainer)[name], storage)
        assert trainer.ema.steps[name] == 0
        return
    earlier_state = dict(earlier.optimizers.state_dict())
    assert state[f"{name}/step"] == earlier_state[f"{name}/step"] > 0
    old = earlier_state[f"{name}/exp_avg"][earlier.model.inputs.tables.offset["user"] + BEFORE["user"].index("u30") + 2]
    assert torch.equal(state[f"{name}/exp_avg"][tables.offset["user"] + NOW["user"].index("u30") + 2], old)
    assert not state[f"{name}/exp_avg"][tables.offset["user"] + NOW["user"].index("new3") + 2].any()
    earlier_a, new_a = LAYOUT.domain_index.get_number("a"), NEXT.domain_index.get_number("a")
    key = "network.layers.0.weight_p.{}/exp_avg"
    assert torch.equal(state[key.format(new_a)], earlier_state[key.format(earlier_a)])
    assert key.format(NEXT.domain_index.get_number("d")) not in state
    average_after, user = compute_ema(trainer)[name], tables.offset["user"] + 2
    position = earlier.model.inputs.tables.offset["user"] + BEFORE["user"].index("u30") + 2
    assert torch.equal(average_after[user + NOW["user"].index("u30")], earlier_average[position])
    assert not torch.equal(average_after[user + NOW["user"].index("u30")], storage[user + NOW["user"].index("u30")])
    assert torch.equal(average_after[user + NOW["user"].index("new3")], storage[user + NOW["user"].index("new3")])
    assert trainer.ema.steps[name] == earlier.ema.steps[name] == earlier.step
    dense = "network.layers.0.weight_p.{}"
    assert trainer.ema.steps[dense.format(new_a)] == earlier.ema.steps[dense.format(earlier_a)] > 0
    assert trainer.ema.steps[dense.format(NEXT.domain_index.get_number("d"))] == 0


def test_a_night_starts_from_the_previous_one_and_its_record_reports_it(
    before: TrainingJob, split: Path, tmp_path: Path
) -> None:
    """A stopped and resumed training run has the same bits, and does not start from the previous run again."""

    class Stop(Callback):
        def step(self, event: CallbackEvent) -> None:
            if event.step == 4:
                raise KeyboardInterrupt

    whole, stopped = (make_job(before, split, tmp_path / n, minutes=1e-9) for n in ("whole", "stopped"))
    report = train(whole)["start"]
    assert report["run_id"] == "last"
    with pytest.raises(KeyboardInterrupt):
        train(stopped, [Stop()])
    assert train(stopped)["resumed"]
    assert record(stopped)["start"] == report
    assert record(stopped)["rows"] == {"a": 300, "c": 80, "d": 70}
    assert (stopped.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
    cold = make_job(before, split, tmp_path / "cold").model_copy(update={"start": None})
    assert train(cold)["start"] is None
    assert record(cold)["curve"][0][1] > record(whole)["curve"][0][1], (
        "a cold start does not have the weights of the previous night"
    )
    assert cold.fingerprint() != whole.fingerprint()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"layers": [8, 8]}, r"model.layers: \[16, 8\] -> \[8, 8\]"),
        ({"dim": 8}, "last: training cannot start from this run.*is 4 in that run and 8 in this run"),
        ({"name": "mmoe"}, "model.name: star -> mmoe"),
        # The weights have the same shapes, but another meaning.
        (
            {"combine": "sum"},
            "trainer.warm_start: last was trained with different.*model.combine: product -> sum; change",
        ),
        ({"activation": "silu"}, "model.activation: relu -> silu"),
        ({"norm_eps": 0.1}, "model.norm_eps: 1e-05 -> 0.1"),
    ],
)
def test_a_different_model_is_rejected_by_setting(
    before: TrainingJob, split: Path, tmp_path: Path, model: dict[str, object], words: str
) -> None:
    j = make_job(before, split, tmp_path)
    other = j.model_copy(update={"model": j.model.model_copy(update=model)})
    with pytest.raises(UserError, match=words):
        start_trainer(other)


def test_a_model_whose_shape_depends_on_the_domains_requires_the_same_number(
    before: TrainingJob, split: Path, tmp_path: Path
) -> None:
    earlier = job(write_split(tmp_path), tmp_path / "run")
    earlier = earlier.model_copy(
        update={"run_id": "last", "model": earlier.model.model_copy(update={"name": "cross_stitch"})}
    )
    earlier = earlier.model_copy(update={"settings": {"history": {}, "model": earlier.model.model_dump(mode="json")}})
    train(earlier)
    (earlier.path / "vocabularies").mkdir()
    pq.write_table(make_vocabularies(BEFORE).drop_columns("ds"), earlier.path / "vocabularies" / "part-0.parquet")
    j = make_job(earlier, split, tmp_path / "now")
    fewer = j.model_copy(update={"model": earlier.model, "layout": NEXT.model_copy(update={"domains": ["c", "a"]})})
    with pytest.raises(UserError, match="depends on the number of domains: 3 -> 2"):
        start_trainer(fewer)
    assert start_trainer(j.model_copy(update={"model": earlier.model}))[1]["domains_added"] == ["d"]


def test_settings_that_affect_only_training_may_change(before: TrainingJob, split: Path, tmp_path: Path) -> None:
    j = make_job(before, split, tmp_path)
    model = {"dropout": 0.3, "norm_momentum": 0.2, "adversarial": 0.5, "interest_loss": 0.5, "domain_spread": 0.1}
    changed, same = (
        start_trainer(j.model_copy(update={"model": j.model.model_copy(update=model)}))[0],
        start_trainer(j)[0],
    )
    c = NEXT.domain_index.get_number("c")
    ints, floats = torch.tensor([[5, 3, 2, 4, 6, 0, 0]], dtype=torch.int32), torch.tensor([[0.3]])
    a, b = (t.model.eval().predict(ints, floats, torch.tensor([c])) for t in (changed, same))
    assert torch.equal(a, b)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_a_kept_ema_does_not_change_with_another_decay(
    before: TrainingJob, split: Path, tmp_path: Path, decay: float
) -> None:
    earlier, (trainer, _) = resume_trainer(before), start_trainer(make_job(before, split, tmp_path, ema_decay=decay))
    earlier_start, start = (t.model.inputs.tables.offset["item"] + 2 for t in (earlier, trainer))
    name, known = "inputs.tables.storages.4", len(BEFORE["item"])
    average = compute_ema(earlier)[name][earlier_start : earlier_start + known]
    weights = earlier.model.state_dict()[name][earlier_start : earlier_start + known]
    assert (average - weights).abs().max() > 1e-4
    torch.testing.assert_close(compute_ema(trainer)[name][start : start + known], average, atol=1e-7, rtol=1e-6)


def test_different_features_are_rejected_by_name(before: TrainingJob, split: Path, tmp_path: Path) -> None:
    j = make_job(before, split, tmp_path)
    sequence = NEXT.sequences[0].model_copy(update={"name": "liked"})
    other = j.model_copy(update={"layout": NEXT.model_copy(update={"sequences": [sequence]})})
    with pytest.raises(UserError, match="trainer.warm_start: last was trained with different features.*liked"):
        start_trainer(other)


def test_a_different_scale_is_rejected_by_name(before: TrainingJob, split: Path, tmp_path: Path) -> None:
    j = make_job(before, split, tmp_path)
    other = j.model_copy(
        update={"layout": NEXT.model_copy(update={"numeric": [NEXT.numeric[0].model_copy(update={"mean": 0.5})]})}
    )
    with pytest.raises(UserError, match="does not encode numbers like last.*x.mean: 0.0 -> 0.5.*run `star-ctr split"):
        start_trainer(other)


@pytest.mark.slow
def test_sharded_tables_start_like_replicated_ones(
    before: TrainingJob, split: Path, tmp_path: Path, pair: Processes
) -> None:
    whole, shared = make_job(before, split, tmp_path / "whole"), make_job(before, split, tmp_path / "shared")
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
    train(whole)
    pair.train(shared)
    assert_same_weights(whole, shared)
    assert record(shared)["start"] == record(whole)["start"]


def test_heads_continue_only_with_the_same_outcomes(before: TrainingJob, tmp_path: Path) -> None:
    """Known outcomes keep their heads, and other ones start again. Neither changes predictions of the label."""
    layout = LAYOUT.model_copy(update={"outcomes": ["order", "view"]})
    table = write_split(tmp_path, draw_outcomes=lambda label, x: np.column_stack([label, x > 0]))
    write_deltalake(str(tmp_path / "vocabularies"), make_vocabularies(BEFORE))
    weights = {"order": 0.5, "view": 0.3}
    first = job(table, tmp_path / "first").model_copy(
        update={"run_id": "first", "settings": before.settings, "layout": layout, "outcome_weights": weights}
    )
    train(first)
    shutil.copytree(before.path / "vocabularies", first.path / "vocabularies")

    def start(outcomes: list[str], earlier: TrainingJob) -> Trainer:
        update = {
            "layout": LAYOUT.model_copy(update={"outcomes": outcomes}),
            "outcome_weights": dict.fromkeys(outcomes, 0.3),
            "versions": {"split": version_of(table), "vocabularies": 0},
            "vocabularies": str(tmp_path / "vocabularies"),
            "settings": {"history": {}, "model": {}},
            "start": WarmStart(run_id=earlier.run_id, folder=earlier.folder, weights="w"),
        }
        trainer = Trainer(job(table, tmp_path / f"next-{len(outcomes)}").model_copy(update=update))
        start_from_run(trainer)
        return trainer

    earlier = resume_trainer(first).model
    same, fewer, none = start(["order", "view"], first), start(["view"], first), start([], first)
    assert earlier.heads is not None
    for trainer in (same, fewer, none):
        found = trainer.model.state_dict()
        for name, weight in earlier.state_dict().items():
            if not name.startswith("heads.") and name != "norm.single_row_batches":
                assert torch.equal(found[name], weight), name
    heads = [trainer.model.heads.state_dict() for trainer in (same, fewer) if trainer.model.heads is not None]
    assert all(torch.equal(heads[0][name], weight) for name, weight in earlier.heads.state_dict().items())
    assert torch.equal(heads[1]["bias_p.1"], torch.zeros(1))
    assert none.model.heads is None
    added = start(["view"], before)
    assert added.model.heads is not None
    assert torch.equal(added.model.heads.state_dict()["bias"], torch.zeros(1))


@pytest.mark.parametrize("levels", [1, 2])
def test_ple_continues_and_gets_new_domains_if_it_can(
    levels: int, before: TrainingJob, split: Path, tmp_path: Path
) -> None:
    """With one extraction layer, no tensor depends on the number of domains. Checkpoints may lack `states`."""
    table = write_split(tmp_path)
    write_deltalake(str(tmp_path / "vocabularies"), make_vocabularies(BEFORE))
    model = before.model.model_copy(update={"name": "ple", "norm": "bn", "levels": levels})
    settings = {"history": {}, "model": model.model_dump(mode="json")}
    first = job(table, tmp_path / "first", batches="mixed").model_copy(
        update={"run_id": "first", "settings": settings, "model": model}
    )
    train(first)
    shutil.copytree(before.path / "vocabularies", first.path / "vocabularies")

    def start(j: TrainingJob) -> Trainer:
        trainer = Trainer(j.model_copy(update={"model": model}))
        start_from_run(trainer)
        return trainer

    update = {
        "versions": {"split": version_of(table), "vocabularies": 0},
        "vocabularies": str(tmp_path / "vocabularies"),
        "settings": {"history": {}, "model": {}},
        "start": WarmStart(run_id="first", folder=first.folder, weights="w"),
    }
    same = start(job(table, tmp_path / "same", batches="mixed").model_copy(update=update))
    earlier = resume_trainer(first).model.state_dict()
    found = same.model.state_dict()
    for name, weight in earlier.items():
        if name not in ("norm.single_row_batches", "network.states"):
            assert torch.equal(found[name], weight), name
    assert ("network.states" in found) == (levels == 2)
    if levels == 2:
        assert found["network.states"].tolist() == [0, 1, 2, 3]
    other = make_job(first, split, tmp_path / "other", batches="mixed")
    if levels == 1:
        assert start_from_run(Trainer(other.model_copy(update={"model": model})))["domains_added"] == ["d"]
    else:
        four = other.layout.model_copy(update={"domains": ["a", "b", "c", "d"]})
        with pytest.raises(UserError, match="depends on the number of domains"):
            start(other.model_copy(update={"layout": four}))
