"""Parameters by domain: a step visits all parameters that it can change."""

from __future__ import annotations

import pytest
import torch

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.layers.per_domain import ParametersByDomain
from star_ctr.model.models.multi_domain import MultiDomainModel
from tests.model.synthetic import ALL, LAYOUT

MODELS = {name: {"name": name} for name in ALL} | {
    "mulann": {"name": "mulann", "norm": "bn"},
}


@pytest.mark.parametrize("name", MODELS)
def test_only_the_selected_parameters_can_have_a_gradient(name: str) -> None:
    model = MultiDomainModel(LAYOUT, ModelSettings.model_validate({"layers": [8, 4], "dim": 4, **MODELS[name]}))
    by_domain = ParametersByDomain(model)
    ints = torch.randint(0, 4, (12, LAYOUT.int_count), dtype=torch.int32)
    segments = [(1, 0, 5), (3, 5, 12)]
    loss = model(ints, torch.randn(12, 1), segments).sum()
    if (auxiliary := model.auxiliary_loss(segments)) is not None:
        loss = loss + auxiliary
    loss.backward()
    selected = dict(by_domain.select({3, 1}))
    assert {n for n, p in model.named_parameters() if p.grad is not None} <= selected.keys()
    assert by_domain.shared, "at least the embeddings"
    if name == "star":
        assert all(p.grad is not None for p in selected.values())


def test_every_parameter_is_shared_or_belongs_to_one_domain() -> None:
    model = MultiDomainModel(LAYOUT, ModelSettings(layers=[8], dim=4))
    by_domain = ParametersByDomain(model)
    everything = by_domain.select(None)
    assert sorted(n for n, _ in everything) == sorted(n for n, _ in model.named_parameters())
    assert set(by_domain.own) == {0, 1, 2, 3}
    assert {n.rpartition(".")[2] for n, _ in by_domain.own[2]} == {"2"}
    assert by_domain.select([2]) == [*by_domain.shared, *by_domain.own[2]]
    assert by_domain.select([]) == by_domain.shared
