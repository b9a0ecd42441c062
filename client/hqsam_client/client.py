"""The client for threads: `HQSam` and the images that it opens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeVar, overload

import grpc
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import service_pb2

from hqsam_client.errors import HQSamError, SupersededError, from_grpc
from hqsam_client.mask import Mask
from hqsam_client.shared import prompt_encoding, protocol
from hqsam_client.shared.base import BaseClient, EmbedResult, check_concurrency
from hqsam_client.shared.geometry import Size
from hqsam_client.shared.prompt_encoding import Box, Labels, Points, Prompts
from hqsam_client.shared.protocol import (
    ASK_FROM_BYTES,
    Call,
    Choice,
    Flow,
    Mode,
    embed_flow,
    segment_flow,
)
from hqsam_client.shared.upload import ImageLike, Upload, UploadMode, prepare

T = TypeVar("T")


class HQSam(BaseClient):
    """A connection to one or several HQ-SAM servers, for use from any number of threads.

    ```python
    with HQSam("localhost:8001") as sam:
        image = sam.open("photo.jpg")
        mask = image.segment(points=[(420, 310)])
        mask.save("mask.png")
    ```

    The options are those of `BaseClient`.
    """

    _grpc = grpc

    def open(self, image: ImageLike, *, upload: UploadMode = "original") -> RemoteImage:
        """Make sure that the server knows an image, encoding it if need be.

        Args:
            image: a path, the bytes of a file, a binary file object, a Pillow image, or
                an RGB array, uint8 [height, width, 3]. Its EXIF orientation is honoured:
                original pixels are those of the upright image.
            upload: "original" sends files as they are. "resized" sends a file of more than
                1024 pixels shrunk to what the model sees, which saves bandwidth and
                changes two things: the server knows the image by another `image_id`
                than its file has, and Pillow's decoders here rather than there have the
                last word on its pixels.

        Raises:
            ImageError: it is not an image.
            ConnectionLostError: no server can be reached, or none answers in time.
            RequestRefusedError: the server refuses it.
        """
        opened = RemoteImage(self, prepare(image, upload))
        opened.embed()
        return opened

    def segment(
        self,
        image: ImageLike,
        points: Points | None = None,
        labels: Labels | None = None,
        box: Box | None = None,
        *,
        mode: Mode = "hq",
        upload: UploadMode = "original",
    ) -> Mask:
        """Segment one object of one image; see `open` and `RemoteImage.segment`.

        It asks for the mask first and sends the image only to a server that lacks it.
        """
        return RemoteImage(self, prepare(image, upload)).segment(points, labels, box, mode=mode)

    def embed(
        self,
        images: Iterable[ImageLike],
        *,
        upload: UploadMode = "original",
        concurrency: int = 4,
        progress: Callable[[EmbedResult], object] | None = None,
    ) -> list[EmbedResult]:
        """Have many images encoded ahead of time.

        The server is asked before anything is sent, so an interrupted run goes on where
        it was. An image that fails does not stop the others.

        Args:
            images: as in `open`.
            upload: as in `open`.
            concurrency: images that are under way at once.
            progress: called with each result as it comes, one at a time.

        Returns:
            A result for each image, in the order given.
        """
        check_concurrency(concurrency)
        lock = threading.Lock()

        def embed_one(image: ImageLike) -> EmbedResult:
            image_id, stored, error = None, False, None
            try:
                prepared = prepare(image, upload)
                image_id = prepared.image_id
                stored = self._run(embed_flow(prepared, ask=True))
            except HQSamError as caught:
                error = caught
            result = EmbedResult(image, image_id, stored, error)
            if progress is not None:
                with lock:
                    progress(result)
            return result

        with ThreadPoolExecutor(concurrency, thread_name_prefix="hqsam-embed") as pool:
            return list(pool.map(embed_one, images))

    def is_ready(self, timeout_s: float = 5.0) -> bool:
        """Tell whether the server says in time that it and all its models are ready.

        A server says so even when a process of one of its models is dead; `server_status.read`
        with a probe notices.

        Args:
            timeout_s: seconds to wait.
        """
        if self._closed:
            return False
        request = service_pb2.ServerReadyRequest()
        try:
            answer = self._stub.ServerReady(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError:
            return False
        return bool(answer.ready)

    def close(self) -> None:
        """Close the connections; calls that are under way are cancelled."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> HQSam:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def _run(self, flow: Flow[T], turn: _Turn | None = None) -> T:
        """Send a flow's calls until it returns."""
        try:
            call = next(flow)
            while True:
                try:
                    response = self._send(call, turn)
                except HQSamError as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(response)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _send(self, call: Call, turn: _Turn | None) -> Any:
        if call.after_s:
            time.sleep(call.after_s)
        try:
            if turn is None or call.encodes:
                # An encoding is of use to the newer call, too.
                return self._stub.ModelInfer(call.request, **self._call_options(call))
            return turn.wait_for(
                self._stub.ModelInfer.future(call.request, **self._call_options(call))
            )
        except grpc.FutureCancelledError as error:
            raise from_grpc("CANCELLED", "", self.url) from error
        except grpc.RpcError as error:
            raise self._error(error) from error


