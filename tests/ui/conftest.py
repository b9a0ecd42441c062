"""The page on a running server with a tiny random model, and a browser."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hqsam_client import HQSam
from hqsam_server import TritonServer
from hqsam_testing import browser as browsers
from hqsam_testing.command import Command, hqsam
from hqsam_testing.waiting import TIMEOUT_S
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.ui.driving import DESK, Visit, image_file


@pytest.fixture(scope="session")
def server(tiny_server: TritonServer) -> TritonServer:
    return tiny_server


@pytest.fixture
def sam(server: TritonServer) -> Iterator[HQSam]:
    with HQSam(server.grpc_url, timeout_s=TIMEOUT_S) as client:
        yield client


@pytest.fixture
def unused_address() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def hqsam_ui(*arguments: str) -> Iterator[tuple[str, Command]]:
    """Run `hqsam ui` on a free port; yields its address and the command."""
    with Command(hqsam("ui", "--port=0", *arguments)) as command:
        yield command.line("HQ-SAM page on http://").split()[3], command
        status = command.stop(signal.SIGTERM)
        assert status == 0, command.output()


@pytest.fixture
def photo() -> bytes:
    """A new image of 300 x 200 pixels as a PNG file."""
    return image_file(300, 200)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A Chromium that is installed on this machine."""
    executable = browsers.find()
    if executable is None:
        pytest.skip(browsers.MISSING)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=executable,
            # Chromium's sandbox does not start for root, as in containers.
            args=["--no-sandbox", "--disable-dev-shm-usage"],
        )
        yield running
        running.close()


# Playwright does not see the bodies of requests that are blobs.
RECORD_PROMPTS = """
    const original = window.fetch;
    window.sentPrompts = [];
    window.fetch = async (path, options) => {
        if (path.endsWith("/mask")) {
            const text = await new Response(options.body).text();
            sentPrompts.push(text.split("\\n")[0]);
        }
        return original(path, options);
    };
"""


@pytest.fixture(scope="session")
def home(small_server: TritonServer) -> Iterator[str]:
    """The page on the server with the small model."""
    with hqsam_ui("--url", small_server.grpc_url) as (address, _):
        yield address


@pytest.fixture
def visit(browser: Browser, home: str) -> Iterator[Visit]:
    """Opens the page; fails the test if the page's script raised an error."""
    contexts: list[BrowserContext] = []
    failures: list[str] = []

    def open_page(address: str = home, **options: Any) -> Page:
        options.setdefault("viewport", DESK)
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(1e3 * TIMEOUT_S)
        page = context.new_page()
        page.add_init_script(RECORD_PROMPTS)
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto(address)
        return page

    expect.set_options(timeout=1e3 * TIMEOUT_S)
    yield open_page
    for context in contexts:
        context.close()
    assert not failures
