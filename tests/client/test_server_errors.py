"""Each error that a server or the way to it can cause, from a real cause where there is one."""

from __future__ import annotations

import asyncio
import http.server
import io
import threading
from pathlib import Path

import numpy as np
import pytest
from hqsam_client import (
    AsyncHQSam,
    HQSam,
    HQSamError,
    InvalidRequestError,
    NotFoundError,
    RequestTimeoutError,
    ServerFailedError,
    TooLargeError,
    UnavailableError,
    errors,
)
from hqsam_client.shared import channel
from hqsam_client.shared.protocol import Call, Flow
from hqsam_server import TritonServer
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import service_pb2


@pytest.fixture
def truncated(array: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG")
    return buffer.getvalue()[:-2000]


def test_where_nothing_listens_the_error_says_so_and_how_to_start_a_server(
    nobody: str, photo: bytes
) -> None:
    message = f"no answer from {nobody}: nothing listens there; start a server with `hqsam serve`"
    with HQSam(nobody) as sam, pytest.raises(UnavailableError, match=message):
        sam.open(photo)


def test_an_http_port_is_told_from_a_grpc_port(server: TritonServer, photo: bytes) -> None:
    message = "the server there does not speak gRPC; Triton's HTTP port is 8000, its gRPC port 8001"
    with HQSam(server.http_url) as sam, pytest.raises(UnavailableError, match=message):
        sam.open(photo)


@pytest.mark.parametrize(
    ("url", "details", "message"),
    [
        ("host:8000", "connect: Connection refused (111)", "port 8000 is Triton's HTTP port"),
        ("host:8001", "Connection refused", "nothing listens there"),
        ("host:1", "Tls handshake failed (TSI_PROTOCOL_FAILURE)", "the TLS handshake failed"),
        ("host:1", "Ssl handshake failed", "the TLS handshake failed"),
        ("host:1", "DNS resolution failed for host:1", "the name has no address"),
        ("host:1", "Exceeds maximum queue size", "Exceeds maximum queue size; run `hqsam status`"),
    ],
)
def test_the_reason_for_no_answer_is_said_in_plain_words(
    url: str, details: str, message: str
) -> None:
    text = str(errors.from_grpc("UNAVAILABLE", details, url))
    assert text.startswith(f"no answer from {url}: ")
    assert message in text
    assert ("port 8000" in text) == (url == "host:8000")


def test_an_http_server_of_another_kind_is_told_from_a_grpc_server(photo: bytes) -> None:
    web = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    try:
        url = f"127.0.0.1:{web.server_port}"
        with HQSam(url) as sam, pytest.raises(UnavailableError, match="does not speak gRPC"):
            sam.open(photo)
    finally:
        web.shutdown()
        thread.join()
        web.server_close()


def test_it_is_unavailable_for_async_clients_too(nobody: str, photo: bytes) -> None:
    async def go() -> None:
        async with AsyncHQSam(nobody) as sam:
            with pytest.raises(UnavailableError, match=f"no answer from {nobody}"):
                await sam.open(photo)

    asyncio.run(go())


def test_of_several_addresses_one_that_answers_is_enough(
    nobody: str, url: str, photo: bytes
) -> None:
    with HQSam(f"{nobody},{url}") as sam:
        assert sam.open(photo).segment(points=[(105, 90)]).size == (200, 300)


def test_an_answer_that_takes_too_long_is_a_timeout(url: str, photo: bytes) -> None:
    with (
        HQSam(url, timeout_s=1e-4, embed_timeout_s=1e-4) as sam,
        pytest.raises(RequestTimeoutError, match="did not answer in time"),
    ):
        sam.open(photo)


@pytest.mark.parametrize("text", ["\x1b]0;owned\x07", "\x9b31m", "a\rb", "\u202eevil", "\x7f"])
def test_an_error_never_holds_what_controls_a_terminal(text: str) -> None:
    for code in ("INTERNAL", "UNAVAILABLE", "INVALID_ARGUMENT"):
        message = str(errors.from_grpc(code, f"before {text} after", "host:1"))
        assert message.isprintable()
        assert "before" in message
        assert "after" in message
    assert str(HQSamError(f"no image: {text}.png")).isprintable()


def test_words_of_all_languages_stay_in_an_error_as_they_are() -> None:
    for text in ("bild ä.png", "画像\u3000一.png", "صورة.png", "a\u00a0b"):
        assert str(HQSamError(text)) == text


def test_a_truncated_image_is_refused_by_the_server(sam: HQSam, truncated: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="answered INVALID_ARGUMENT") as caught:
        sam.open(truncated)
    assert caught.value.code == "INVALID_ARGUMENT"
    assert caught.value.__cause__ is not None


def test_a_model_that_the_server_lacks_is_not_found(sam: HQSam) -> None:
    request = service_pb2.ModelInferRequest(model_name="no_such_model")

    def flow() -> Flow[None]:
        yield Call(request, "")

    with pytest.raises(NotFoundError, match="answered NOT_FOUND"):
        sam.run(flow())


def test_a_failure_inside_the_server_is_one_of_its_own(
    sam: HQSam, photo: bytes, store: Path
) -> None:
    aside = store.rename(store.with_name("aside"))
    store.write_text("a file where the store's folder should be")
    try:
        with pytest.raises(ServerFailedError, match="answered INTERNAL"):
            sam.open(photo)
    finally:
        store.unlink()
        aside.rename(store)
    assert sam.open(photo).embed() is True


def test_an_answer_over_the_limit_is_too_large(
    url: str, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "MAX_MESSAGE_BYTES", 2**20)
    with HQSam(url) as sam, pytest.raises(TooLargeError, match="answered RESOURCE_EXHAUSTED"):
        sam.open(photo).segment(boxes=[(20, 30, 200, 180)] * 8)


def test_a_closed_client_says_so(url: str, photo: bytes) -> None:
    with HQSam(url) as sam:
        pass
    with pytest.raises(UnavailableError, match="the client is closed"):
        sam.open(photo)


def test_a_closed_async_client_says_so(url: str, photo: bytes) -> None:
    async def go() -> None:
        async with AsyncHQSam(url) as sam:
            pass
        with pytest.raises(UnavailableError, match="the client is closed"):
            await sam.open(photo)

    asyncio.run(go())


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("UNAVAILABLE", errors.UnavailableError),
        ("CANCELLED", errors.UnavailableError),
        ("DEADLINE_EXCEEDED", errors.RequestTimeoutError),
        ("INVALID_ARGUMENT", errors.InvalidRequestError),
        ("NOT_FOUND", errors.NotFoundError),
        ("UNAUTHENTICATED", errors.AccessDeniedError),
        ("PERMISSION_DENIED", errors.AccessDeniedError),
        ("RESOURCE_EXHAUSTED", errors.TooLargeError),
        ("INTERNAL", errors.ServerFailedError),
        ("UNIMPLEMENTED", errors.ServerFailedError),
        ("DATA_LOSS", errors.ServerFailedError),
    ],
)
def test_every_code_has_its_error_with_one_line(code: str, kind: type[HQSamError]) -> None:
    error = errors.from_grpc(code, "two\nlines", "host:1")
    assert type(error) is kind
    assert "host:1" in str(error)
    assert "\n" not in str(error)
