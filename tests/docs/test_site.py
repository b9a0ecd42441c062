"""The documentation as a site. Built here and not in `make check`, because CI needs it once."""

from __future__ import annotations

import html.parser
import os
import re
import subprocess
import sys
from pathlib import Path

import hqsam_client
import hqsam_server
import pytest

from tests.docs.pages import ROOT

LOADING = {"script": "src", "img": "src", "iframe": "src", "link": "href"}
IMAGES_BYTES = 1_000_000


class Page(html.parser.HTMLParser):
    """What a page loads, the anchors in it, and its text."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.anchors: list[str] = []
        self.text = ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.loaded += [values.get(LOADING.get(tag, "")) or ""]
        self.anchors += [values.get("id") or ""]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with every warning an error."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = [Page(file) for file in site.rglob("*.html")]
    loaded = {address for page in pages for address in page.loaded}
    assert "assets/iframe-worker.js" in loaded
    assert [address for address in loaded if address.startswith(("http:", "https:", "//"))] == []
    styles = "".join(file.read_text() for file in site.rglob("*.css"))
    assert "url(http" not in styles


def test_the_reference_has_every_public_name(site: Path) -> None:
    anchors = {anchor.rpartition(".")[2] for anchor in Page(site / "reference.html").anchors}
    public = {*hqsam_client.__all__, *hqsam_server.__all__} - {"__version__"}
    assert public <= anchors


def test_the_reference_shows_real_defaults_and_no_private_names(site: Path) -> None:
    text = Page(site / "reference.html").text
    assert "url: str = 'localhost:8001'" in text.replace('"', "'")
    assert re.findall(r"= (?:\w+\.)*_?[A-Z][A-Z_]{3,}\b", text) == []
    assert re.findall(r"(?<![\w.])_[A-Za-z]\w*", text) == []


def test_the_images_are_small_files() -> None:
    files = list((ROOT / "docs" / "images").iterdir())
    assert sum(file.stat().st_size for file in files) < IMAGES_BYTES
