"""Options that every command which talks to a server takes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from hqsam_client.client import HQSam
from hqsam_client.shared.base import DEFAULT_EMBED_TIMEOUT_S, DEFAULT_TIMEOUT_S, DEFAULT_URL
from hqsam_client.shared.channel import Replica


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the address, timeouts and credentials of a server."""
    group = parser.add_argument_group("server")
    group.add_argument(
        "--url",
        default=os.environ.get("HQSAM_URL", DEFAULT_URL),
        help="host:port; several separated by commas; or a gRPC name such as "
        f"dns:///hqsam-headless:8001 (default: $HQSAM_URL, else {DEFAULT_URL})",
    )
    group.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT_S,
        metavar="SECONDS",
        help="for an answer without encoding (default: %(default)g)",
    )
    group.add_argument(
        "--embed-timeout",
        type=float,
        default=DEFAULT_EMBED_TIMEOUT_S,
        metavar="SECONDS",
        help="for an image to be encoded (default: %(default)g)",
    )
    group.add_argument(
        "--tls",
        action="store_true",
        help="encrypt; a token is read from the environment variable HQSAM_TOKEN",
    )
    group.add_argument("--root-certificates", type=Path, metavar="PEM", help="implies --tls")
    group.add_argument("--client-certificate", type=Path, metavar="PEM", help="for mutual TLS")
    group.add_argument("--client-key", type=Path, metavar="PEM", help="for mutual TLS")


def client_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments of `HQSam` and `AsyncHQSam`, but for `url` and `authority`."""
    return {
        "timeout_s": args.timeout,
        "embed_timeout_s": args.embed_timeout,
        "tls": args.tls,
        "root_certificates": args.root_certificates,
        "client_certificate": args.client_certificate,
        "client_key": args.client_key,
        "token": os.environ.get("HQSAM_TOKEN"),
    }


def connect(args: argparse.Namespace, replica: Replica | None = None) -> HQSam:
    """Return a client for the server that the options describe, or for one of its replicas."""
    if replica is None:
        return HQSam(args.url, **client_options(args))
    return HQSam(replica.address, authority=replica.authority, **client_options(args))
