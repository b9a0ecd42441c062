"""`hqsam serve`."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from hqsam_client import OptionError
from hqsam_server import Endpoint, Tls, Tuning
from hqsam_server.launcher.options import default_cache_dir

_DEFAULT_REPOSITORY = Path("model_repository")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `hqsam serve`."""
    parser.epilog = (
        "Options that tritonserver has too go by its names. Arguments after -- are passed to "
        "tritonserver unchanged: hqsam serve -- --log-verbose=1"
    )
    parser.add_argument(
        "--model-repository",
        type=Path,
        metavar="FOLDER",
        help=f"what hqsam export wrote (default: {_DEFAULT_REPOSITORY})",
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="serve the package's small model instead, to try things and to test",
    )
    _add_endpoints(parser)
    _add_tuning(parser)
    parser.add_argument(
        "--store-folder",
        type=Path,
        metavar="FOLDER",
        help="keep embeddings in this folder, also after the server stops (default: in memory, "
        "until the server stops)",
    )
    parser.add_argument(
        "--start-timeout-secs",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="how long a start may take (default: %(default)g)",
    )
    parser.add_argument(
        "--exit-timeout-secs",
        type=int,
        default=30,
        metavar="SECONDS",
        help="how long requests under way may take when the server stops (default: %(default)s)",
    )
    _add_tls(parser)
    parser.add_argument("arguments", nargs="*", metavar="-- ARGUMENT", help=argparse.SUPPRESS)


def _add_endpoints(parser: argparse.ArgumentParser) -> None:
    for service, port in (("grpc", 8001), ("http", 8000), ("metrics", 8002)):
        parser.add_argument(
            f"--{service}-port",
            type=int,
            default=port,
            metavar="PORT",
            help="0 chooses a free port (default: %(default)s)",
        )
        parser.add_argument(
            f"--{service}-address",
            default="127.0.0.1",
            metavar="ADDRESS",
            help="0.0.0.0 accepts connections from other machines (default: %(default)s)",
        )


def _add_tuning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=("auto", "bf16", "fp32"),
        default="auto",
        help="arithmetic of the ONNX models, except the contract's decoder, which is always "
        "fp32; auto is bf16 if the processor has it (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads of each model (default: all processors)",
    )
    parser.add_argument(
        "--prompt-decoder",
        action="store_true",
        help="serve prompt_decoder as well, for callers that hold the embeddings themselves",
    )
    parser.add_argument(
        "--model-config-name",
        default="cpu",
        metavar="NAME",
        help="which of each model's configs/ to prefer (default: %(default)s)",
    )
    parser.add_argument(
        "--backend-directory",
        type=Path,
        metavar="FOLDER",
        help="run the models on Triton's own backends, also on GPUs, instead of this package's; "
        "the configs then set precision and threads",
    )
    parser.add_argument(
        "--cache-dir",
        type=Path,
        default=default_cache_dir(),
        metavar="FOLDER",
        help="compiled models, which make later starts fast (default: %(default)s)",
    )


def _add_tls(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("TLS of gRPC")
    group.add_argument(
        "--grpc-use-ssl",
        action="store_true",
        help="encrypt; needs --grpc-server-cert and --grpc-server-key",
    )
    group.add_argument(
        "--grpc-use-ssl-mutual",
        action="store_true",
        help="also accept only clients with a certificate; needs --grpc-root-cert as well",
    )
    for name, text in (
        ("grpc-server-cert", "the server's certificate"),
        ("grpc-server-key", "its private key"),
        ("grpc-root-cert", "the authority that issues the clients' certificates"),
    ):
        group.add_argument(f"--{name}", type=Path, metavar="PEM", help=text)


def _tls(args: argparse.Namespace) -> Tls | None:
    """Return what the TLS options say.

    Raises:
        OptionError: one is missing, or would do nothing.
    """
    mutual: bool = args.grpc_use_ssl_mutual
    needed = {
        "--grpc-server-cert": args.grpc_server_cert,
        "--grpc-server-key": args.grpc_server_key,
    }
    root = {"--grpc-root-cert": args.grpc_root_cert}
    if not (args.grpc_use_ssl or mutual):
        useless = [name for name, file in (needed | root).items() if file is not None]
        if useless:
            raise OptionError(
                f"{useless[0]} does nothing without TLS: add --grpc-use-ssl or "
                "--grpc-use-ssl-mutual"
            )
        return None
    flag = "--grpc-use-ssl-mutual" if mutual else "--grpc-use-ssl"
    for name, file in (needed | (root if mutual else {})).items():
        if file is None:
            raise OptionError(f"{flag} needs {name}: give a PEM file")
    return Tls(args.grpc_server_cert, args.grpc_server_key, args.grpc_root_cert if mutual else None)


def run(args: argparse.Namespace) -> int:
    """Run `hqsam serve` until it is told to stop, and return the exit status."""
    from hqsam_server import TritonServer, supervise

    if args.small and args.model_repository is not None:
        raise OptionError("--small and --model-repository were both given: expected one of them")

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    repository = None if args.small else args.model_repository or _DEFAULT_REPOSITORY
    server = TritonServer(
        repository,
        grpc=Endpoint(args.grpc_port, args.grpc_address),
        http=Endpoint(args.http_port, args.http_address),
        metrics=Endpoint(args.metrics_port, args.metrics_address),
        tls=_tls(args),
        tuning=Tuning(
            args.precision,
            args.threads,
            args.prompt_decoder,
            args.cache_dir,
            args.model_config_name,
            args.backend_directory,
        ),
        environment={"HQSAM_STORE_FOLDER": str(args.store_folder)} if args.store_folder else {},
        arguments=args.arguments,
        start_timeout_s=args.start_timeout_secs,
        exit_timeout_s=args.exit_timeout_secs,
        log=sys.stderr,
    )
    model = repository or "the small model"
    try:
        with server:
            print(
                f"serving {model} on grpc://{server.grpc_url} "
                f"http://{server.http_url} metrics http://{server.metrics_url}/metrics",
                flush=True,
            )
            supervise(server)
    except KeyboardInterrupt:
        pass
    return 0
