"""The model `embed`: each image is encoded once, and no lookup waits for an encode.

A request that the store can answer is answered at once. The others wait in a bounded queue for a
few workers. Requests for the same image share one encode, also with other processes that use the
same store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

from hqsam_server.errors import (
    BadRequestError,
    OverloadedError,
    RequestCancelledError,
)
from hqsam_server.models.metrics import Metrics
from hqsam_server.models.preprocess import Limits, check_header
from hqsam_server.store.embedding_store import EmbeddingStore, checked_image_id
from hqsam_server.store.entry import Embedding


class Embedded(NamedTuple):
    """The answer to a request.

    Attributes:
        image_id: SHA-256 of the encoded image, 64 lower-case hex digits.
        original_size: (height, width) of the upright image in original pixels; (0, 0) if it is not
            stored.
        already_stored: whether the image was stored before this request.
    """

    image_id: str
    original_size: tuple[int, int]
    already_stored: bool


@dataclass(frozen=True)
class Caller:
    """The sender of a request.

    Attributes:
        reply: takes the answer or the error, once, from any thread.
        is_cancelled: whether the request was cancelled or its deadline has passed.
    """

    reply: Callable[[Embedded | Exception], None]
    is_cancelled: Callable[[], bool]


class Embedder:
    """Answers requests to `embed`."""

    def __init__(
        self,
        store: EmbeddingStore,
        encode: Callable[[bytes], Embedding],
        metrics: Metrics,
        limits: Limits,
        *,
        workers: int,
        max_waiting: int,
    ) -> None:
        """Start the workers.

        Args:
            store: where embeddings are looked up and written.
            encode: embeds an image; its errors become the answer.
            metrics: counts lookups and encodes.
            limits: limits on an image.
            workers: images that are encoded at once.
            max_waiting: requests that may wait for an encode, including those being encoded.
        """
        self._store = store
        self._encode = encode
        self._metrics = metrics
        self._limits = limits
        self._max_waiting = max_waiting
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="encode")
        self._lock = Lock()
        self._waiting: dict[str, list[Caller]] = {}

    def close(self) -> None:
        """Finish the encodes under way and refuse new ones."""
        self._pool.shutdown()

    def embed(
        self, encoded: bytes | memoryview | None, image_id: str | None, caller: Caller
    ) -> None:
        """Answer a request, at once or later.

        Args:
            encoded: the bytes of an image file, or None to ask whether the image is stored. They
                are not read after this returns.
            image_id: checked against the bytes if both are given.
            caller: gets the answer.

        Raises:
            BadRequestError: both are missing, or they do not match, or the bytes are not an image.
            OverloadedError: too many requests are waiting.
            StoreError: the store cannot be read.
        """
        if image_id is not None:
            checked_image_id(image_id)
        if encoded is not None:
            image_id = self._digest(encoded, image_id)
        if image_id is None:
            raise BadRequestError("expected encoded_image, image_id or both, got neither")
        size = self._store.original_size(image_id)
        (self._metrics.store_misses if size is None else self._metrics.store_hits).increment(1)
        if size is not None:
            caller.reply(Embedded(image_id, size, already_stored=True))
        elif encoded is None:
            caller.reply(Embedded(image_id, (0, 0), already_stored=False))
        else:
            check_header(encoded, self._limits)
            self._enqueue(image_id, bytes(encoded), caller)

    def _digest(self, encoded: bytes | memoryview, image_id: str | None) -> str:
        digest = hashlib.sha256(encoded).hexdigest()
        if image_id not in (None, digest):
            raise BadRequestError(
                f"image_id is {image_id}, expected {digest}, the SHA-256 of encoded_image: "
                "send the bytes that it was computed from, or omit image_id"
            )
        return digest

    def _enqueue(self, image_id: str, encoded: bytes, caller: Caller) -> None:
        with self._lock:
            waiting = sum(map(len, self._waiting.values()))
            if waiting >= self._max_waiting:
                raise OverloadedError(
                    f"{waiting} requests are waiting for an encode, the limit is "
                    f"{self._max_waiting}: try again later"
                )
            if image_id in self._waiting:
                self._waiting[image_id].append(caller)
                return
            self._waiting[image_id] = [caller]
        self._pool.submit(self._work, image_id, encoded)

    def _work(self, image_id: str, encoded: bytes) -> None:
        answer: Embedded | Exception
        if callers := self._cancelled(image_id):
            answer = RequestCancelledError("cancelled before the encode began")
        else:
            try:
                answer = self._embedded(image_id, encoded)
            except Exception as error:
                answer = error
            with self._lock:
                callers = self._waiting.pop(image_id)
        for caller in callers:
            caller.reply(answer)

    def _cancelled(self, image_id: str) -> list[Caller]:
        """Return the callers of an image if all of them have cancelled, else none."""
        with self._lock:
            if all(caller.is_cancelled() for caller in self._waiting[image_id]):
                return self._waiting.pop(image_id)
            return []

    def _embedded(self, image_id: str, encoded: bytes) -> Embedded:
        with self._store.exclusive(image_id):
            size = self._store.original_size(image_id)  # another process may have stored it
            if size is None:
                embedding = self._encode(encoded)
                self._metrics.encodes.increment(1)
                self._store.put(image_id, embedding)
                size = embedding.original_size
        return Embedded(image_id, size, already_stored=False)
