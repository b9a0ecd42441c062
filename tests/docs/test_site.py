"""The documentation as a site. It is built here and not in `make check`: once is enough for CI."""

from __future__ import annotations

import html.parser
import os
import subprocess
import sys
from pathlib import Path

import hqsam_client
import pytest

from tests.docs.pages import ROOT

LOADING = {"script": "src", "img": "src", "iframe": "src", "link": "href"}
IMAGES_BYTES = 1_000_000


class Page(html.parser.HTMLParser):
    """What a page loads, and the places in it that can be linked."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.anchors: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.loaded += [values.get(LOADING.get(tag, "")) or ""]
        self.anchors += [values.get("id") or ""]


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
    assert set(hqsam_client.__all__) <= anchors


def test_the_images_are_small() -> None:
    files = list((ROOT / "docs" / "images").iterdir())
    assert sum(file.stat().st_size for file in files) < IMAGES_BYTES
