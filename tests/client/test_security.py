"""TLS, mutual TLS, tokens and metadata, as they arrive at the other end.

The other end is a stand-in on gRPC's own server: Triton checks no tokens, and the launcher of the
tests starts it without TLS.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from hqsam_cli import main
from hqsam_client import AccessDeniedError, HQSam, UnavailableError

from tests.client.conftest import StandIn, usual_answer

TOKEN = "the-right-token"  # noqa: S105


def doorkeeper(token: str) -> Callable[[Any, Any], Any]:
    """Return what answers only calls with this token."""

    def answer(request: Any, context: Any) -> Any:
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is wrong")
        return usual_answer(request)

    return answer


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
    serve: Callable[..., str], stand_in: StandIn, photo: bytes
) -> None:
    stand_in.answer = doorkeeper(TOKEN)
    url = serve()
    with HQSam(url, token=TOKEN) as sam:
        assert sam.open(photo).embed() is True
    for wrong in (None, "guess"):
        with HQSam(url, token=wrong) as sam, pytest.raises(AccessDeniedError, match="token"):
            sam.open(photo)


def test_the_commands_take_the_token_from_the_environment(
    serve: Callable[..., str],
    stand_in: StandIn,
    photo: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stand_in.answer = doorkeeper(TOKEN)
    monkeypatch.setenv("HQSAM_TOKEN", TOKEN)
    (tmp_path / "photo.png").write_bytes(photo)
    assert main.main(["embed", str(tmp_path / "photo.png"), "--url", serve()]) == 0
    assert " 0 failed" in capsys.readouterr().out


def test_metadata_and_the_image_id_go_with_every_call(
    serve: Callable[..., str], stand_in: StandIn, photo: bytes
) -> None:
    with HQSam(serve(), metadata={"x-tenant": "a"}) as sam:
        image = sam.open(photo)
    assert stand_in.metadata["x-tenant"] == "a"
    assert stand_in.metadata["x-image-id"] == image.image_id
