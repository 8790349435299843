"""The report as a reader meets it: opened in a browser, without a complaint and without a request to a network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from presage_modeling.evaluation.report import write_report
from tests.lib import evaluation as made

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSERS_OWN = r"[a-z]+\d*\.(google|gvt1|googleapis)\.com|[a-z-]+-pa\.googleapis\.com"
PAGES = r"(fonts|ajax|maps)\.googleapis\.com"
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
    "--virtual-time-budget=3000",
)  # fmt: skip


def browse(page: str, folder: Path, *arguments: str) -> tuple[str, str, set[str]]:
    """Open a page; return the DOM, console lines, and the hosts that were asked for anything."""
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium: the CI machine must have it")
        pytest.skip("no Chromium on this machine")
    log = folder / "net.json"
    run = subprocess.run(
        [CHROMIUM, *QUIET, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", *arguments, page],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    console = "\n".join(line for line in run.stderr.splitlines() if "CONSOLE" in line)
    events = json.loads(log.read_text().rstrip().rstrip(",") + ("" if log.read_text().rstrip().endswith("}") else "]}"))
    urls = [event["params"]["url"] for event in events["events"] if "url" in event.get("params", {})]
    return run.stdout, console, {urlsplit(url).netloc for url in urls if url.startswith(("http", "ws", "ftp"))}


def asked_by_the_page(page: Path, folder: Path) -> tuple[str, str, set[str]]:
    """Open a page; of the hosts, leave out those that the browser asks for by itself, whatever the page."""
    dom, console, hosts = browse(page.as_uri(), folder, "--dump-dom")
    return dom, console, {host for host in hosts if re.fullmatch(PAGES, host) or not re.fullmatch(BROWSERS_OWN, host)}


def test_v59_the_report_opens_without_a_message_or_a_request(tmp_path: Path) -> None:
    page = write_report(made.document(synthetic=True), tmp_path / "report")
    dom, console, hosts = asked_by_the_page(page, tmp_path)
    assert console == ""
    assert hosts == set()
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?https?:", page.read_text())
    assert dom.count("<svg") == dom.count("<figure") >= 6
    assert "synthetic data" in dom and page.stat().st_size < 10_000_000


@pytest.mark.parametrize("width", [1280, 375])
def test_v59_the_report_can_be_seen(tmp_path: Path, width: int) -> None:
    from matplotlib.image import imread

    page = write_report(made.document(synthetic=True), tmp_path / "report")
    picture = tmp_path / "report.png"
    browse(page.as_uri(), tmp_path, f"--window-size={width},1600", f"--screenshot={picture}")
    pixels = imread(picture)
    assert pixels.shape[1] >= min(width, 375)
    assert pixels[..., :3].std() > 0.05, "the picture is blank"


def test_v54_a_script_or_a_picture_from_elsewhere_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<script>console.error('x')</script><img src='http://127.0.0.1:9/a.png'>")
    _, console, hosts = asked_by_the_page(page, tmp_path)
    assert "CONSOLE" in console and "127.0.0.1:9" in hosts
