"""The client for asyncio: `AsyncHQSam`, with the methods of `HQSam` in the same order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import cached_property
from typing import Any, TypeVar, overload

import grpc.aio
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import service_pb2

from hqsam_client.errors import HQSamError, SupersededError
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


class AsyncHQSam(BaseClient):
    """`HQSam` for asyncio: a connection for any number of tasks of one event loop.

    ```python
    async with AsyncHQSam("localhost:8001") as sam:
        image = await sam.open("photo.jpg")
        mask = await image.segment(points=[(420, 310)])
    ```

    Make it inside of a running event loop. The options are those of `BaseClient`.
    Cancelling a task cancels its call, but for an encoding that has been sent.
    """

    _grpc = grpc.aio

    async def open(self, image: ImageLike, *, upload: UploadMode = "original") -> AsyncRemoteImage:
        """Make sure that the server knows an image; see `HQSam.open`."""
        opened = AsyncRemoteImage(self, await asyncio.to_thread(prepare, image, upload))
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
        upload: UploadMode = "original",
    ) -> Mask:
        """Segment one object of one image; see `HQSam.segment`."""
        prepared = await asyncio.to_thread(prepare, image, upload)
        return await AsyncRemoteImage(self, prepared).segment(points, labels, box, mode=mode)

    async def embed(
        self,
        images: Iterable[ImageLike],
        *,
        upload: UploadMode = "original",
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
                    prepared = await asyncio.to_thread(prepare, image, upload)
                    image_id = prepared.image_id
                    stored = await self._run(embed_flow(prepared, ask=True))
                except HQSamError as caught:
                    error = caught
            result = EmbedResult(image, image_id, stored, error)
            if progress is not None:
                progress(result)
            return result

        return await asyncio.gather(*map(embed_one, images))

    async def is_ready(self, timeout_s: float = 5.0) -> bool:
        """Tell whether the server says in time that it is ready; see `HQSam.is_ready`."""
        if self._closed:
            return False
        request = service_pb2.ServerReadyRequest()
        try:
            answer = await self._stub.ServerReady(
                request, timeout=timeout_s, metadata=self._metadata
            )
        except grpc.RpcError:
            return False
        return bool(answer.ready)

    async def close(self) -> None:
        """Close the connections; calls that are under way are cancelled."""
        self._closed = True
        await self._channel.close()

    async def __aenter__(self) -> AsyncHQSam:
        """Return the client itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self.close()

    async def _run(self, flow: Flow[T]) -> T:
        """Send a flow's calls until it returns."""
        try:
            call = next(flow)
            while True:
                try:
                    response = await self._send(call)
                except HQSamError as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(response)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _send(self, call: Call) -> Any:
        if call.after_s:
            await asyncio.sleep(call.after_s)
        pending = self._stub.ModelInfer(call.request, **self._call_options(call))
        try:
            # An encoding is of use to the next call, too.
            return await (asyncio.shield(pending) if call.encodes else pending)
        except grpc.RpcError as error:
            raise self._error(error) from error


class AsyncRemoteImage:
    """An image that the server knows; made by `AsyncHQSam.open`.

    Attributes:
        image_id: SHA-256 of what was sent, 64 lower-case hex digits.
        size: (height, width) of the upright image: original pixels.
    """

    def __init__(self, client: AsyncHQSam, upload: Upload, turns: _Turns | None = None) -> None:
        self._client = client
        self._upload = upload
        self._turns = turns
        self.image_id: str = upload.image_id
        self.size: Size = upload.size

    @cached_property
    def latest(self) -> AsyncRemoteImage:
        """The same image, where only the newest of overlapping calls counts; see `RemoteImage`."""
        if self._turns is not None:
            return self
        return AsyncRemoteImage(self._client, self._upload, _Turns())

    @property
    def encoded(self) -> bytes:
        """The image file as it is sent to the server."""
        return self._upload.encoded

    async def full_image(self) -> Image.Image:
        """Decode the upright image; see `RemoteImage.full_image`."""
        return await asyncio.to_thread(self._upload.full_image)

    async def embed(self) -> bool:
        """Make sure that the server has the image; returns whether it had it before."""
        ask = len(self._upload.encoded) >= ASK_FROM_BYTES
        return await self._client._run(embed_flow(self._upload, ask))

    @overload
    async def segment(
        self,
        points: Points | None = None,
        labels: Labels | None = None,
        box: Box | None = None,
        *,
        refine: Mask | None = None,
        mode: Mode = "hq",
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
    ) -> list[Mask]: ...

    @overload
    async def segment(
        self,
        points: Sequence[Points],
        labels: Sequence[Labels | None] | None = None,
        *,
        refine: Sequence[Mask | None] | None = None,
        mode: Mode = "hq",
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
    ) -> Mask | list[Mask]:
        """Segment one object, or many in one request; see `RemoteImage.segment`."""
        choice = protocol.choice(mode)
        prompts = prompt_encoding.build(self.size, points, labels, box, boxes, refine)
        masks = await self._segment(prompts, choice)
        return masks if prompts.many else masks[0]

    async def _segment(self, prompts: Prompts, choice: Choice) -> list[Mask]:
        calls = self._client._run(segment_flow(self._upload, prompts, choice))
        return await (calls if self._turns is None else self._turns.take(calls))


class _Turns:
    """Runs calls as tasks, each of which supersedes the one before."""

    def __init__(self) -> None:
        self._newest: asyncio.Task[Any] | None = None

    async def take(self, calls: Coroutine[Any, Any, T]) -> T:
        """Return what `calls` returns, or raise `SupersededError` when it is superseded."""
        task = asyncio.ensure_future(calls)
        previous, self._newest = self._newest, task
        if previous is not None:
            previous.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        if self._newest is not task:
            raise SupersededError("a newer call on image.latest took this one's place")
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome
