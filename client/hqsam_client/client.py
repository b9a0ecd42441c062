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
from hqsam_client.image_files import ValueRange
from hqsam_client.mask import Mask
from hqsam_client.shared.arrays import Channels
from hqsam_client.shared.base import (
    BaseClient,
    BaseImage,
    BaseWindowedImage,
    EmbedResult,
    check_concurrency,
    closed,
    deadline,
    readiness,
)
from hqsam_client.shared.mask_search import IN_FLIGHT, Search
from hqsam_client.shared.modes import Mode
from hqsam_client.shared.prompt_encoding import Box, Labels, Points, Prompt, check
from hqsam_client.shared.protocol import Call, Flow, embed_flow, patiently
from hqsam_client.shared.sources import Source, open_source
from hqsam_client.shared.upload import ImageLike, Upload, UploadMode, prepare
from hqsam_client.shared.windowing import ZOOMS, is_small, is_still_small, zoom_prompt, zoomed
from hqsam_client.windows import Window, WindowMask, Windows

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

    @overload
    def open(
        self,
        image: ImageLike,
        *,
        upload: UploadMode = "original",
        channels: Channels = "rgb",
        value_range: ValueRange | None = None,
    ) -> RemoteImage: ...

    @overload
    def open(
        self,
        image: ImageLike,
        *,
        upload: UploadMode = "original",
        channels: Channels = "rgb",
        value_range: ValueRange | None = None,
        windows: Windows,
    ) -> WindowedImage: ...

    def open(
        self,
        image: ImageLike,
        *,
        upload: UploadMode = "original",
        channels: Channels = "rgb",
        value_range: ValueRange | None = None,
        windows: Windows | None = None,
    ) -> RemoteImage | WindowedImage:
        """Make sure that the server knows an image; it encodes images that are new to it.

        Args:
            image: a path, the bytes of a file, a binary file object, a Pillow image, or an
                array, uint8 [height, width, 3], RGB, unless `channels` and `value_range` say what
                else it is. Its EXIF orientation is applied: original pixels are those of the
                upright image.
            upload: "original" sends files as they are. "resized" shrinks files of more than
                1024 pixels to what the model sees before it sends them. That saves bandwidth;
                the image then has another `image_id` than its file, and Pillow decodes it
                here instead of on the server.
            channels: of an array: "rgb", "bgr", "rgba", "bgra", of [height, width, 3] or 4, or
                "grey", of [height, width]. Alpha is dropped.
            value_range: which values become 0 and 255 of images that have more than 8 bits a
                value: (low, high), or `Percentiles` of the image's own finite values. Needed for
                arrays of bool, integers and floats; None leaves files and Pillow images to the
                rules of `hqsam_client.image_files`. Images of 8 bits a value are as they are.
            windows: a grid of windows, for large images of small objects. Nothing is sent
                yet: each window is sent, without loss, when it is first needed.

        Returns:
            The image; a `WindowedImage` if there are `windows`.

        Raises:
            ImageError: it is not an image, or cannot be used, or the model would see it as black.
            OptionError: another argument is wrong.
            MissingPackageError: `value_range` is for a file of 16-bit colours, and OpenCV is not
                installed.
            ConnectionLostError: no server can be reached, or none answers in time.
            RequestRefusedError: the server refuses it.
        """
        if windows is not None:
            source = open_source(image, channels=channels, value_range=value_range)
            return WindowedImage(self, source, windows)
        prepared = prepare(image, upload, channels=channels, value_range=value_range)
        opened = RemoteImage(self, prepared)
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
        zoom: bool = False,
        upload: UploadMode = "original",
        channels: Channels = "rgb",
        value_range: ValueRange | None = None,
    ) -> Mask:
        """Segment one object of one image; see `open` and `RemoteImage.segment`.

        It asks for the mask first and sends the image only to a server that lacks it.
        """
        prepared = prepare(image, upload, channels=channels, value_range=value_range)
        opened = RemoteImage(self, prepared)
        return opened.segment(points, labels, box, mode=mode, logits=logits, zoom=zoom)

    def embed(
        self,
        images: Iterable[ImageLike],
        *,
        upload: UploadMode = "original",
        channels: Channels = "rgb",
        value_range: ValueRange | None = None,
        concurrency: int = 4,
        progress: Callable[[EmbedResult], object] | None = None,
    ) -> list[EmbedResult]:
        """Have many images encoded ahead of time.

        The client asks before it sends an image, so a second run continues an interrupted
        one. An image that fails does not stop the others.

        Args:
            images: as in `open`.
            upload: as in `open`.
            channels: as in `open`, for all of them.
            value_range: as in `open`, for all of them.
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
                prepared = prepare(image, upload, channels=channels, value_range=value_range)
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
        zoom: bool = False,
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
        zoom: bool = False,
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
        zoom: bool = False,
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
        zoom: bool = False,
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
            zoom: of an image of more than 1024 pixels, segment small objects again as `zoom` does:
                those whose box has sides of less than 256 pixels in the input frame. Each takes
                one to three more encodes. If nothing is found there, the first mask stays.

        Returns:
            A mask; a list of masks, in order, if `boxes` is given or `points` is a list of lists.
            Those that were zoomed into are of `WindowMask`.

        Raises:
            PromptError: an argument is wrong; nothing was sent.
            SupersededError: on `latest`, a newer call replaced this one.
            ConnectionLostError: no server can be reached, or none answers in time.
            RequestRefusedError: the server answered with an error.
        """
        prompts, many = check(self.size, points, labels, box, boxes, refine)
        flow, turn = self._segmenting(prompts, mode, logits), self._turn()
        masks = self._client.run(flow, turn=turn)
        for number, (prompt, mask) in enumerate(zip(prompts, masks, strict=True)):
            if zoom and is_small(mask):
                closer = self._zoomed(prompt, mask, mode, logits, turn)
                masks[number] = closer if closer.area else mask
        return masks if many else masks[0]

    def zoom(
        self,
        points: Points | None = None,
        labels: Labels | None = None,
        box: Box | None = None,
        *,
        mask: Mask | None = None,
        mode: Mode = "hq",
        logits: bool = True,
    ) -> WindowMask:
        """Segment one object in a window around it, at full resolution.

        The window has 3 times the longer side of the box, or of the mask's box, and at least 256
        pixels. It is encoded as an image of its own. The mask is empty outside of it. Without a
        box, an object that has less than a fifth of the window's side is segmented again, in a
        window around what was found; twice at most.

        Args:
            points: as in `segment`. Those outside the window are left out.
            labels: as in `segment`.
            box: as in `segment`; says where the object is.
            mask: an earlier mask of the object, which says the same; its box is the prompt if
                there is no other. Without a box and a mask, `points` are segmented first.
            mode: as in `segment`.
            logits: whether `WindowMask.inner` needs logits.

        Raises:
            PromptError: an argument is wrong, or the mask is empty.
            ConnectionLostError: no server can be reached, or none answers in time.
            RequestRefusedError: the server answered with an error.
        """
        turn = self._turn()
        prompt = zoom_prompt(self.size, points, labels, box, mask)
        if mask is None and box is None:
            flow = self._segmenting([prompt], mode, logits=False)
            (mask,) = self._client.run(flow, turn=turn)
        return self._zoomed(prompt, mask, mode, logits, turn)

    def _zoomed(
        self, prompt: Prompt, mask: Mask | None, mode: Mode, logits: bool, turn: Turn | None
    ) -> WindowMask:
        for _ in range(ZOOMS):
            group = zoomed(prompt, mask, self.size)
            upload = self._uploads.get(group.window)
            masks = self._client.run(group.flow(upload, mode, logits), turn=turn)
            ((_, closer),) = group.placed(masks, self._uploads)
            if not is_still_small(closer, prompt):
                break
            mask = closer
        return closer

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
        return _everything(
            self._client, Search(self._uploads, options or EverythingOptions(), progress)
        )

    def _turn(self) -> Turn | None:
        return None if self._turns is None else self._turns.next()


