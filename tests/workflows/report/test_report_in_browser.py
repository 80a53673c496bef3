"""The report in a browser at phone width: it fits the width, loads nothing, and logs no errors."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from star_ctr.workflows.report.data import collect
from star_ctr.workflows.report.page import render
from tests.workflows.synthetic_nights import NIGHTS, SyntheticNights

BROWSER = next((b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium (Debian: apt-get install chromium)")

# Load the page in a frame, because a browser window cannot be as narrow as a phone. The page itself runs no script.
FRAME = """<!doctype html><iframe id="page" style="width:375px;height:700px;border:0"></iframe><script>
const result = {}, frame = document.getElementById("page");
frame.onload = () => {
  const seen = frame.contentWindow, root = seen.document.scrollingElement;
  Object.assign(result, {
    width: seen.innerWidth, needed: root.scrollWidth, height: root.scrollHeight,
    fetched: seen.performance.getEntriesByType("resource").map(e => e.name),
    dark: seen.matchMedia("(prefers-color-scheme: dark)").matches,
    ground: seen.getComputedStyle(seen.document.body).backgroundColor,
    inks: [...new Set([...seen.document.querySelectorAll("svg text")].map(e => seen.getComputedStyle(e).fill))],
    out: [...seen.document.querySelectorAll("section, header, .tile, svg.chart")]
      .filter(e => e.getBoundingClientRect().right > seen.innerWidth).map(e => e.outerHTML.slice(0, 80)),
    title: seen.document.title,
  });
  document.title = "result " + JSON.stringify(result);
};
frame.srcdoc = PAGE;
</script>"""


def open_page(page: str, folder: Path, dark: bool = False) -> tuple[dict[str, Any], list[str]]:
    """Open a page in the browser; return its measurements and the messages of its console."""
    file = folder / "frame.html"
    file.write_text(FRAME.replace("PAGE", json.dumps(page).replace("<", "\\u003c")), encoding="utf-8")
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--enable-logging=stderr",
            "--virtual-time-budget=5000", "--dump-dom", file.as_uri(),
        ],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    found = re.search(r"<title>result (.*?)</title>", done.stdout)
    assert found, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    return result, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def is_light(color: str) -> bool:
    """Return whether a color, such as rgb(1, 2, 3), is closer to white than to black."""
    return sum(map(int, re.findall(r"\d+", color)[:3])) > 382


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SyntheticNights:
    warehouse = SyntheticNights(tmp_path_factory.mktemp("nights"))
    warehouse.nights()
    warehouse.step("2026-01-09", "ingest", "failed", error="x" * 500)
    return warehouse


@pytest.mark.parametrize("dark", [False, True])
def test_the_report_fits_a_phone(whole: SyntheticNights, tmp_path: Path, dark: bool) -> None:
    result, console = open_page(render(collect(whole.settings), "star-ctr report " + "x" * 200), tmp_path, dark)
    assert console == []
    assert result["fetched"] == []
    assert result["title"] == f"demo {NIGHTS[-1]}"
    assert result["width"] == 375
    assert result["needed"] <= result["width"]
    assert result["out"] == []
    assert result["height"] > 2000
    assert result["dark"] is dark
    assert is_light(result["ground"]) is not dark
    assert len(result["inks"]) == 2
    assert {is_light(ink) for ink in result["inks"]} == {dark}, "the text of charts has the colors of the page"


def test_the_report_of_a_single_night_fits_a_phone(tmp_path: Path) -> None:
    warehouse = SyntheticNights(tmp_path / "lone")
    warehouse.metrics(NIGHTS[0])
    warehouse.ledger(NIGHTS[0])
    result, console = open_page(
        render(collect(warehouse.settings), "") + "<svg class=chart><text>a</text></svg>", tmp_path
    )
    assert (console, result["fetched"], result["out"]) == ([], [], [])
    assert result["needed"] <= result["width"]


def test_the_browser_detects_overflow_and_requests(whole: SyntheticNights, tmp_path: Path) -> None:
    page = render(collect(whole.settings), "")
    bad = page.replace("</main>", '<p style="width:500px">wide</p><img src="http://127.0.0.1:9/x.png"></main>')
    result, console = open_page(bad, tmp_path)
    assert result["needed"] > result["width"]
    assert any("Content Security Policy" in line for line in console)
    unrestricted = re.sub(r"<meta http-equiv=[^>]*>", "", bad)
    assert open_page(unrestricted, tmp_path)[0]["fetched"] == ["http://127.0.0.1:9/x.png"]
