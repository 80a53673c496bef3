"""Prediction with an exported model.

The predictor uses the inference form of the trainer's model (`fold_for_inference`), not a second implementation of the
paper's equations.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from star_ctr.conf.contracts.catalog import LAYOUT_FILE, WEIGHTS_FILE
from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.errors import DataError
from star_ctr.conf.files import hash_file
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.export import read_outcomes, read_weights
from star_ctr.model.layers.calibration_map import CalibrationMap
from star_ctr.model.models.multi_domain import MultiDomainModel
from star_ctr.model.tensor_files import read_metadata

_ROWS_PER_CALL = 4096
"""Number of rows that the model predicts at once. With more, its activations exceed the caches of the processor."""


class Predictor:
    """An exported model that predicts rows of any domains on the CPU.

    Args:
        folder: The folder of the exported model.
        files: The expected SHA-256 of files in the folder, by name.

    Attributes:
        layout: The layout of the encoded rows.
        outcomes: The names of the further outcomes that the model predicts.

    Raises:
        DataError: A file differs from its hash, weights are not finite, or another version exported the model.
    """

    def __init__(self, folder: Path, files: Mapping[str, str] | None = None) -> None:
        for name, digest in (files or {}).items():
            if hash_file(folder / name) != digest:
                raise DataError(f"{folder / name}: differs from the training record; restore the file")
        self.layout = Layout.model_validate_json((folder / LAYOUT_FILE).read_text(encoding="utf-8"))
        settings = ModelSettings.model_validate_json(read_metadata(folder / WEIGHTS_FILE)["model"])
        with torch.device("meta"):  # create only the structure; the weights are loaded below
            weights = read_weights(folder)
            self.outcomes = read_outcomes(folder)
            self.model = MultiDomainModel(self.layout, settings, outcomes=len(self.outcomes)).fold_for_inference()
            # Earlier versions had another name for the calibration map.
            weights = {name.replace("score_map.", "calibration_map."): tensor for name, tensor in weights.items()}
            if (knots := weights.get("calibration_map.knots")) is not None:
                self.model.calibration_map = CalibrationMap(*knots.shape)
        try:
            self.model.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            raise DataError(
                f"{folder / WEIGHTS_FILE}: its tensors do not match the model, probably because another version of "
                "star-ctr exported it; train the night again, or predict with that version"
            ) from error

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
        return self.predict_all(ints, floats, domains)[0]

    def predict_all(
        self, ints: npt.NDArray[np.int32], floats: npt.NDArray[np.float32], domains: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Predict the CTR of encoded rows, and the probabilities of their further outcomes.

        Args:
            ints: As for `predict`.
            floats: As for `predict`.
            domains: As for `predict`.

        Returns:
            (n,) predicted CTR, and (n, K) probabilities of the outcomes `outcomes`.

        Raises:
            ValueError: The arrays have different numbers of rows.
        """
        if not len(ints) == len(floats) == len(domains):
            raise ValueError(f"{len(ints)} rows of integers, {len(floats)} of numbers and {len(domains)} domains")
        scores = np.empty(len(ints), np.float32)
        outcomes = np.empty((len(ints), len(self.outcomes)), np.float32)
        for start in range(0, len(ints), _ROWS_PER_CALL):
            part = slice(start, start + _ROWS_PER_CALL)
            found = self.model.predict_all(*(torch.from_numpy(a[part].copy()) for a in (ints, floats, domains)))
            scores[part] = found[0].numpy()
            if found[1] is not None:
                outcomes[part] = found[1].numpy()
        return scores, outcomes
