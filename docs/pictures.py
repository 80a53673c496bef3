"""Create the pictures in the documentation: the metrics table of a night as SVG, and the nightly report as PNG.

python docs/pictures.py --metrics metrics.json      (of `star-ctr nightly --json`)
python docs/pictures.py --page build/report/kuairand-2022-05-05.html      (of `star-ctr report`; needs Chromium)
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
from pathlib import Path

from PIL import Image
from rich.console import Console

from star_ctr.workflows.terminal import make_metrics_table


def main() -> None:
    """Create the pictures whose inputs are given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metrics")
    parser.add_argument("--page")
    arguments = parser.parse_args()
    if arguments.metrics:
        draw_table(arguments.metrics)
    if arguments.page:
        take_screenshot(Path(arguments.page), Path("docs/report.png"), 1160, 1190)
        take_screenshot(Path(arguments.page), Path("docs/report-dark.png"), 500, 1000, dark=True)


def draw_table(metrics: str) -> None:
    """Write the metrics table of a night to `docs/night.svg`."""
    console = Console(record=True, width=88, file=io.StringIO())
    console.print(make_metrics_table(json.loads(Path(metrics).read_text(encoding="utf-8"))))
    console.save_svg("docs/night.svg", title="star-ctr nightly --conf conf/kuairand.yaml --ds 2022-05-05")


def take_screenshot(page: Path, file: Path, width: int, height: int, dark: bool = False) -> None:
    """Write a screenshot of the top of a page, reduced to 128 colors."""
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    window = [f"--window-size={width},{height}", "--hide-scrollbars", f"--screenshot={file.absolute()}"]
    subprocess.run(["chromium", "--headless", "--no-sandbox", scheme, *window, page.absolute().as_uri()], check=True)
    with Image.open(file) as picture:
        picture.convert("RGB").quantize(128).save(file, optimize=True)


if __name__ == "__main__":
    main()
