"""The morning page in a browser, as wide as a phone: nothing sticks out, nothing is fetched, nothing is complained of."""

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
from tests.workflows.made_nights import NIGHTS, MadeNights

BROWSER = next((b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium (Debian: apt-get install chromium)")

# A frame of the page's own document, since a window cannot be as narrow as a phone; the page itself runs no script.
FRAME = """<!doctype html><iframe id="page" style="width:375px;height:700px;border:0"></iframe><script>
const said = {}, frame = document.getElementById("page");
frame.onload = () => {
  const seen = frame.contentWindow, root = seen.document.scrollingElement;
  Object.assign(said, {
    width: seen.innerWidth, needed: root.scrollWidth, height: root.scrollHeight,
    fetched: seen.performance.getEntriesByType("resource").map(e => e.name),
    dark: seen.matchMedia("(prefers-color-scheme: dark)").matches,
    ground: seen.getComputedStyle(seen.document.body).backgroundColor,
    inks: [...new Set([...seen.document.querySelectorAll("svg text")].map(e => seen.getComputedStyle(e).fill))],
    out: [...seen.document.querySelectorAll("section, header, .tile, svg.chart")]
      .filter(e => e.getBoundingClientRect().right > seen.innerWidth).map(e => e.outerHTML.slice(0, 80)),
    title: seen.document.title,
  });
  document.title = "said " + JSON.stringify(said);
};
frame.srcdoc = PAGE;
</script>"""


def seen(page: str, folder: Path, dark: bool = False) -> tuple[dict[str, Any], list[str]]:
    """What a browser finds of a page, and what its console says."""
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
    found = re.search(r"<title>said (.*?)</title>", done.stdout)
    assert found, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    return told, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def light(colour: str) -> bool:
    """Whether a colour, as in rgb(1, 2, 3), is nearer to white than to black."""
    return sum(map(int, re.findall(r"\d+", colour)[:3])) > 382


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> MadeNights:
    made = MadeNights(tmp_path_factory.mktemp("nights"))
    made.nights()
    made.step("2026-01-09", "ingest", "failed", error="x" * 500)
    return made


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_all_of_it(whole: MadeNights, tmp_path: Path, dark: bool) -> None:
    told, console = seen(render(collect(whole.settings), "star-ctr report " + "x" * 200), tmp_path, dark)
    assert console == []
    assert told["fetched"] == []
    assert told["title"] == f"demo {NIGHTS[-1]}"
    assert told["width"] == 375
    assert told["needed"] <= told["width"]
    assert told["out"] == []
    assert told["height"] > 2000
    assert told["dark"] is dark
    assert light(told["ground"]) is not dark
    assert len(told["inks"]) == 2
    assert {light(ink) for ink in told["inks"]} == {dark}, "letters of the charts go with the page"


def test_a_lone_night_too(tmp_path: Path) -> None:
    made = MadeNights(tmp_path / "lone")
    made.metrics(NIGHTS[0])
    made.ledger(NIGHTS[0])
    told, console = seen(render(collect(made.settings), "") + "<svg class=chart><text>a</text></svg>", tmp_path)
    assert (console, told["fetched"], told["out"]) == ([], [], [])
    assert told["needed"] <= told["width"]


def test_the_browser_would_tell(whole: MadeNights, tmp_path: Path) -> None:
    page = render(collect(whole.settings), "")
    bad = page.replace("</main>", '<p style="width:500px">wide</p><img src="http://127.0.0.1:9/x.png"></main>')
    told, console = seen(bad, tmp_path)
    assert told["needed"] > told["width"]
    assert any("Content Security Policy" in line for line in console)
    open_to_all = re.sub(r"<meta http-equiv=[^>]*>", "", bad)
    assert seen(open_to_all, tmp_path)[0]["fetched"] == ["http://127.0.0.1:9/x.png"]
