"""`hqsam ui`."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from hqsam_client import AsyncHQSam, OptionError

from hqsam_cli import options

if TYPE_CHECKING:
    from hqsam_server import TritonServer

_EPILOG = """\
The page speaks to the server of --url, or with --serve to one that it starts on free ports
and stops with itself. There is no login: whoever reaches the page can use it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `hqsam ui`."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="where the page is; 0.0.0.0 lets other machines in (default: %(default)s)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=7860,
        help="0 takes a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that a proxy gives the page; on loopback it goes by localhost only",
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    group = parser.add_argument_group("a server of its own")
    group.add_argument(
        "--serve", action="store_true", help="start one, instead of --url (needs the extra server)"
    )
    group.add_argument(
        "--model-repository",
        type=Path,
        metavar="FOLDER",
        help="what hqsam export wrote; implies --serve (default: model_repository)",
    )
    group.add_argument(
        "--small", action="store_true", help="the small model of the package; implies --serve"
    )
    options.add_server_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page until told to stop, and return the exit status."""
    if args.small and args.model_repository is not None:
        raise OptionError("--small and --model-repository were given, expected one of them")

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        with _listen(args.host, args.port) as listener:
            if args.serve or args.small or args.model_repository is not None:
                _run_with_server(args, listener)
            else:
                with _serving(args, listener) as thread:
                    thread.join()
    except KeyboardInterrupt:
        pass
    return 0


def _run_with_server(args: argparse.Namespace, listener: socket.socket) -> None:
    """Serve the page on a server that is started, watched and stopped here."""
    from hqsam_server import TritonServer, supervise

    repository = None if args.small else args.model_repository or Path("model_repository")
    print("hqsam ui: starting the server", file=sys.stderr, flush=True)
    server: TritonServer = TritonServer(repository, log=sys.stderr)
    with server:
        args.url, args.tls = server.grpc_url, False
        args.root_certificates = args.client_certificate = args.client_key = None
        with _serving(args, listener):
            supervise(server)


@contextmanager
def _serving(args: argparse.Namespace, listener: socket.socket) -> Iterator[threading.Thread]:
    """Serve the page from a thread; the main one is told to stop, and watches the server."""
    import uvicorn
    from hqsam_ui.app import create_app

    app = create_app(lambda: _client(args), _hosts(args))
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=3,
    )
    page = uvicorn.Server(config)
    thread = threading.Thread(target=page.run, args=([listener],), name="hqsam-ui", daemon=True)
    thread.start()
    try:
        _announce(args, listener)
        yield thread
    finally:
        page.should_exit = True
        thread.join()


def _announce(args: argparse.Namespace, listener: socket.socket) -> None:
    """Print where the page is. It listens already: who comes now is answered soon."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = socket.gethostname()
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(f"HQ-SAM page on {address} for {args.url}", flush=True)
    if args.open:
        import webbrowser

        webbrowser.open(address)


def _client(args: argparse.Namespace) -> AsyncHQSam:
    return AsyncHQSam(
        args.url,
        timeout_s=args.timeout,
        embed_timeout_s=args.embed_timeout,
        tls=args.tls,
        root_certificates=args.root_certificates,
        client_certificate=args.client_certificate,
        client_key=args.client_key,
        token=os.environ.get("HQSAM_TOKEN"),
    )


def _hosts(args: argparse.Namespace) -> Collection[str] | None:
    """Return the names that the page goes by, or None where any will do."""
    from hqsam_ui.guard import LOOPBACK

    if args.host in LOOPBACK:
        return {*LOOPBACK, *args.allow_host}
    return {args.host, *LOOPBACK, *args.allow_host} if args.allow_host else None


def _listen(host: str, port: int) -> socket.socket:
    """Bind the page's port.

    Raises:
        OptionError: it cannot be bound.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise OptionError(
            f"{host}:{port} cannot be listened on: {error}; choose another --port, or 0 for a "
            "free one"
        ) from error
