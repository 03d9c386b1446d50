"""The report's page in a browser."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.usefixtures("few_draws"),
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]
CHROMIUM_PROBE = """
setInterval(() => {
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  document.title = `${wide} ${document.querySelectorAll(".vega-embed svg").length}`;
}, 200);
"""


def test_scripts_draw_every_figure_and_nothing_scrolls_sideways_on_a_narrow_screen(html: str, tmp_path: Path) -> None:
    page = html.replace("b.mp4", "a/long/path/" * 12 + "b.mp4")
    assert page != html
    assert title_of(page, CHROMIUM_PROBE, tmp_path) == f"0 {html.count('data-spec=')}"


SORTED = """
addEventListener("load", () => {
  const named = (table) => table.caption.textContent.startsWith("Networks and controls on the test split");
  const table = [...document.querySelectorAll("main table")].find(named);
  const button = [...table.querySelectorAll("thead button")].find((each) => each.textContent === "AUC");
  const column = () => [...table.tBodies[0].rows].map((row) => parseFloat(row.cells[2].textContent)).join();
  const found = [column()];
  for (let click = 0; click < 3; click++) { button.click(); found.push(column()); }
  document.title = found.join(" ");
});
"""


def test_a_head_sorts_its_table_and_gives_the_order_back(html: str, tmp_path: Path) -> None:
    orders = [[float(value) for value in order.split(",")] for order in title_of(html, SORTED, tmp_path).split()]
    first, up, down, last = orders
    assert up == sorted(first) != first
    assert down == sorted(first, reverse=True)
    assert last == first


def title_of(html: str, probe: str, folder: Path) -> str:
    """The title of the page in a browser, after this script: under the page's own policy, with this one allowed."""
    digest = base64.b64encode(hashlib.sha256(probe.encode()).digest()).decode()
    page = html.replace("script-src ", f"script-src &#39;sha256-{digest}&#39; ")
    path = folder / "probe.html"
    path.write_text(f"<script>{probe}</script></body>".join(page.rsplit("</body>", 1)))
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,2000", "--virtual-time-budget=8000",
        f"--user-data-dir={folder}/user",
    ]  # fmt: skip
    command = [CHROMIUM or "", *options, "--dump-dom", path.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    return re.findall(r"<title>(.*?)</title>", dom)[0]
