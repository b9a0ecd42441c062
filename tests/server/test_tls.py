"""Triton's own TLS."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc as triton
import trustme
from hqsam_testing.serve_process import ANY_PORTS, Serve, command
from hqsam_testing.waiting import TIMEOUT_S
from tritonclient.grpc import service_pb2, service_pb2_grpc

Start = Callable[..., Serve]


class Files:
    """PEM files: an authority's certificate, and what it has issued to the server."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        server = self.authority.issue_cert("127.0.0.1")
        self.root, self.certificate, self.key = (
            folder / f"{name}.pem" for name in ("root", "server", "key")
        )
        self.authority.cert_pem.write_to_path(self.root)
        server.cert_chain_pems[0].write_to_path(self.certificate)
        server.private_key_pem.write_to_path(self.key)

    def flags(self) -> list[str]:
        return [f"--grpc-server-cert={self.certificate}", f"--grpc-server-key={self.key}"]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_it_is_ready_and_restarts_behind_tls(serve: Start, files: Files) -> None:
    running = serve("--grpc-use-ssl", *files.flags())
    os.kill(running.instances()["numbers_0_0"], signal.SIGKILL)
    running.line("numbers is back")
    with triton.InferenceServerClient(
        running.grpc_url, ssl=True, root_certificates=str(files.root)
    ) as client:
        assert client.is_model_ready("numbers", client_timeout=TIMEOUT_S)


def test_mutual_tls_lets_in_only_clients_with_a_certificate_of_the_authority(
    serve: Start, files: Files
) -> None:
    running = serve("--grpc-use-ssl-mutual", f"--grpc-root-cert={files.root}", *files.flags())

    def ask(client: trustme.LeafCert | None) -> None:
        own = (client.private_key_pem.bytes(), client.cert_chain_pems[0].bytes()) if client else ()
        credentials = grpc.ssl_channel_credentials(files.root.read_bytes(), *own)
        with grpc.secure_channel(running.grpc_url, credentials) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=TIMEOUT_S)

    ask(files.authority.issue_cert("client"))
    for stranger in (None, trustme.CA().issue_cert("client")):
        with pytest.raises(grpc.RpcError) as refusal:
            ask(stranger)
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_missing_certificate_is_one_clear_line(repository: Path, files: Files) -> None:
    flags = ["--grpc-use-ssl", *files.flags()]
    files.key.unlink()
    ended = subprocess.run(
        command(f"--model-repository={repository}", *ANY_PORTS, *flags),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert ended.returncode == 1
    assert f"--grpc-server-key is {files.key}, which is not a file" in ended.stderr.splitlines()[-1]
