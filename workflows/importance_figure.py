"""The picture of `star-ctr explain`: the importance of features, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_MAX_BARS = 30


def draw_importance(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw the loss of GAUC without each feature and group.

    Args:
        rows: Rows of `importance` of one domain, sorted as in the table.
        file: The PNG file to write.
    """
    from matplotlib.figure import Figure

    panels = {kind: [r for r in rows if r["kind"] == kind and r["gauc"] is not None] for kind in ("feature", "group")}
    panels = {kind: sorted(own, key=lambda r: -r["gauc"])[:_MAX_BARS] for kind, own in panels.items() if own}
    heights = [len(own) for own in panels.values()]
    figure = Figure(figsize=(7, 1.2 + 0.24 * sum(heights) + 0.5 * len(heights)), layout="constrained")
    axes = figure.subplots(max(len(panels), 1), squeeze=False, sharex=True, height_ratios=heights or None)[:, 0]
    for axis, (kind, own) in zip(axes, panels.items(), strict=False):
        places = range(len(own))
        axis.barh(places, [r["gauc"] for r in own], color="#4477AA", height=0.7)
        with_interval = [(k, r) for k, r in enumerate(own) if r["gauc_low"] is not None]
        axis.hlines(
            [k for k, _ in with_interval],
            [r["gauc_low"] for _, r in with_interval],
            [r["gauc_high"] for _, r in with_interval],
            color="#222222",
            linewidth=1.2,
        )
        axis.set_yticks(places, [r["name"] for r in own], fontsize=8)
        axis.invert_yaxis()
        axis.axvline(0, color="#888888", linewidth=0.8)
        axis.set_title(f"{kind}s", fontsize=9, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("loss of GAUC without it")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
