"""The browser that the page's tests run in."""

from __future__ import annotations

import os
import shutil

VARIABLE = "HQSAM_TEST_BROWSER"
"""Environment variable with the path of a Chromium to use."""

_NAMES = ("chromium", "chromium-browser", "google-chrome")

MISSING = f"no Chromium found: run apt-get install chromium, or set {VARIABLE} to its path"


def find() -> str | None:
    """Return the path of an installed Chromium, or None; none is downloaded."""
    return os.environ.get(VARIABLE) or next(filter(None, map(shutil.which, _NAMES)), None)
