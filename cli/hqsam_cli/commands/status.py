"""`hqsam status`: the state of each replica of a server."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import Counter, defaultdict

from hqsam_client import server_status
from hqsam_client.client import HQSam
from hqsam_client.errors import HQSamError
from hqsam_client.server_status import ServerStatus
from hqsam_client.shared import channel
from hqsam_client.shared.channel import Replica

from hqsam_cli import options

_EPILOG = """\
A replica is ready if Triton says so, and embed and segment answer: Triton alone says so even
if a model's process has died. --probe also runs the encoder and the decoder; use
`hqsam status --probe --local` as a liveness probe. The exit status is 0 if every replica
is ready and, with --probe, segmented the image; else 1.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hqsam status`."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "--probe",
        action="store_true",
        help="also segment an image of one pixel, which the server encodes the first time",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object for each replica")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--local",
        action="store_true",
        help="of the servers that this user runs here, whatever their ports, keys and TLS, "
        "instead of --url",
    )
    which.add_argument(
        "--metrics-port",
        type=options.port,
        metavar="PORT",
        help="read the figures of the embedding store from this port of each replica's host "
        "(hqsam serve: 8002)",
    )
    # A probe is to fail in time: an encode gets no longer than any other answer.
    options.add_server_arguments(parser, one_timeout_s=10.0)


def run(args: argparse.Namespace) -> int:
    """Print the state of each replica; the status is 1 unless all are well."""
    replicas = _local() if args.local else channel.replicas(args.url)
    if not replicas:
        print("no server of this user runs here: start one with `hqsam serve`")
        return 1
    on_host = Counter(map(_host, replicas))
    well = True
    for replica in replicas:
        try:
            status = _read(replica, args)
        except HQSamError as error:
            well = False
            _print_failure(replica.address, error, args.json)
            continue
        well = well and status.ready
        # One port of a host says nothing about which of its replicas listens there.
        if args.metrics_port is not None and on_host[_host(replica)] == 1:
            metrics = server_status.read_metrics(_host(replica), args.metrics_port, args.timeout)
            status = dataclasses.replace(status, metrics=metrics)
        _print(replica.address, status, args)
    return 0 if well else 1


def _local() -> list[Replica]:
    from hqsam_server.launcher.workspace import local_servers

    return [Replica(address, None) for address in local_servers()]


def _read(replica: Replica, args: argparse.Namespace) -> ServerStatus:
    with HQSam(replica.address, authority=replica.authority, **options.client_options(args)) as sam:
        return server_status.read(sam, args.timeout, args.probe)


def _host(replica: Replica) -> str:
    return replica.address.rpartition(":")[0].strip("[]")


def _print_failure(address: str, error: HQSamError, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"replica": address, "ready": False, "error": str(error)}))
    else:
        print(f"{address}: failed: {error}")


def _print(address: str, status: ServerStatus, args: argparse.Namespace) -> None:
    if args.json:
        print(json.dumps({"replica": address, **dataclasses.asdict(status)}))
        return
    state = "ready" if status.ready else "not ready"
    print(f"{address}: {state}, Triton {status.version}")
    if status.model is not None:
        print(f"  model   {status.model}")
    if status.problem is not None:
        print(f"  problem {status.problem}")
    ready = [f"{model.name} {'+'.join(model.versions)}" for model in status.models if model.ready]
    print(f"  ready   {', '.join(ready) or 'no model'}")
    if missing := [model.name for model in status.models if not model.ready]:
        print(f"  missing {', '.join(missing)}")
    if args.metrics_port is not None:
        print(f"  store   {_store(status.metrics, args.metrics_port)}")
    if status.probe_s is not None:
        print(f"  probe   answered in {status.probe_s:.3f} s")


def _store(metrics: dict[str, float], port: int) -> str:
    if not metrics:
        return f"unknown: port {port} of the host has no metrics of this replica alone"
    counts = defaultdict(float, metrics)
    return (
        "{store_entries:.0f} images, {store_bytes:.0f} bytes; {store_hits:.0f} hits, "
        "{store_misses:.0f} misses, {store_evictions:.0f} evictions; "
        "{encodes:.0f} encodes, {prompts:.0f} prompts"
    ).format_map(counts)
