"""The picture in the README: the table that a night ended with, as an SVG.

python docs/pictures.py --metrics metrics.json      (of `star-ctr nightly --json`)
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

from rich.console import Console

from star_ctr.workflows.display import metrics_table


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metrics", required=True)
    parser.add_argument("--out", default="docs/night.svg")
    arguments = parser.parse_args()
    console = Console(record=True, width=88, file=io.StringIO())
    console.print(metrics_table(json.loads(Path(arguments.metrics).read_text(encoding="utf-8"))))
    console.save_svg(arguments.out, title="star-ctr nightly --conf conf/kuairand.yaml --ds 2022-05-05")


if __name__ == "__main__":
    main()
