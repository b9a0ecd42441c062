"""`hqsam status`: what each replica says of itself."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import defaultdict

from hqsam_client import server_status
from hqsam_client.errors import HQSamError
from hqsam_client.server_status import ServerStatus
from hqsam_client.shared import channel

from hqsam_cli import options

_EPILOG = """\
The exit status is 0 if every replica is ready (and, with --probe, answered), else 1: use
`hqsam status --probe --timeout 10` as a liveness probe. Triton alone keeps saying that it
is ready when a process behind one of its models has died; the probe's call notices.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hqsam status`."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "--probe",
        action="store_true",
        help="also segment an image of one pixel; the first time, it is encoded",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object a replica")
    parser.add_argument(
        "--metrics-port",
        type=int,
        default=8002,
        metavar="PORT",
        help="of the replicas' Prometheus endpoints, for the store's figures "
        "(default: %(default)s)",
    )
    options.add_server_arguments(parser)
    parser.set_defaults(timeout=5.0)


def run(args: argparse.Namespace) -> int:
    """Print the status of each replica; returns 1 unless all are well."""
    well = True
    for replica in channel.replicas(args.url):
        try:
            with options.connect(args, replica) as sam:
                status = server_status.read(sam, args.timeout, args.probe)
        except HQSamError as error:
            well = False
            _print_failure(replica.address, error, args.json)
            continue
        host = replica.address.rpartition(":")[0].strip("[]")
        metrics = server_status.read_metrics(host, args.metrics_port, args.timeout)
        well = well and status.ready
        _print(replica.address, dataclasses.replace(status, metrics=metrics), args.json)
    return 0 if well else 1


def _print_failure(address: str, error: HQSamError, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"replica": address, "ready": False, "error": str(error)}))
    else:
        print(f"{address}: failed: {error}")


def _print(address: str, status: ServerStatus, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"replica": address, **dataclasses.asdict(status)}))
        return
    state = "ready" if status.ready else "not ready"
    print(f"{address}: {state}, Triton {status.version}")
    ready = [f"{model.name} {'+'.join(model.versions)}" for model in status.models if model.ready]
    print(f"  ready   {', '.join(ready) or 'no model'}")
    if missing := [model.name for model in status.models if not model.ready]:
        print(f"  missing {', '.join(missing)}")
    print(f"  store   {_store(status.metrics)}")
    if status.probe_s is not None:
        print(f"  probe   answered in {status.probe_s:.3f} s")


def _store(metrics: dict[str, float]) -> str:
    if not metrics:
        return "unknown: no metrics at --metrics-port"
    counts = defaultdict(float, metrics)
    return (
        "{store_entries:.0f} images, {store_bytes:.0f} bytes; {store_hits:.0f} hits, "
        "{store_misses:.0f} misses, {store_evictions:.0f} evictions; "
        "{encodes:.0f} encodes, {prompts:.0f} prompts"
    ).format_map(counts)
