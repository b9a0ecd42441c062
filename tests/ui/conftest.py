"""The page on a running server with the small model, and a browser."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hqsam_client import HQSam
from hqsam_server import TritonServer
from hqsam_testing import browser as browsers
from hqsam_testing.servers import small_server
from hqsam_testing.waiting import TIMEOUT_S
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.ui.driving import DESK, Visit, image_file

__all__ = ["small_server"]


@pytest.fixture(scope="package")
def server(small_server: TritonServer) -> TritonServer:
    return small_server


@pytest.fixture
def sam(server: TritonServer) -> Iterator[HQSam]:
    with HQSam(server.grpc_url, timeout_s=TIMEOUT_S) as client:
        yield client


@pytest.fixture
def unused_address() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def photo() -> bytes:
    """A new image of 300 x 200 pixels as a PNG file."""
    return image_file(300, 200)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A Chromium that is installed on this machine."""
    if browsers.find() is None:
        pytest.skip(browsers.MISSING)
    with browsers.launched() as running:
        yield running


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


@pytest.fixture(scope="package")
def home(small_server: TritonServer) -> Iterator[str]:
    """The page on the server with the small model."""
    with browsers.hqsam_ui("--url", small_server.grpc_url) as (address, _):
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
