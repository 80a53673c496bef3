"""Export of a trained model, and prediction with the exported model.

The export contains only what a scorer needs: the layout of the encoded rows, and the weights in safetensors format. The
weights of each domain are combined ahead of time (§4.4), and partitioned normalization is folded into one scale and one
shift per domain. A prediction therefore costs as much as with a network for a single domain.

The predictor uses the inference form of the trainer's model (`fold_for_inference`), not a second implementation of the
paper's equations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from star_ctr.conf.contracts.catalog import WEIGHTS_FILE
from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.errors import DataError
from star_ctr.conf.files import hash_file
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.models.multi_domain import MultiDomainModel
from star_ctr.model.score_checks import check_weights

LAYOUT = "layout.json"
"""Name of the file with the layout of the encoded rows."""


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
    (folder / LAYOUT).write_text(layout.model_dump_json(indent=1) + "\n", encoding="utf-8")
    temporary = folder / f".{WEIGHTS_FILE}.tmp"
    save_file(tensors, str(temporary), metadata={"model": json.dumps(settings.model_dump(mode="json"))})
    temporary.replace(folder / WEIGHTS_FILE)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the tensors of an exported model.

    Args:
        folder: The folder of the exported model.

    Returns:
        The tensors by name.

    Raises:
        DataError: Weights are not finite.
    """
    tensors: dict[str, Tensor] = load_file(str(folder / WEIGHTS_FILE))
    check_weights(tensors, str(folder / WEIGHTS_FILE))
    return tensors


class Predictor:
    """An exported model that predicts rows of any domains on the CPU.

    Args:
        folder: The folder of the exported model.
        files: The expected SHA-256 of files in the folder, by name.

    Raises:
        DataError: A file differs from its hash, or weights are not finite.
    """

    def __init__(self, folder: Path, files: Mapping[str, str] | None = None) -> None:
        for name, digest in (files or {}).items():
            if hash_file(folder / name) != digest:
                raise DataError(f"{folder / name}: differs from the record of the training; restore the file")
        self.layout = Layout.model_validate_json((folder / LAYOUT).read_text(encoding="utf-8"))
        with safe_open(str(folder / WEIGHTS_FILE), framework="pt") as file:
            settings = ModelSettings.model_validate_json(file.metadata()["model"])
        with torch.device("meta"):  # create only the structure; the weights are loaded below
            self.model = MultiDomainModel(self.layout, settings).fold_for_inference()
        self.model.load_state_dict(read_weights(folder), assign=True)

    def predict(
        self, ints: npt.NDArray[np.int32], floats: npt.NDArray[np.float32], domains: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float32]:
        """Predict the CTR of encoded rows.

        Args:
            ints: (n, I) integers of the rows.
            floats: (n, N) numbers of the rows.
            domains: (n,) domain numbers of the layout; 0 for unknown domains.

        Returns:
            (n,) predicted CTR.
        """
        return self.model.predict(*(torch.from_numpy(a.copy()) for a in (ints, floats, domains))).numpy()
