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

from hqsam_client.errors import HQSamError, SupersededError
from hqsam_client.everything import EverythingOptions, FoundMask
from hqsam_client.mask import Mask
from hqsam_client.shared.base import (
    BaseClient,
    BaseImage,
    EmbedResult,
    check_concurrency,
    closed,
    deadline,
    readiness,
)
from hqsam_client.shared.mask_search import IN_FLIGHT, Search
from hqsam_client.shared.modes import Mode
from hqsam_client.shared.prompt_encoding import Box, Labels, Points
from hqsam_client.shared.protocol import Call, Flow, embed_flow, patiently
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
        """Make sure that the server knows an image; it encodes images that are new to it.

        Args:
            image: a path, the bytes of a file, a binary file object, a Pillow image, or
                an RGB array, uint8 [height, width, 3]. Its EXIF orientation is applied:
                original pixels are those of the upright image.
            upload: "original" sends files as they are. "resized" shrinks files of more than
                1024 pixels to what the model sees before it sends them. That saves bandwidth;
                the image then has another `image_id` than its file, and Pillow decodes it
                here instead of on the server.

        Raises:
            ImageError: it is not an image, or cannot be used.
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
        logits: bool = True,
        upload: UploadMode = "original",
    ) -> Mask:
        """Segment one object of one image; see `open` and `RemoteImage.segment`.

        It asks for the mask first and sends the image only to a server that lacks it.
        """
        opened = RemoteImage(self, prepare(image, upload))
        return opened.segment(points, labels, box, mode=mode, logits=logits)

    def embed(
        self,
        images: Iterable[ImageLike],
        *,
        upload: UploadMode = "original",
        concurrency: int = 4,
        progress: Callable[[EmbedResult], object] | None = None,
    ) -> list[EmbedResult]:
        """Have many images encoded ahead of time.

        The client asks before it sends an image, so a second run continues an interrupted
        one. An image that fails does not stop the others.

        Args:
            images: as in `open`.
            upload: as in `open`.
            concurrency: how many images to process at once.
            progress: called with each result when it is complete, one at a time.

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
                stored = self.run(embed_flow(prepared, ask=True))
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
        """Tell whether the server says within `timeout_s` that it and all its models are ready.

        A server says so even when a process of one of its models has died;
        `server_status.read` notices that.
        """
        try:
            return self.run(readiness(), timeout_s=timeout_s)
        except HQSamError:
            return False

    def run(self, flow: Flow[T], *, turn: Turn | None = None, timeout_s: float | None = None) -> T:
        """Send a flow's calls until it returns; for code that builds on `shared.protocol`.

        Args:
            flow: yields the calls and gets their responses and errors.
            turn: makes a newer flow end this one; see `Turn`.
            timeout_s: seconds for all calls together, instead of the client's timeouts.

        Raises:
            HQSamError: what the flow does not handle.
        """
        end = deadline(timeout_s)
        flow = patiently(flow)
        try:
            call = next(flow)
            while True:
                try:
                    response = self._send(call, turn, end)
                except HQSamError as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(response)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def close(self) -> None:
        """Close the connections; running calls end with `UnavailableError`."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> HQSam:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def _send(self, call: Call, turn: Turn | None, end: float | None) -> Any:
        if call.after_s:
            turn.pause(call.after_s) if turn is not None else time.sleep(call.after_s)
        method, options = getattr(self._stub, call.method), self._call_options(call, end)
        try:
            if turn is None:
                return method(call.request, **options)
            return turn.wait_for(method.future(call.request, **options), cancel=not call.encodes)
        except grpc.FutureCancelledError as error:
            raise self._cancelled() from error
        except grpc.RpcError as error:
            raise self._error(error) from error
        except ValueError as error:
            # What gRPC raises on a closed channel.
            if self._closed:
                raise closed() from error
            raise


class RemoteImage(BaseImage):
    """An image that the server knows; made by `HQSam.open`.

    Attributes:
        image_id: SHA-256 of what was sent, 64 lower-case hex digits.
        size: (height, width) of the upright image: original pixels.
        encoded: the image file as it is sent to the server.
    """

    def __init__(self, client: HQSam, upload: Upload, turns: Turns | None = None) -> None:
        super().__init__(upload)
        self._client = client
        self._turns = turns

    @cached_property
    def latest(self) -> RemoteImage:
        """The same image, where only the newest of overlapping calls counts.

        ```python
        image.latest.segment(points=[cursor])  # from any thread, at every movement
        ```

        A call replaces the one before it, which raises `SupersededError` at once. The server
        drops the replaced call if it has not started it. Each image that `open` returns has
        its own sequence of such calls.
        """
        return self if self._turns is not None else RemoteImage(self._client, self._upload, Turns())

    def full_image(self) -> Image.Image:
        """Decode the upright image: a new Pillow image of mode RGB, original pixels."""
        return self._upload.full_image()

    def embed(self) -> bool:
        """Make sure that the server has the image; returns whether it had it before."""
        return self._client.run(self._embedding())

    @overload
    def segment(
        self,
        points: Points | None = None,
        labels: Labels | None = None,
        box: Box | None = None,
        *,
        refine: Mask | None = None,
        mode: Mode = "hq",
        logits: bool = True,
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
        logits: bool = True,
    ) -> list[Mask]: ...

    @overload
    def segment(
        self,
        points: Sequence[Points],
        labels: Sequence[Labels | None] | None = None,
        *,
        refine: Sequence[Mask | None] | None = None,
        mode: Mode = "hq",
        logits: bool = True,
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
        logits: bool = True,
    ) -> Mask | list[Mask]:
        """Segment one object, or many at once.

        Coordinates are original pixels of the upright image: (column, row) is the centre of
        the pixel in that column and row, (0, 0) that of the top left pixel. Points may lie up
        to one pixel outside the image, and boxes reach over its edge; they are sent as they are.
        More than 256 prompts are sent in several requests.

        Args:
            points: (x, y) pairs; for many objects a list of such lists, of any lengths.
            labels: 1 for a point on the object, 0 for one beside it; all 1 if not given.
            box: (x0, y0, x1, y1) around the object, on its own or with points.
            boxes: one box for each of many objects; `points`, `labels` and `refine`, if
                given, then have one entry for each box, or None.
            refine: an earlier mask of this image to start from.
            mode: "hq" is the HQ mask alone, best for single objects. "hq+sam" adds
                SAM's mask, which the authors advise for images of many objects.
                "best" adds the best of SAM's three masks for ambiguous prompts.
            logits: whether the masks need logits, for `refine` and `Mask.logits`. Without them,
                the server sends run lengths of the finished mask, a few kilobytes instead of 262
                or 1,310.

        Returns:
            A mask; a list of masks, in order, if `boxes` is given or `points` is a list of lists.

        Raises:
            PromptError: an argument is wrong; nothing was sent.
            SupersededError: on `latest`, a newer call replaced this one.
            ConnectionLostError: no server can be reached, or none answers in time.
            RequestRefusedError: the server answered with an error.
        """
        flow = self._segmenting(points, labels, box, boxes, refine, mode, logits)
        return self._client.run(flow, turn=self._turn())

    def everything(
        self,
        options: EverythingOptions | None = None,
        *,
        progress: Callable[[int, int], object] | None = None,
    ) -> list[FoundMask]:
        """Look for all objects, as the authors' `SamAutomaticMaskGenerator` does.

        Clicks of others go first. An error or an interruption ends it within two batches of
        prompts.

        Args:
            options: how to look; None for the authors' defaults.
            progress: called after each batch with the number of prompts done and of all.

        Returns:
            The masks, without duplicates, in the order of the authors' records: of the highest
            predicted IoU first, unless there are crops or small regions were removed. `FoundMask`
            makes such records.

        Raises:
            MissingPackageError: small regions are to be removed, and OpenCV is not installed.
            ConnectionLostError: no server can be reached, or none answers in time.
            RequestRefusedError: the server answered with an error.
        """
        run = self._client.run
        search = Search(self._upload, options or EverythingOptions(), progress)
        with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="hqsam-everything") as pool:
            for crop in search.crops:
                upload, batches = search.upload_of(crop), search.batches(crop)
                run(embed_flow(upload, ask=True))
                flows = [search.flow(upload, points) for points in batches]
                found = []
                for points, candidates in zip(batches, pool.map(run, flows), strict=True):
                    found += candidates
                    search.answered(len(points))
                search.add(crop, found)
        return search.masks()

    def _turn(self) -> Turn | None:
        return None if self._turns is None else self._turns.next()


class Turn:
    """One of several overlapping flows. `HQSam.run` ends it as soon as it is superseded."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._superseded = False
        self._cancel: Callable[[], object] | None = None

    def supersede(self) -> None:
        """End the flow, from any thread."""
        with self._changed:
            self._superseded = True
            if self._cancel is not None:
                self._cancel()
            self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Wait, or raise `SupersededError` as soon as the turn is superseded."""
        self._wait_until(lambda: False, seconds)

    def wait_for(self, future: Any, cancel: bool) -> Any:
        """Return the response of a call, or raise `SupersededError` as soon as superseded.

        Args:
            future: the call.
            cancel: whether to cancel it then; an encoding goes on, for the newer call.

        Raises:
            grpc.FutureCancelledError: it was cancelled for another reason.
        """
        with self._changed:
            self._cancel = future.cancel if cancel else None
            if cancel and self._superseded:
                future.cancel()
        future.add_done_callback(self._wake)
        try:
            self._wait_until(future.done)
        finally:
            self._cancel = None
        return future.result()

    def _wake(self, _: Any) -> None:
        with self._changed:
            self._changed.notify_all()

    def _wait_until(self, over: Callable[[], bool], timeout_s: float | None = None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._superseded or over(), timeout_s)
            if self._superseded:
                raise SupersededError("a newer call on image.latest replaced this one")


class Turns:
    """Hands out turns, each of which supersedes the one before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: Turn | None = None

    def next(self) -> Turn:
        """Return a new turn, and supersede the one before."""
        turn = Turn()
        with self._lock:
            previous, self._newest = self._newest, turn
        if previous is not None:
            previous.supersede()
        return turn
