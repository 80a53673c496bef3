"""Export of a trained model for scoring (`predictor`).

The export contains only what a scorer needs: the layout of the encoded rows, and the weights in safetensors format. The
weights of each domain are combined ahead of time (§4.4), and partitioned normalization is folded into one scale and one
shift per domain. A prediction therefore costs as much as with a network for a single domain.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from star_ctr.conf.contracts.catalog import LAYOUT_FILE, WEIGHTS_FILE
from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.files import open_replacement
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.models.multi_domain import MultiDomainModel
from star_ctr.model.score_checks import check_weights
from star_ctr.model.tensor_files import read_metadata, read_tensors, write_tensors

_OUTCOMES = "outcomes"
"""Key of the names of the further outcomes in the header of the weights."""


@torch.no_grad()
def export(model: MultiDomainModel, settings: ModelSettings, layout: Layout, folder: Path) -> None:
    """Write the inference form of a model.

    Args:
        model: The trained model.
        settings: The settings of the model.
        layout: The layout of the encoded rows.
        folder: The folder of the exported model. It is created if it does not exist.

    Raises:
        DataError: Weights are not finite. Nothing is written.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.fold_for_inference().state_dict().items()}
    check_weights(tensors, f"{folder.name}: the trained model is not exported")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LAYOUT_FILE).write_text(layout.model_dump_json(indent=1) + "\n", encoding="utf-8")
    with open_replacement(folder / WEIGHTS_FILE) as file:
        metadata = {"model": json.dumps(settings.model_dump(mode="json"))}
        metadata |= {_OUTCOMES: json.dumps(layout.outcomes)} if model.heads is not None else {}
        write_tensors(file, tensors, metadata)


def read_outcomes(folder: Path) -> list[str]:
    """Return the names of the further outcomes that an exported model predicts."""
    names: list[str] = json.loads(read_metadata(folder / WEIGHTS_FILE).get(_OUTCOMES, "[]"))
    return names


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the tensors of an exported model.

    Args:
        folder: The folder of the exported model.

    Returns:
        The tensors by name.

    Raises:
        DataError: Weights are not finite.
    """
    tensors = read_tensors(folder / WEIGHTS_FILE)
    check_weights(tensors, str(folder / WEIGHTS_FILE))
    return tensors