class RemoteImage:
    """An image that the server knows; made by `HQSam.open`.

    Attributes:
        image_id: SHA-256 of what was sent, 64 lower-case hex digits.
        size: (height, width) of the upright image: original pixels.
    """

    def __init__(self, client: HQSam, upload: Upload, turns: _Turns | None = None) -> None:
        self._client = client
        self._upload = upload
        self._turns = turns
        self.image_id: str = upload.image_id
        self.size: Size = upload.size

    @cached_property
    def latest(self) -> RemoteImage:
        """The same image, where only the newest of overlapping calls counts.

        ```python
        image.latest.segment(points=[cursor])  # from any thread, at every movement
        ```

        A call takes the place of the one before it, which raises `SupersededError` at
        once and which the server drops if it had not begun. There is one such line of
        calls for each image that `open` returned.
        """
        return (
            self if self._turns is not None else RemoteImage(self._client, self._upload, _Turns())
        )

    @property
    def encoded(self) -> bytes:
        """The image file as it is sent to the server."""
        return self._upload.encoded

    def full_image(self) -> Image.Image:
        """Decode the upright image, as a new Pillow image of mode RGB in original pixels."""
        return self._upload.full_image()

    def embed(self) -> bool:
        """Make sure that the server has the image; returns whether it had it before."""
        ask = len(self._upload.encoded) >= ASK_FROM_BYTES
        return self._client._run(embed_flow(self._upload, ask))

    @overload
    def segment(
        self,
        points: Points | None = None,
        labels: Labels | None = None,
        box: Box | None = None,
        *,
        refine: Mask | None = None,
        mode: Mode = "hq",
    ) -> Mask: ...

    @overload
    def segment(
        self,
        points: Sequence[Points | None] | None = None,
        labels: Sequence[Labels | None] | None = None,
        *,
        boxes: Sequence[Box | None] | NDArray[Any],
        refine: Sequence[Mask | None] | None = None,
        mode: Mode = "hq",
    ) -> list[Mask]: ...

    @overload
    def segment(
        self,
        points: Sequence[Points],
        labels: Sequence[Labels | None] | None = None,
        *,
        refine: Sequence[Mask | None] | None = None,
        mode: Mode = "hq",
    ) -> list[Mask]: ...

    def segment(
        self,
        points: Any = None,
        labels: Any = None,
        box: Box | None = None,
        *,
        boxes: Sequence[Box | None] | NDArray[Any] | None = None,
        refine: Any = None,
        mode: Mode = "hq",
    ) -> Mask | list[Mask]:
        """Segment one object, or many in one request.

        All coordinates are original pixels of the upright image, from (0, 0) at the
        top left corner to (width, height).

        Args:
            points: (x, y) pairs; for many objects a list of such lists, of any lengths.
            labels: 1 for a point on the object, 0 for one beside it; all 1 if not given.
            box: (x0, y0, x1, y1) around the object, on its own or with points.
            boxes: one box for each of many objects; `points`, `labels` and `refine`, if
                given, then have an entry for each, too, None where there is none.
            refine: an earlier mask of this image to start from.
            mode: "hq" is the HQ mask alone, right for single objects. "hq+sam" adds
                SAM's mask, which the authors advise for images of many objects.
                "best" adds the best of SAM's three masks for ambiguous prompts.

        Returns:
            A mask; a list of them if `boxes` is given or `points` is a list of lists.

        Raises:
            PromptError: an argument is wrong; nothing was sent.
            SupersededError: on `latest`, a newer call took this one's place.
            ConnectionLostError: no server can be reached, or none answers in time.
            RequestRefusedError: the server answered with an error.
        """
        choice = protocol.choice(mode)
        prompts = prompt_encoding.build(self.size, points, labels, box, boxes, refine)
        masks = self._segment(prompts, choice)
        return masks if prompts.many else masks[0]

    def _segment(self, prompts: Prompts, choice: Choice) -> list[Mask]:
        turn = self._turns.next() if self._turns is not None else None
        return self._client._run(segment_flow(self._upload, prompts, choice), turn)


class _Turn:
    """One of several overlapping calls, which a newer one can end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._superseded = False
        self._future: Any = None

    def supersede(self) -> None:
        with self._lock:
            self._superseded = True
            if self._future is not None:
                self._future.cancel()

    def wait_for(self, future: Any) -> Any:
        """Return the call's response, or raise `SupersededError` as soon as it is superseded.

        Raises:
            grpc.FutureCancelledError: it was cancelled for another reason.
        """
        with self._lock:
            self._future = future
            if self._superseded:
                future.cancel()
        try:
            response = future.result()
        except grpc.FutureCancelledError as error:
            if self._superseded:
                raise _superseded() from error
            raise
        if self._superseded:
            raise _superseded()
        return response


def _superseded() -> SupersededError:
    return SupersededError("a newer call on image.latest took this one's place")


class _Turns:
    """Hands out turns, each of which supersedes the one before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: _Turn | None = None

    def next(self) -> _Turn:
        turn = _Turn()
        with self._lock:
            previous, self._newest = self._newest, turn
        if previous is not None:
            previous.supersede()
        return turn
