"""The client for asyncio: `AsyncHQSam`, with the methods of `HQSam` in the same order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from functools import cached_property
from typing import Any, TypeVar, overload

import grpc.aio
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


class AsyncHQSam(BaseClient):
    """`HQSam` for asyncio: a connection for any number of tasks of one event loop.

    ```python
    async with AsyncHQSam("localhost:8001") as sam:
        image = await sam.open("photo.jpg")
        mask = await image.segment(points=[(420, 310)])
    ```

    Make it inside of a running event loop. The options are those of `BaseClient`.
    Cancelling a task cancels its call, unless that is an encoding.
    """

    _grpc = grpc.aio

    @overload
    async def open(
        self,
        image: ImageLike,
        *,
        upload: UploadMode = "original",
        channels: Channels = "rgb",
        value_range: ValueRange | None = None,
    ) -> AsyncRemoteImage: ...

    @overload
    async def open(
        self,
        image: ImageLike,
        *,
        upload: UploadMode = "original",
        channels: Channels = "rgb",
        value_range: ValueRange | None = None,
        windows: Windows,
    ) -> AsyncWindowedImage: ...

    async def open(
        self,
        image: ImageLike,
        *,
        upload: UploadMode = "original",
        channels: Channels = "rgb",
        value_range: ValueRange | None = None,
        windows: Windows | None = None,
    ) -> AsyncRemoteImage | AsyncWindowedImage:
        """Make sure that the server knows an image; see `HQSam.open`."""
        if windows is not None:
            source = await asyncio.to_thread(
                open_source, image, channels=channels, value_range=value_range
            )
            return AsyncWindowedImage(self, source, windows)
        prepared = await asyncio.to_thread(
            prepare, image, upload, channels=channels, value_range=value_range
        )
        opened = AsyncRemoteImage(self, prepared)
        await opened.embed()
        return opened

    async def segment(
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
        """Segment one object of one image; see `HQSam.segment`."""
        prepared = await asyncio.to_thread(
            prepare, image, upload, channels=channels, value_range=value_range
        )
        opened = AsyncRemoteImage(self, prepared)
        return await opened.segment(points, labels, box, mode=mode, logits=logits, zoom=zoom)

    async def embed(
        self,
        images: Iterable[ImageLike],
        *,
        upload: UploadMode = "original",
        channels: Channels = "rgb",
        value_range: ValueRange | None = None,
        concurrency: int = 4,
        progress: Callable[[EmbedResult], object] | None = None,
    ) -> list[EmbedResult]:
        """Have many images encoded ahead of time; see `HQSam.embed`."""
        check_concurrency(concurrency)
        places = asyncio.Semaphore(concurrency)

        async def embed_one(image: ImageLike) -> EmbedResult:
            image_id, stored, error = None, False, None
            async with places:
                try:
                    prepared = await asyncio.to_thread(
                        prepare, image, upload, channels=channels, value_range=value_range
                    )
                    image_id = prepared.image_id
                    stored = await self.run(embed_flow(prepared, ask=True))
                except HQSamError as caught:
                    error = caught
            result = EmbedResult(image, image_id, stored, error)
            if progress is not None:
                progress(result)
            return result

        return await asyncio.gather(*map(embed_one, images))

    async def is_ready(self, timeout_s: float = 5.0) -> bool:
        """Tell whether the server says in time that it is ready; see `HQSam.is_ready`."""
        try:
            return await self.run(readiness(), timeout_s=timeout_s)
        except HQSamError:
            return False

    async def run(
        self, flow: Flow[T], *, turn: Turn | None = None, timeout_s: float | None = None
    ) -> T:
        """Send a flow's calls until it returns; see `HQSam.run`."""
        if turn is not None:
            return await turn.take(self.run(flow, timeout_s=timeout_s))
        end = deadline(timeout_s)
        flow = patiently(flow)
        try:
            call = next(flow)
            while True:
                try:
                    response = await self._send(call, end)
                except HQSamError as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(response)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def close(self) -> None:
        """Close the connections; running calls end with `UnavailableError`."""
        self._closed = True
        await self._channel.close()

    async def __aenter__(self) -> AsyncHQSam:
        """Return the client itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self.close()

    async def _send(self, call: Call, end: float | None) -> Any:
        if call.after_s:
            await asyncio.sleep(call.after_s)
        if self._closed:
            raise closed()
        method, options = getattr(self._stub, call.method), self._call_options(call, end)
        # In a task of its own, a call that `close` cancels can be told from a task that its
        # caller cancels.
        answer = asyncio.ensure_future(method(call.request, **options))
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError as error:
            if answer.cancelled():
                raise self._cancelled() from error
            # An encoding goes on, for the next call.
            if not call.encodes:
                answer.cancel()
            raise
        except grpc.RpcError as error:
            raise self._error(error) from error


class AsyncRemoteImage(BaseImage):
    """An image that the server knows; made by `AsyncHQSam.open`.

    Attributes:
        image_id: SHA-256 of what was sent, 64 lower-case hex digits.
        size: (height, width) of the upright image: original pixels.
        encoded: the image file as it is sent to the server.
    """

    def __init__(self, client: AsyncHQSam, upload: Upload, turns: Turns | None = None) -> None:
        super().__init__(upload)
        self._client = client
        self._turns = turns

    @cached_property
    def latest(self) -> AsyncRemoteImage:
        """The same image, where only the newest of overlapping calls counts; see `RemoteImage`."""
        if self._turns is not None:
            return self
        return AsyncRemoteImage(self._client, self._upload, Turns())

    async def full_image(self) -> Image.Image:
        """Decode the upright image; see `RemoteImage.full_image`."""
        return await asyncio.to_thread(self._upload.full_image)

    async def embed(self) -> bool:
        """Make sure that the server has the image; returns whether it had it before."""
        return await self._client.run(self._embedding())

    @overload
    async def segment(
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
    async def segment(
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
    async def segment(
        self,
        points: Sequence[Points],
        labels: Sequence[Labels | None] | None = None,
        *,
        refine: Sequence[Mask | None] | None = None,
        mode: Mode = "hq",
        logits: bool = True,
        zoom: bool = False,
    ) -> list[Mask]: ...

    async def segment(
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
        """Segment one object, or many at once; see `RemoteImage.segment`."""
        prompts, many = check(self.size, points, labels, box, boxes, refine)
        flow, turn = self._segmenting(prompts, mode, logits), self._turn()
        masks = await self._client.run(flow, turn=turn)
        for number, (prompt, mask) in enumerate(zip(prompts, masks, strict=True)):
            if zoom and is_small(mask):
                closer = await self._zoomed(prompt, mask, mode, logits, turn)
                masks[number] = closer if closer.area else mask
        return masks if many else masks[0]

    async def zoom(
        self,
        points: Points | None = None,
        labels: Labels | None = None,
        box: Box | None = None,
        *,
        mask: Mask | None = None,
        mode: Mode = "hq",
        logits: bool = True,
    ) -> WindowMask:
        """Segment one object in a window around it; see `RemoteImage.zoom`."""
        turn = self._turn()
        prompt = zoom_prompt(self.size, points, labels, box, mask)
        if mask is None and box is None:
            flow = self._segmenting([prompt], mode, logits=False)
            (mask,) = await self._client.run(flow, turn=turn)
        return await self._zoomed(prompt, mask, mode, logits, turn)

    async def _zoomed(
        self, prompt: Prompt, mask: Mask | None, mode: Mode, logits: bool, turn: Turn | None
    ) -> WindowMask:
        for _ in range(ZOOMS):
            group = zoomed(prompt, mask, self.size)
            upload = await asyncio.to_thread(self._uploads.get, group.window)
            masks = await self._client.run(group.flow(upload, mode, logits), turn=turn)
            ((_, closer),) = await asyncio.to_thread(group.placed, masks, self._uploads)
            if not is_still_small(closer, prompt):
                break
            mask = closer
        return closer

    async def everything(
        self,
        options: EverythingOptions | None = None,
        *,
        progress: Callable[[int, int], object] | None = None,
    ) -> list[FoundMask]:
        """Look for all objects; see `RemoteImage.everything`."""
        search = Search(self._uploads, options or EverythingOptions(), progress)
        return await _everything(self._client, search)

    def _turn(self) -> Turn | None:
        return None if self._turns is None else self._turns.next()


class AsyncWindowedImage(BaseWindowedImage):
    """A large image in windows; made by `AsyncHQSam.open`. See `WindowedImage`.

    Attributes:
        size: (height, width) of the upright image: original pixels.
        windows: of the grid, row by row: (x0, y0, x1, y1) in original pixels.
    """

    def __init__(self, client: AsyncHQSam, source: Source, windows: Windows) -> None:
        super().__init__(source, windows)
        self._client = client

    async def embed(
        self, *, concurrency: int = 4, progress: Callable[[int, int], object] | None = None
    ) -> int:
        """Have all windows of the grid encoded ahead of time; see `WindowedImage.embed`."""
        check_concurrency(concurrency)

        async def embed_one(window: Window) -> bool:
            upload = await asyncio.to_thread(self._uploads.get, window)
            return await self._client.run(embed_flow(upload, ask=True))

        new = done = 0
        calls = [embed_one(window) for window in self.windows]
        async with aclosing(_in_order(concurrency, calls)) as answers:
            async for stored in answers:
                new += not stored
                done += 1
                if progress is not None:
                    progress(done, len(self.windows))
        return new

    @overload
    async def segment(
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
    async def segment(
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
    async def segment(
        self,
        points: Sequence[Points],
        labels: Sequence[Labels | None] | None = None,
        *,
        refine: Sequence[WindowMask | None] | None = None,
        mode: Mode = "hq",
        logits: bool = True,
    ) -> list[WindowMask]: ...

    async def segment(
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
        """Segment one object, or many at once, each in one window; see `WindowedImage.segment`."""
        groups, many = self._groups(points, labels, box, boxes, refine)
        found: dict[int, WindowMask] = {}
        for group in groups:
            upload = await asyncio.to_thread(self._uploads.get, group.window)
            masks = await self._client.run(group.flow(upload, mode, logits))
            found.update(await asyncio.to_thread(group.placed, masks, self._uploads))
        in_order = [found[number] for number in sorted(found)]
        return in_order if many else in_order[0]

    async def everything(
        self,
        options: EverythingOptions | None = None,
        *,
        progress: Callable[[int, int], object] | None = None,
    ) -> list[FoundMask]:
        """Look for all objects in each window; see `WindowedImage.everything`."""
        search = Search(
            self._uploads, options or EverythingOptions(), progress, windows=self.windows
        )
        return await _everything(self._client, search)


async def _everything(client: AsyncHQSam, search: Search) -> list[FoundMask]:
    for crop in search.crops:
        upload = await asyncio.to_thread(search.upload_of, crop)
        await client.run(embed_flow(upload, ask=True))
        batches = search.batches(crop)
        calls = [client.run(search.flow(upload, points)) for points in batches]
        left = iter(batches)
        found = []
        async with aclosing(_in_order(IN_FLIGHT, calls)) as answers:
            async for candidates in answers:
                found += candidates
                search.answered(len(next(left)))
        await asyncio.to_thread(search.add, crop, found)
    return await asyncio.to_thread(search.masks)


async def _in_order(
    at_once: int, calls: Sequence[Coroutine[Any, Any, T]]
) -> AsyncGenerator[T, None]:
    """Yield what calls return, in their order; an error or an interruption ends all of them."""
    places = asyncio.Semaphore(at_once)

    async def in_turn(call: Coroutine[Any, Any, T]) -> T:
        async with places:
            return await call

    tasks = [asyncio.ensure_future(in_turn(call)) for call in calls]
    try:
        for task in tasks:
            yield await task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for call in calls:
            call.close()


class Turn:
    """One of several overlapping flows, which a newer one ends."""

    def __init__(self) -> None:
        self._superseded = False
        self._task: asyncio.Task[Any] | None = None

    def supersede(self) -> None:
        """End the flow."""
        self._superseded = True
        if self._task is not None:
            self._task.cancel()

    async def take(self, calls: Coroutine[Any, Any, T]) -> T:
        """Return what `calls` returns, or raise `SupersededError` as soon as superseded."""
        task = self._task = asyncio.ensure_future(calls)
        outcome: T | BaseException
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        if self._superseded:
            raise SupersededError("a newer call on image.latest replaced this one")
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


class Turns:
    """Hands out turns, each of which supersedes the one before."""

    def __init__(self) -> None:
        self._newest: Turn | None = None

    def next(self) -> Turn:
        """Return a new turn, and supersede the one before."""
        previous, self._newest = self._newest, Turn()
        if previous is not None:
            previous.supersede()
        return self._newest
