"""`hqsam serve`."""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from hqsam_client import OptionError
from hqsam_server import PUBLIC_BOUNDS, Bounds, Endpoint, Front, Tls, Tuning
from hqsam_server.front.settings import KEYS_VARIABLE
from hqsam_server.launcher.options import ANY, LOOPBACK, default_cache_dir, tracing

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
        "--self-test",
        action="store_true",
        help="encode and segment an image before the server is ready, and end if that fails",
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
    _add_front(parser)
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
        public = "" if service == "metrics" else "; with --public 0.0.0.0"
        parser.add_argument(
            f"--{service}-address",
            metavar="ADDRESS",
            help=f"0.0.0.0 accepts connections from other machines (default: {LOOPBACK}{public})",
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


def _add_front(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("callers")
    group.add_argument(
        "--public",
        action="store_true",
        help="serve strangers: listen on all addresses, with stricter bounds on each caller; needs "
        "API keys or clients' certificates",
    )
    group.add_argument(
        "--anonymous",
        action="store_true",
        help="with --public: admit callers without a key or certificate",
    )
    group.add_argument(
        "--keys-file",
        type=Path,
        metavar="FILE",
        help="admit callers with an API key of this file only, a line NAME KEY for each; it is "
        "read again when it changes (default: the lines in $HQSAM_KEYS, if it is set)",
    )
    group.add_argument(
        "--http",
        action="store_true",
        help="serve KServe v2 over HTTP, too; without it that port only says whether the server is "
        "ready",
    )
    group.add_argument(
        "--open-model",
        action="append",
        metavar="NAME",
        help="let callers use this model besides embed and segment, such as hq_sam; may be "
        "repeated (default: the names in $HQSAM_OPEN_MODELS)",
    )
    group.add_argument(
        "--proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="address or network of a proxy: the x-forwarded-for that it sends names the caller; "
        "may be repeated",
    )
    group.add_argument(
        "--call-log",
        type=Path,
        metavar="FILE",
        help="write a line of JSON for each call: who, what, how it ended, how long it took",
    )
    group.add_argument(
        "--traces",
        metavar="URL",
        help="send OpenTelemetry's spans of calls with a traceparent to this collector, over HTTP: "
        "http://localhost:4318/v1/traces",
    )
    for name, kind, text in (
        ("caller-requests", int, "requests of one caller at a time"),
        ("caller-bytes", int, "bytes of one caller's requests and responses at a time"),
        ("caller-rate", float, "requests of one caller in a second"),
        ("caller-connections", int, "connections of one address"),
    ):
        usual, public = (_bound(it, name) for it in (Bounds(), PUBLIC_BOUNDS))
        also = "" if usual == public else f"; with --public {public}"
        default = "no limit" if usual is None else usual
        group.add_argument(
            f"--{name}", type=kind, metavar="N", help=f"{text} (default: {default}{also})"
        )


def _bound(bounds: Bounds, option: str) -> float | None:
    value: float | None = getattr(bounds, option.replace("-", "_"))
    return value


def _front(args: argparse.Namespace) -> Front:
    """Return what the options about callers say.

    Raises:
        OptionError: strangers would come in, or a bound lets nobody in.
    """
    admits_known = args.keys_file is not None or KEYS_VARIABLE in os.environ
    if args.public and not (admits_known or args.grpc_use_ssl_mutual or args.anonymous):
        raise OptionError(
            "--public would let everybody in: add --keys-file, or --grpc-use-ssl-mutual, or "
            "--anonymous if that is what you want"
        )
    if args.anonymous and not args.public:
        raise OptionError("--anonymous does nothing without --public")
    bounds = PUBLIC_BOUNDS if args.public else Bounds()
    for name in ("caller_requests", "caller_bytes", "caller_rate", "caller_connections"):
        value = getattr(args, name)
        if value is not None:
            if not value > 0:
                raise OptionError(f"--{name.replace('_', '-')} is {value}, expected more than 0")
            bounds = dataclasses.replace(bounds, **{name: value})
    front = Front(
        http=args.http,
        keys_file=args.keys_file,
        proxies=tuple(args.proxy),
        bounds=bounds,
        call_log=args.call_log,
    )
    if args.open_model is not None:
        front = dataclasses.replace(front, open_models=tuple(args.open_model))
    return front


def _endpoint(args: argparse.Namespace, service: str) -> Endpoint:
    address: str | None = getattr(args, f"{service}_address")
    if address is None:
        # Metrics are for operators, whoever the callers are.
        address = ANY if args.public and service != "metrics" else LOOPBACK
    return Endpoint(getattr(args, f"{service}_port"), address)


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
    from hqsam_server.launcher.repository_view import member

    if args.small and args.model_repository is not None:
        raise OptionError("--small and --model-repository were both given: expected one of them")

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    repository = None if args.small else args.model_repository or _DEFAULT_REPOSITORY
    server = TritonServer(
        repository,
        grpc=_endpoint(args, "grpc"),
        http=_endpoint(args, "http"),
        metrics=_endpoint(args, "metrics"),
        tls=_tls(args),
        front=_front(args),
        tuning=Tuning(
            args.precision,
            args.threads,
            args.cache_dir,
            args.model_config_name,
            args.backend_directory,
        ),
        environment={"HQSAM_STORE_FOLDER": str(args.store_folder)} if args.store_folder else {},
        arguments=[*(tracing(args.traces) if args.traces else ()), *args.arguments],
        self_test=args.self_test,
        start_timeout_s=args.start_timeout_secs,
        exit_timeout_s=args.exit_timeout_secs,
        log=sys.stderr,
    )
    model = repository or "the small model"
    try:
        with server:
            if repository is not None and (name := member(repository)):
                print(f"model: {name}", flush=True)
            print(
                f"serving {model} on grpc://{server.grpc_url} "
                f"http://{server.http_url} metrics http://{server.metrics_url}/metrics",
                flush=True,
            )
            supervise(server)
    except KeyboardInterrupt:
        pass
    return 0
