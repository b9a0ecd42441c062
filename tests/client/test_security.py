"""TLS, mutual TLS, tokens and metadata, as they arrive at the other end.

The other end is gRPC's own server with a stand-in for `embed`: Triton checks no tokens,
and the launcher of the tests speaks to it in the clear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from hqsam_cli import main
from hqsam_client import AccessDeniedError, HQSam, UnavailableError
from tritonclient.grpc import service_pb2, service_pb2_grpc

TOKEN = "the-right-token"  # noqa: S105


class Doorkeeper(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers that every image is stored, and keeps what metadata came."""

    def __init__(self) -> None:
        self.metadata: dict[str, str] = {}
        self.token: str | None = None

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.metadata = dict(context.invocation_metadata())
        if self.token and self.metadata.get("authorization") != f"Bearer {self.token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is wrong")
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        response.outputs.add(name="already_stored", datatype="BOOL", shape=(1,))
        response.raw_output_contents.append(b"\x01")
        return response


@pytest.fixture
def doorkeeper() -> Doorkeeper:
    return Doorkeeper()


@pytest.fixture
def serve(doorkeeper: Doorkeeper) -> Iterator[Callable[..., str]]:
    """Starts the server, with credentials or without; returns its address."""
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(doorkeeper, server)

        def start(credentials: Any = None) -> str:
            if credentials is None:
                port = server.add_insecure_port("127.0.0.1:0")
            else:
                port = server.add_secure_port("127.0.0.1:0", credentials)
            server.start()
            return f"127.0.0.1:{port}"

        yield start
        server.stop(None).wait()


class Files:
    """Certificates as PEM files: an authority, a server's, and a client's with its key."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        server = authority.issue_cert("127.0.0.1", "hqsam.example")
        client = authority.issue_cert("client@hqsam.example")
        self.root, self.certificate, self.key = (
            folder / name for name in ("root.pem", "client.pem", "client.key")
        )
        authority.cert_pem.write_to_path(self.root)
        client.cert_chain_pems[0].write_to_path(self.certificate)
        client.private_key_pem.write_to_path(self.key)
        self._server = (server.private_key_pem.bytes(), server.cert_chain_pems[0].bytes())
        self._authority = authority.cert_pem.bytes()

    def server_credentials(self, mutual: bool = False) -> Any:
        if not mutual:
            return grpc.ssl_server_credentials([self._server])
        return grpc.ssl_server_credentials([self._server], self._authority, True)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_over_tls_the_server_is_checked_with_the_given_certificate(
    serve: Callable[..., str], files: Files, photo: bytes
) -> None:
    url = serve(files.server_credentials())
    with HQSam(url, root_certificates=files.root) as sam:
        assert sam.open(photo).embed() is True
    with HQSam(url, tls=True) as sam, pytest.raises(UnavailableError):
        sam.open(photo)
    with HQSam(url) as sam, pytest.raises(UnavailableError):
        sam.open(photo)


def test_the_name_in_the_certificate_may_be_given(
    serve: Callable[..., str], files: Files, photo: bytes
) -> None:
    url = serve(files.server_credentials())
    with HQSam(url, root_certificates=files.root, authority="hqsam.example") as sam:
        assert sam.open(photo).embed() is True
    with (
        HQSam(url, root_certificates=files.root, authority="other.example") as sam,
        pytest.raises(UnavailableError),
    ):
        sam.open(photo)


def test_mutual_tls_lets_in_who_has_a_certificate(
    serve: Callable[..., str], files: Files, photo: bytes
) -> None:
    url = serve(files.server_credentials(mutual=True))
    with HQSam(
        url,
        root_certificates=files.root,
        client_certificate=files.certificate,
        client_key=files.key,
    ) as sam:
        assert sam.open(photo).embed() is True
    with HQSam(url, root_certificates=files.root) as sam, pytest.raises(UnavailableError):
        sam.open(photo)


def test_a_wrong_token_is_denied(
    serve: Callable[..., str], doorkeeper: Doorkeeper, photo: bytes
) -> None:
    doorkeeper.token = TOKEN
    url = serve()
    with HQSam(url, token=TOKEN) as sam:
        assert sam.open(photo).embed() is True
    for wrong in (None, "guess"):
        with HQSam(url, token=wrong) as sam, pytest.raises(AccessDeniedError, match="token"):
            sam.open(photo)


def test_the_commands_take_the_token_from_the_environment(
    serve: Callable[..., str],
    doorkeeper: Doorkeeper,
    photo: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    doorkeeper.token = TOKEN
    monkeypatch.setenv("HQSAM_TOKEN", TOKEN)
    (tmp_path / "photo.png").write_bytes(photo)
    assert main.main(["embed", str(tmp_path / "photo.png"), "--url", serve()]) == 0
    assert "1 known before" in capsys.readouterr().out


def test_metadata_and_the_image_id_go_with_every_call(
    serve: Callable[..., str], doorkeeper: Doorkeeper, photo: bytes
) -> None:
    with HQSam(serve(), metadata={"x-tenant": "a"}) as sam:
        image = sam.open(photo)
    assert doorkeeper.metadata["x-tenant"] == "a"
    assert doorkeeper.metadata["x-image-id"] == image.image_id
