"""`hqsam ui`."""

from __future__ import annotations

import argparse
import functools
import signal
import sys
import webbrowser
from pathlib import Path
from types import FrameType

from hqsam_cli import options

_EPILOG = """\
The page uses the server at --url or, with --serve, a server that it starts on free ports and
stops when it ends. The page has no login: everyone who can reach it can use the server.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `hqsam ui`."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "folder",
        nargs="?",
        type=options.path,
        metavar="FOLDER",
        help="work on the images in this folder; the work is saved beside them",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="listen on this address; 0.0.0.0 lets other machines in (default: %(default)s)",
    )
    parser.add_argument(
        "--port",
        type=options.not_negative,
        default=7860,
        help="listen on this port; 0 takes a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="accept this host name, too, such as a proxy's; may be repeated",
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    group = parser.add_argument_group("start a server")
    group.add_argument(
        "--serve",
        action="store_true",
        help="start a server and use it instead of --url (needs the extra server)",
    )
    served = group.add_mutually_exclusive_group()
    served.add_argument(
        "--model-repository",
        type=options.path,
        metavar="FOLDER",
        help="serve this output of hqsam export; implies --serve (default: model_repository)",
    )
    served.add_argument(
        "--small",
        action="store_true",
        help="serve the package's small model, for a first try; implies --serve",
    )
    options.add_image_arguments(parser)
    options.add_server_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page until interrupted, and return the exit status."""
    # First, so that a missing package is reported before a server is started.
    from hqsam_ui import serving
    from hqsam_ui.folder import Folder

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        images = None if args.folder is None else Folder(args.folder)
        with serving.PageServer(
            args.host, args.port, args.allow_host, images, args.value_range
        ) as page:
            announce = functools.partial(_announce, page.address, args.open)
            if args.serve or args.small or args.model_repository is not None:
                repository = args.model_repository or Path("model_repository")
                serving.serve_with_triton(
                    page,
                    None if args.small else repository,
                    {"timeout_s": args.timeout, "embed_timeout_s": args.embed_timeout},
                    announce,
                    _report,
                )
            else:
                serving.serve(page, args.url, options.client_options(args), announce)
    except KeyboardInterrupt:
        pass
    return 0


def _announce(address: str, open_browser: bool, url: str) -> None:
    print(f"HQ-SAM page on {address} for {url}", flush=True)
    if open_browser:
        webbrowser.open(address)


def _report(line: str) -> None:
    print(f"hqsam ui: {line}", file=sys.stderr, flush=True)