class WindowedImage(BaseWindowedImage):
    """A large image in windows; made by `HQSam.open`.

    Each window is an image of its own for the server, which the client cuts out and sends when
    it is first needed. Coordinates, masks and `size` are those of the whole image.

    Attributes:
        size: (height, width) of the upright image: original pixels.
        windows: of the grid, row by row: (x0, y0, x1, y1) in original pixels.
    """

    def __init__(self, client: HQSam, source: Source, windows: Windows) -> None:
        super().__init__(source, windows)
        self._client = client

    def embed(
        self, *, concurrency: int = 4, progress: Callable[[int, int], object] | None = None
    ) -> int:
        """Have all windows of the grid encoded ahead of time; returns how many were new.

        After an error or an interruption, call it again: it continues. The server keeps as many
        as its store holds, 12.6 MB each.

        Args:
            concurrency: windows under way at once.
            progress: called after each window with the number of windows done and of all.

        Raises:
            ConnectionLostError: no server can be reached, or none answers in time.
            RequestRefusedError: the server refuses one.
        """
        check_concurrency(concurrency)

        def embed_one(window: Window) -> bool:
            return self._client.run(embed_flow(self._uploads.get(window), ask=True))

        new = 0
        with ThreadPoolExecutor(concurrency, thread_name_prefix="hqsam-embed") as pool:
            calls = [pool.submit(embed_one, window) for window in self.windows]
            try:
                for done, call in enumerate(calls, start=1):
                    new += not call.result()
                    if progress is not None:
                        progress(done, len(calls))
            finally:
                pool.shutdown(cancel_futures=True)
        return new

    @overload
    def segment(
        self,
        points: Points | None = None,
        labels: Labels | None = None,
        box: Box | None = None,
        *,
        refine: WindowMask | None = None,
        mode: Mode = "hq",
        logits: bool = True,
    ) -> WindowMask: ...

    @overload
    def segment(
        self,
        points: Sequence[Points | None] | None = None,
        labels: Sequence[Labels | None] | None = None,
        *,
        boxes: Sequence[Box | None] | NDArray[Any],
        refine: Sequence[WindowMask | None] | None = None,
        mode: Mode = "hq",
        logits: bool = True,
    ) -> list[WindowMask]: ...

    @overload
    def segment(
        self,
        points: Sequence[Points],
        labels: Sequence[Labels | None] | None = None,
        *,
        refine: Sequence[WindowMask | None] | None = None,
        mode: Mode = "hq",
        logits: bool = True,
    ) -> list[WindowMask]: ...

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
    ) -> WindowMask | list[WindowMask]:
        """Segment one object, or many at once, each in one window.

        That is the window of the grid whose centre is nearest to the middle of the prompt, of
        those that hold its points, and its box with an eighth of its longer side around it. If
        none does, it is a window of its own around the prompt. With `refine`, it is the window of
        that mask as long as it holds the prompt; otherwise, the prompt starts anew.

        Arguments and errors are those of `RemoteImage.segment`; `ImageError` if the pixels of a
        window cannot be read.

        Returns:
            A mask; a list of masks, in order, if `boxes` is given or `points` is a list of lists.
        """
        groups, many = self._groups(points, labels, box, boxes, refine)
        found: dict[int, WindowMask] = {}
        for group in groups:
            upload = self._uploads.get(group.window)
            masks = self._client.run(group.flow(upload, mode, logits))
            found.update(group.placed(masks, self._uploads))
        in_order = [found[number] for number in sorted(found)]
        return in_order if many else in_order[0]

    def everything(
        self,
        options: EverythingOptions | None = None,
        *,
        progress: Callable[[int, int], object] | None = None,
    ) -> list[FoundMask]:
        """Look for all objects in each window; see `RemoteImage.everything`.

        The grid of points is laid over each window. Objects at an edge between windows are those
        of the window that shows them whole.

        Raises:
            OptionError: the options have crops of their own.
        """
        search = Search(
            self._uploads, options or EverythingOptions(), progress, windows=self.windows
        )
        return _everything(self._client, search)


def _everything(client: HQSam, search: Search) -> list[FoundMask]:
    with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="hqsam-everything") as pool:
        for crop in search.crops:
            upload, batches = search.upload_of(crop), search.batches(crop)
            client.run(embed_flow(upload, ask=True))
            flows = [search.flow(upload, points) for points in batches]
            found = []
            for points, candidates in zip(batches, pool.map(client.run, flows), strict=True):
                found += candidates
                search.answered(len(points))
            search.add(crop, found)
    return search.masks()


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
