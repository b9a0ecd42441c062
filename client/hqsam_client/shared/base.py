"""What the sync and the async client share: options, prompts to calls, and reading of errors."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Any, ClassVar

from tritonclient.grpc import service_pb2, service_pb2_grpc

from hqsam_client import contract
from hqsam_client.errors import HQSamError, OptionError, UnavailableError, from_grpc
from hqsam_client.mask import Mask
from hqsam_client.shared import channel, modes, prompt_encoding, protocol, sources, windowing
from hqsam_client.shared.geometry import Size
from hqsam_client.shared.prompt_encoding import Prompt
from hqsam_client.shared.protocol import Call, Flow
from hqsam_client.shared.sources import Source, Uploads
from hqsam_client.shared.upload import ImageLike, Upload
from hqsam_client.shared.windowing import Group
from hqsam_client.windows import Window, Windows

DEFAULT_URL = "localhost:8001"
DEFAULT_TIMEOUT_S = 30.0
DEFAULT_EMBED_TIMEOUT_S = 300.0

_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True)
class EmbedResult:
    """The outcome for one image of `embed`.

    Attributes:
        image: as it was given.
        image_id: SHA-256 of what was sent, 64 lower-case hex digits; None when the image
            could not be read.
        already_stored: whether the server had it before.
        error: why it failed; None when it did not.
    """

    image: ImageLike
    image_id: str | None
    already_stored: bool
    error: HQSamError | None


def check_concurrency(concurrency: int) -> None:
    """Raise `OptionError` unless at least one image can be processed."""
    if concurrency < 1:
        raise OptionError(f"concurrency is {concurrency}, expected at least 1")


class BaseClient:
    """The options and the channel of a client. It connects at the first call.

    Args:
        url: one ``host:port``; several separated by commas, whose names are resolved
            once, now; or a gRPC name such as ``dns:///headless-service:8001``, whose
            addresses are looked up again when connections break. Requests for an
            image go to the same replica as long as it answers.
        timeout_s: seconds to wait for an answer that needs no encoding; None for no limit.
        embed_timeout_s: seconds to wait for an image to be encoded, or for a batch of
            `everything`; None for no limit.
        tls: encrypt; each of the three files below implies it.
        root_certificates: PEM file to check the server's certificate with, instead of
            the system's.
        client_certificate: PEM file of the client's certificate chain, for mutual TLS.
        client_key: PEM file of its private key.
        authority: the name in the server's certificate, if it is not the one in `url`;
            for several addresses, that of the first is expected.
        token: sent as ``authorization: Bearer <token>``; use it with TLS.
        metadata: further entries to send with every call.

    Raises:
        OptionError: an address, a certificate file, the token or the metadata is wrong.
    """

    _grpc: ClassVar[Any]
    """The module that makes the channel: `grpc` or `grpc.aio`."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
        embed_timeout_s: float | None = DEFAULT_EMBED_TIMEOUT_S,
        tls: bool = False,
        root_certificates: str | PathLike[str] | None = None,
        client_certificate: str | PathLike[str] | None = None,
        client_key: str | PathLike[str] | None = None,
        authority: str | None = None,
        token: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.url = url
        self._closed = False
        self._timeout_s = timeout_s
        self._embed_timeout_s = embed_timeout_s
        self._metadata = channel.metadata(token, metadata)
        credentials = channel.credentials(tls, root_certificates, client_certificate, client_key)
        target, options = channel.target(url), channel.options(url, authority, self._metadata)
        if credentials is None:
            self._channel = self._grpc.insecure_channel(target, options=options)
        else:
            self._channel = self._grpc.secure_channel(target, credentials, options=options)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def _call_options(self, call: Call, deadline: float | None) -> dict[str, Any]:
        """Return gRPC's keyword arguments for a call.

        Args:
            call: what is sent.
            deadline: by `time.monotonic`, instead of the client's timeouts.
        """
        if deadline is not None:
            timeout_s: float | None = max(0.0, deadline - time.monotonic())
        else:
            is_slow = call.encodes or call.is_slow
            timeout_s = self._embed_timeout_s if is_slow else self._timeout_s
        image = ((contract.IMAGE_ID_HEADER, call.image_id),) if call.image_id else ()
        return {"timeout": timeout_s, "metadata": (*self._metadata, *image)}

    def _error(self, error: Any) -> HQSamError:
        """Return the error of this package for a `grpc.RpcError`."""
        return from_grpc(error.code().name, error.details() or "", self.url, _retry_after_s(error))

    def _cancelled(self) -> HQSamError:
        """Return the error for a call that ended because the client was closed."""
        return from_grpc("CANCELLED", "", self.url)


def _retry_after_s(error: Any) -> float | None:
    """Return how long the server says to wait."""
    for key, value in error.trailing_metadata() or ():
        if key == contract.RETRY_AFTER_KEY:
            with suppress(ValueError):
                return min(max(float(value), 0.0), _LONGEST_WAIT_S)
    return None


def closed() -> UnavailableError:
    """Return the error for a call on a closed client."""
    return UnavailableError("the client is closed; make a new one")


def deadline(timeout_s: float | None) -> float | None:
    """Return when a flow has to be over, by `time.monotonic`; None for no limit of its own."""
    return None if timeout_s is None else time.monotonic() + timeout_s


def readiness() -> Flow[bool]:
    """Ask whether the server and all its models are ready."""
    answer = yield Call(service_pb2.ServerReadyRequest(), "", method="ServerReady")
    return bool(answer.ready)


class BaseImage:
    """An image that the server knows.

    Attributes:
        image_id: SHA-256 of what was sent, 64 lower-case hex digits.
        size: (height, width) of the upright image: original pixels.
    """

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self.image_id: str = upload.image_id
        self.size: Size = upload.size

    @property
    def encoded(self) -> bytes:
        """The image file as it is sent to the server."""
        return self._upload.encoded

    @cached_property
    def _uploads(self) -> Uploads:
        """What the server sees of windows of the image."""
        return sources.of_upload(self._upload)

    def _embedding(self) -> Flow[bool]:
        """Make sure that the server has the image; returns whether it had it before."""
        ask = len(self._upload.encoded) >= protocol.ASK_FROM_BYTES
        return protocol.embed_flow(self._upload, ask)

    def _segmenting(
        self, prompts: Sequence[Prompt], mode: modes.Mode, logits: bool
    ) -> Flow[list[Mask]]:
        """Return what segments checked prompts, see `RemoteImage.segment`."""
        stacked = prompt_encoding.stack(prompts, self.size)
        return protocol.masks_flow(self._upload, stacked, mode, logits)


class BaseWindowedImage:
    """An image whose windows are images of their own for the server.

    Attributes:
        size: (height, width) of the upright image: original pixels.
        windows: of the grid, row by row: (x0, y0, x1, y1) in original pixels.
    """

    def __init__(self, source: Source, windows: Windows) -> None:
        self.size: Size = source.size
        self.windows: list[Window] = windows.grid(source.size)
        self._uploads = Uploads(source)

    def _groups(
        self, points: Any, labels: Any, box: Any, boxes: Any, refine: Any
    ) -> tuple[list[Group], bool]:
        """Check the prompts; return them by window, and whether the caller asked for a list."""
        prompts, many = prompt_encoding.check(self.size, points, labels, box, boxes, refine)
        return windowing.groups(prompts, self.size, self.windows), many
