"""The exported model: weights combined once, ahead of time (§4.4), in safetensors, and its predictor.

The folder holds `model.safetensors`, and `layout.json` that says what a row's places are. Partitioned
normalization is one scale and shift a domain, each layer of the star FCN one weight and bias a domain.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from star_ctr.conf.layout import Layout
from star_ctr.model.inputs import pooled_features
from star_ctr.model.layers import activate
from star_ctr.model.star import Star, by_domain

WEIGHTS, LAYOUT = "model.safetensors", "layout.json"


@torch.no_grad()
def export(model: Star, layout: Layout, folder: Path) -> None:
    """Write the model as it predicts now."""
    scale, shift = model.norm.folded()
    tensors: dict[str, Tensor] = {"norm.scale": scale, "norm.shift": shift}
    for name, table in model.inputs.tables.items():
        tensors[f"table.{name}"] = table.weight  # type: ignore[assignment]
    for i, layer in enumerate(model.fcn.layers):
        weight, bias = layer.combined()  # type: ignore[operator]
        tensors |= {f"fcn.{i}.weight": weight, f"fcn.{i}.bias": bias}
    if model.aux is not None:
        tensors["aux.domain"] = torch.stack(list(model.aux.domain))
        for part in ("hidden", "out"):
            layer = getattr(model.aux, part)
            tensors |= {f"aux.{part}.weight": layer.weight, f"aux.{part}.bias": layer.bias}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LAYOUT).write_text(layout.model_dump_json(indent=1) + "\n", encoding="utf-8")
    temporary = folder / f".{WEIGHTS}.tmp"
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    save_file(plain, str(temporary), metadata={"activation": model.fcn.activation})
    temporary.replace(folder / WEIGHTS)


class Predictor:
    """An exported model, ready to predict rows of any domains on the CPU."""

    def __init__(self, folder: Path) -> None:
        self.layout = Layout.model_validate_json((folder / LAYOUT).read_text(encoding="utf-8"))
        self.tensors = load_file(str(folder / WEIGHTS))
        with safe_open(str(folder / WEIGHTS), framework="pt") as file:
            self.activation = file.metadata()["activation"]
        self.tables = {name.removeprefix("table."): t for name, t in self.tensors.items() if name.startswith("table.")}
        self.depth = sum(1 for name in self.tensors if name.startswith("fcn.") and name.endswith(".weight"))

    @torch.no_grad()
    def predict(
        self, ints: npt.NDArray[np.int32], floats: npt.NDArray[np.float32], domains: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float32]:
        """The predicted click rate of each packed row; `domains` are the layout's numbers."""
        order, segments = by_domain(torch.from_numpy(domains.copy()))
        ints_BI = torch.from_numpy(ints[order.numpy()])
        floats_BN = torch.from_numpy(floats[order.numpy()])
        z_BF = pooled_features(self.layout, self.tables, ints_BI, floats_BN)
        logits = torch.cat([self._domain(z_BF[start:stop], p) for p, start, stop in segments])
        scores = torch.empty_like(logits).index_copy_(0, order, torch.sigmoid(logits))
        return scores.numpy()

    def _domain(self, z_BF: Tensor, p: int) -> Tensor:
        t = self.tensors
        x = z_BF * t["norm.scale"][p] + t["norm.shift"][p]
        for i in range(self.depth):
            x = torch.addmm(t[f"fcn.{i}.bias"][p], x, t[f"fcn.{i}.weight"][p])
            if i < self.depth - 1:
                x = activate(x, self.activation)
        logit = x.squeeze(1)
        if "aux.domain" in t:
            domain = t["aux.domain"][p].expand(len(z_BF), -1)
            hidden = torch.addmm(t["aux.hidden.bias"], torch.cat([domain, z_BF], 1), t["aux.hidden.weight"].T).relu()
            logit = logit + torch.addmm(t["aux.out.bias"], hidden, t["aux.out.weight"].T).squeeze(1)
        return logit
