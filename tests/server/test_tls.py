"""TLS of Triton's own, behind `--`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import tritonclient.grpc as triton
import trustme

from tests.server.serving import PATIENCE_S, Serve


def test_it_is_ready_and_heals_behind_tls(serve: Callable[..., Serve], tmp_path: Path) -> None:
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    root, certificate, key = (tmp_path / f"{name}.pem" for name in ("root", "server", "key"))
    authority.cert_pem.write_to_path(root)
    server.cert_chain_pems[0].write_to_path(certificate)
    server.private_key_pem.write_to_path(key)
    flags = ("--grpc-use-ssl=1", f"--grpc-server-cert={certificate}", f"--grpc-server-key={key}")
    running = serve("--", *flags)
    os.kill(running.instances()["numbers_0_0"], signal.SIGKILL)
    running.line("numbers is back")
    with triton.InferenceServerClient(
        running.grpc_url, ssl=True, root_certificates=str(root)
    ) as client:
        assert client.is_model_ready("numbers", client_timeout=PATIENCE_S)
