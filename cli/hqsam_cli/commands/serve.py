"""`hqsam serve`."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from hqsam_server.launcher.tuning import Tuning, default_cache_dir


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `hqsam serve`."""
    parser.epilog = (
        "Flags are named as Triton names them. What stands behind -- goes to tritonserver "
        "as it is: hqsam serve -- --log-verbose=1"
    )
    parser.add_argument(
        "--model-repository",
        type=Path,
        default=Path("model_repository"),
        metavar="FOLDER",
        help="what hqsam export wrote (default: %(default)s)",
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="serve the small model of the package, for trying and testing, instead",
    )
    for service, port in (("grpc", 8001), ("http", 8000), ("metrics", 8002)):
        parser.add_argument(
            f"--{service}-port",
            type=int,
            default=port,
            metavar="PORT",
            help="0 takes a free one (default: %(default)s)",
        )
        parser.add_argument(
            f"--{service}-address",
            default="127.0.0.1",
            metavar="ADDRESS",
            help="0.0.0.0 lets other machines in (default: %(default)s)",
        )
    parser.add_argument(
        "--precision",
        choices=("auto", "bf16", "fp32"),
        default="auto",
        help="arithmetic of the ONNX models but the contract's decoder, which stays fp32; auto "
        "is bf16 where the processor has it (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads of a model (default: all processors)"
    )
    parser.add_argument(
        "--instances",
        type=int,
        metavar="N",
        help="instances of prompt_decoder, between which --threads' default is divided "
        "(default: one for every eight processors)",
    )
    parser.add_argument(
        "--model-config-name",
        default="cpu",
        metavar="NAME",
        help="prefer this one of each model's configs/ (default: %(default)s)",
    )
    parser.add_argument(
        "--backend-directory",
        type=Path,
        metavar="FOLDER",
        help="run the models on Triton's own backends, on GPUs too, instead of on this "
        "package's; precision, threads and instances are then what the configs say",
    )
    parser.add_argument(
        "--cache-dir",
        type=Path,
        default=default_cache_dir(),
        metavar="FOLDER",
        help="compiled models, for a fast second start (default: %(default)s)",
    )
    parser.add_argument(
        "--store-folder",
        metavar="FOLDER",
        help="keep embeddings here, also when the server stops (default: in memory, and gone "
        "with the server)",
    )
    parser.add_argument(
        "--exit-timeout-secs",
        type=int,
        default=30,
        metavar="SECONDS",
        help="how long requests under way may take when the server stops (default: %(default)s)",
    )
    _add_tls_arguments(parser)
    parser.add_argument("arguments", nargs="*", metavar="-- ARGUMENT", help=argparse.SUPPRESS)


_TLS_FILES = {
    "grpc-server-cert": "the server's certificate",
    "grpc-server-key": "its private key",
    "grpc-root-cert": "what issues the clients' certificates",
}


def _add_tls_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("TLS of gRPC")
    group.add_argument("--grpc-use-ssl", action="store_true", help="encrypt")
    group.add_argument(
        "--grpc-use-ssl-mutual",
        action="store_true",
        help="encrypt, and let in only clients that have a certificate",
    )
    for name, text in _TLS_FILES.items():
        group.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"{text}, PEM")


def _tls_arguments(args: argparse.Namespace) -> list[str]:
    """Return the TLS options as `tritonserver` takes them.

    Raises:
        StartError: a file is missing.
    """
    from hqsam_server.errors import StartError

    options = vars(args)
    flags = [
        f"--{name}=true"
        for name in ("grpc-use-ssl", "grpc-use-ssl-mutual")
        if options[name.replace("-", "_")]
    ]
    for name in _TLS_FILES:
        file: Path | None = options[name.replace("-", "_")]
        if file is None:
            continue
        # Triton would say only that something is wrong.
        if not file.is_file():
            raise StartError(f"--{name} is {file}, which is not there: check the path")
        # Triton runs in another folder.
        flags.append(f"--{name}={file.resolve()}")
    return flags


def run(args: argparse.Namespace) -> int:
    """Run `hqsam serve` until it is told to stop, and return the exit status."""
    from hqsam_server.launcher.endpoint import Endpoint
    from hqsam_server.launcher.triton_server import TritonServer
    from hqsam_server.launcher.watch import supervise

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    server = TritonServer(
        None if args.small else args.model_repository,
        grpc=Endpoint(args.grpc_port, args.grpc_address),
        http=Endpoint(args.http_port, args.http_address),
        metrics=Endpoint(args.metrics_port, args.metrics_address),
        tuning=Tuning(
            args.precision,
            args.threads,
            args.instances,
            args.cache_dir,
            args.model_config_name,
            args.backend_directory,
        ),
        environment={"HQSAM_STORE_FOLDER": args.store_folder} if args.store_folder else {},
        arguments=[*_tls_arguments(args), *args.arguments],
        exit_timeout_s=args.exit_timeout_secs,
        log=sys.stderr,
    )
    try:
        with server:
            model = "the small model" if args.small else args.model_repository
            print(
                f"serving {model} on grpc://{server.grpc_url} "
                f"http://{server.http_url} metrics http://{server.metrics_url}/metrics",
                flush=True,
            )
            supervise(server)
    except KeyboardInterrupt:
        pass
    return 0
