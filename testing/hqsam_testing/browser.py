"""The browser that the page's tests and benchmarks run in, and the page."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, expect, sync_playwright

from hqsam_testing.command import Command, hqsam
from hqsam_testing.waiting import TIMEOUT_S

VARIABLE = "HQSAM_TEST_BROWSER"
"""Environment variable with the path of a Chromium to use."""

_NAMES = ("chromium", "chromium-browser", "google-chrome")

MISSING = f"no Chromium found: run apt-get install chromium, or set {VARIABLE} to its path"


def find() -> str | None:
    """Return the path of an installed Chromium, or None; none is downloaded."""
    return os.environ.get(VARIABLE) or next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def launched() -> Iterator[Browser]:
    """Run the browser.

    Raises:
        FileNotFoundError: none is installed.
    """
    executable = find()
    if executable is None:
        raise FileNotFoundError(MISSING)
    expect.set_options(timeout=1e3 * TIMEOUT_S)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=executable,
            # Chromium's sandbox does not start for root, as in containers.
            args=["--no-sandbox", "--disable-dev-shm-usage"],
        )
        yield running
        running.close()


@contextmanager
def hqsam_ui(*arguments: str) -> Iterator[tuple[str, Command]]:
    """Run `hqsam ui` on a free port; yields its address and the command."""
    with Command(hqsam("ui", "--port=0", *arguments)) as command:
        yield command.line("HQ-SAM page on http://").split()[3], command
        status = command.stop(signal.SIGTERM)
        assert status == 0, command.output()
