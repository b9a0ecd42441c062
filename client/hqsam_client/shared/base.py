"""What the sync and the async client have in common: options, and reading of errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any, ClassVar

from tritonclient.grpc import service_pb2_grpc

from hqsam_client import contract
from hqsam_client.errors import HQSamError, OptionError, UnavailableError, from_grpc
from hqsam_client.shared import channel
from hqsam_client.shared.protocol import Call
from hqsam_client.shared.upload import ImageLike

DEFAULT_URL = "localhost:8001"
DEFAULT_TIMEOUT_S = 30.0
DEFAULT_EMBED_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class EmbedResult:
    """What became of one image of `embed`.

    Attributes:
        image: as it was given.
        image_id: SHA-256 of what was sent, 64 lower-case hex digits; None when it could
            not be read.
        already_stored: whether the server had it before.
        error: why it failed; None when it did not.
    """

    image: ImageLike
    image_id: str | None
    already_stored: bool
    error: HQSamError | None


def check_concurrency(concurrency: int) -> None:
    """Raise `OptionError` unless something can be under way."""
    if concurrency < 1:
        raise OptionError(f"concurrency is {concurrency}, expected at least 1")


class BaseClient:
    """A client that can open its channel, but send nothing yet.

    It connects at the first call.

    Args:
        url: one ``host:port``; several separated by commas, whose names are resolved
            once, now; or a gRPC name such as ``dns:///headless-service:8001``, whose
            addresses are looked up again when connections break. Requests for a
            image go to the same replica as long as that answers.
        timeout_s: seconds to wait for an answer that needs no encoding; None for ever.
        embed_timeout_s: seconds to wait for an image to be encoded; None for ever.
        tls: encrypt; the three files below imply it.
        root_certificates: PEM file to check the server's certificate with, instead of
            the system's.
        client_certificate: PEM file of the client's certificate chain, for mutual TLS.
        client_key: PEM file of its private key.
        authority: the name in the server's certificate, if it is not the one in `url`;
            for several addresses, that of the first is expected.
        token: sent as ``authorization: Bearer <token>``; use it with TLS.
        metadata: further entries to send with every call.

    Raises:
        OptionError: an address or certificate file is wrong.
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
        target, options = channel.target(url), channel.options(url, authority)
        if credentials is None:
            self._channel = self._grpc.insecure_channel(target, options=options)
        else:
            self._channel = self._grpc.secure_channel(target, credentials, options=options)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def _call_options(self, call: Call) -> dict[str, Any]:
        """Return gRPC's keyword arguments for a call; a closed client has none."""
        if self._closed:
            raise UnavailableError("the client is closed; make a new one")
        return {
            "timeout": self._embed_timeout_s if call.encodes else self._timeout_s,
            "metadata": (*self._metadata, (contract.IMAGE_ID_HEADER, call.image_id)),
        }

    def _error(self, error: Any) -> HQSamError:
        """Return the error of this package for a `grpc.RpcError`."""
        return from_grpc(error.code().name, error.details() or "", self.url)
