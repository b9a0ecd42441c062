"""Serves the page, for a running HQ-SAM server or together with one of its own."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import uvicorn
from hqsam_client import AsyncHQSam, HQSamError, MissingPackageError, OptionError
from hqsam_client.image_files import ValueRange
from starlette.applications import Starlette

from hqsam_ui.app import create_app
from hqsam_ui.errors import PageStartError
from hqsam_ui.folder import Folder
from hqsam_ui.guard import LOOPBACK


class PageServer:
    """The page's web server; runs in a thread.

    ```python
    with PageServer("127.0.0.1", 7860) as page:
        page.start(lambda: AsyncHQSam("localhost:8001"))
        print(page.address)
        page.wait()
    ```

    Args:
        host: the address to listen on.
        port: the port; 0 for a free one.
        allow_hosts: further host names that the page is served as, by a proxy for example.
        folder: the images that the page works on; None for those that the user chooses.
        value_range: as in `HQSam.open`, for all images.

    Raises:
        OptionError: on entering: the address or port cannot be used.
    """

    def __init__(
        self,
        host: str,
        port: int,
        allow_hosts: Collection[str] = (),
        folder: Folder | None = None,
        value_range: ValueRange | None = None,
    ) -> None:
        self._folder = folder
        self._value_range = value_range
        self._host = host
        self._port = port
        self._allow_hosts = allow_hosts
        self._listener: socket.socket
        self._server: _Uvicorn | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> PageServer:
        """Listen on the port."""
        self._listener = _listen(self._host, self._port)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop serving and free the port."""
        if self._server is not None:
            self._server.should_exit = True
        self.wait()
        self._listener.close()

    @property
    def address(self) -> str:
        """The page's URL."""
        host, port = self._listener.getsockname()[:2]
        if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
            host = socket.gethostname()
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def start(self, make_client: Callable[[], AsyncHQSam]) -> None:
        """Start serving; returns once the page answers.

        Args:
            make_client: makes the client of the HQ-SAM server; called in an event loop.

        Raises:
            HQSamError: the client cannot be made, or the page cannot be served.
        """
        started: Future[None] = Future()
        app = create_app(
            make_client,
            self._hosts(),
            any_address=self._host not in LOOPBACK,
            folder=self._folder,
            value_range=self._value_range,
        )
        config = uvicorn.Config(
            app,
            # `_serve` runs the app's lifespan: uvicorn would only log what fails in it.
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=3,
        )
        self._server = server = _Uvicorn(config, started)

        def run() -> None:
            try:
                asyncio.run(_serve(app, server, self._listener))
            except BaseException as error:
                if started.done():
                    raise
                started.set_exception(error)

        self._thread = threading.Thread(target=run, name="hqsam-ui", daemon=True)
        self._thread.start()
        try:
            started.result()
        except (HQSamError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise PageStartError(f"the page cannot be served: {error}") from error

    def wait(self) -> None:
        """Wait until the page is no longer served."""
        if self._thread is not None:
            self._thread.join()

    def _hosts(self) -> set[str]:
        """Return the host names to accept, in lower case."""
        names = {*LOOPBACK, *self._allow_hosts}
        if self._host not in LOOPBACK:
            names |= {self._host, socket.gethostname(), socket.getfqdn()}
        return {name.lower() for name in names}


class _Uvicorn(uvicorn.Server):
    """A server that reports when it has started."""

    def __init__(self, config: uvicorn.Config, started: Future[None]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started.set_result(None)


async def _serve(app: Starlette, server: uvicorn.Server, listener: socket.socket) -> None:
    async with app.router.lifespan_context(app):
        await server.serve([listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise OptionError(
            f"cannot listen on {host}:{port}: {error}; choose another --port, or 0 for a free one"
        ) from error


def serve(
    page: PageServer, url: str, options: dict[str, Any], ready: Callable[[str], None]
) -> None:
    """Serve the page for a running HQ-SAM server until the thread is interrupted.

    Args:
        page: listens already.
        url: the HQ-SAM server's address; see `AsyncHQSam`.
        options: further arguments of `AsyncHQSam`.
        ready: called with the HQ-SAM server's address once the page answers.

    Raises:
        HQSamError: the client cannot be made, or the page cannot be served.
    """
    page.start(lambda: AsyncHQSam(url, **options))
    ready(url)
    page.wait()


def serve_with_triton(
    page: PageServer,
    model_repository: Path | None,
    options: dict[str, Any],
    ready: Callable[[str], None],
    report: Callable[[str], None],
) -> None:
    """Start an HQ-SAM server on free ports and serve the page for it; see `serve`.

    The server is supervised, and stopped with the page.

    Args:
        page: listens already.
        model_repository: what the server serves; None for the small model.
        options: further arguments of `AsyncHQSam`.
        ready: called with the HQ-SAM server's address once the page answers.
        report: called with a line for each event in the server's life.

    Raises:
        HQSamError: the server or the page cannot be started, or the server keeps dying.
        MissingPackageError: the extra `server` is not installed.
    """
    try:
        from hqsam_server import TritonServer, supervise
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"the package {error.name} is missing: pip install 'hqsam-triton[server,ui]'"
        ) from error
    report("starting the HQ-SAM server")
    with TritonServer(model_repository, log=sys.stderr) as server:
        url = server.grpc_url
        page.start(lambda: AsyncHQSam(url, **options))
        ready(url)
        supervise(server, report)
