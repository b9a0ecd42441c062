"""The page's ASGI app: static files, and a small API for the page's script.

The app is not built on Gradio: there, each click passes through a queue and is answered with
an image that the server drew, and hovering, keys, touch and several objects do not fit its
components. Here a click is one request, the answer is the model's logits, and the browser
draws them.

The app holds one client and a few images. No request can make it call another server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from hqsam_client import (
    AsyncHQSam,
    AsyncRemoteImage,
    EverythingOptions,
    HQSamError,
    Mask,
    server_status,
)
from hqsam_client.image_files import ValueRange
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hqsam_ui import static, wire
from hqsam_ui.decoding import ImageFiles
from hqsam_ui.errors import PageError, from_client
from hqsam_ui.folder import Folder
from hqsam_ui.folder_api import folder_routes
from hqsam_ui.guard import LOOPBACK, Guard
from hqsam_ui.images import Images

MAX_IMAGE_BYTES = 64 * 2**20
"""Size of an image file; the model server's own default limit."""

KEPT_BYTES = 256 * 2**20
"""Total size of the image files that are kept in memory."""

_STATUS_TIMEOUT_S = 2.0

_BODIES = 4
"""Image files that are received at once; others wait before their first byte."""

_SEARCHES = 4
"""Searches for everything at once; others wait."""

EVERYTHING = EverythingOptions(points_per_side=16, pred_iou_thresh=0.7, stability_score_thresh=0.85)
"""A fourth of the authors' points, for somebody waits; and lower thresholds, for it is quicker to
delete an object than to make one."""

T = TypeVar("T")


def create_app(
    make_client: Callable[[], AsyncHQSam],
    hosts: Collection[str] = LOOPBACK,
    any_address: bool = False,
    kept_bytes: int = KEPT_BYTES,
    max_image_bytes: int = MAX_IMAGE_BYTES,
    folder: Folder | None = None,
    value_range: ValueRange | None = None,
) -> Starlette:
    """Return the ASGI app.

    Args:
        make_client: makes the client; called in the running event loop when the app starts.
        hosts: host names that the page is served as, in lower case.
        any_address: it is served as any IP address, too.
        kept_bytes: see `KEPT_BYTES`.
        max_image_bytes: see `MAX_IMAGE_BYTES`.
        folder: the images that the page works on; None for those that the user chooses.
        value_range: as in `HQSam.open`, for all images.
    """
    files = ImageFiles(value_range)
    api = _Api(make_client, Images(kept_bytes), max_image_bytes, folder, files)
    routes = [
        Route("/api/status", api.status),
        Route("/api/images", api.open, methods=["POST"]),
        Route("/api/images/{image_id}/mask", api.segment, methods=["POST"]),
        Route("/api/images/{image_id}/everything", api.everything, methods=["POST"]),
        Route("/api/shown", api.shown, methods=["POST"]),
        *([] if folder is None else folder_routes(folder, files)),
        *static.routes(),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, hosts=hosts, any_address=any_address)],
        exception_handlers={PageError: _page_error, HQSamError: _client_error},
        lifespan=api.lifespan,
    )


class _Api:
    """The calls of the page's script."""

    def __init__(
        self,
        make_client: Callable[[], AsyncHQSam],
        images: Images,
        max_image_bytes: int,
        folder: Folder | None,
        files: ImageFiles,
    ) -> None:
        self._folder = folder
        self._make_client = make_client
        self._images = images
        self._max_image_bytes = max_image_bytes
        # Each holds a file.
        self._receiving = asyncio.Semaphore(_BODIES)
        self._searching = asyncio.Semaphore(_SEARCHES)
        self._files = files
        self._sam: AsyncHQSam

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Keep the client open while the app runs."""
        async with self._make_client() as self._sam:
            yield
        await asyncio.to_thread(self._files.close)

    async def status(self, request: Request) -> Response:
        """Tell whether the HQ-SAM server is ready, which model it has, and the page's limits."""
        ready, model = await self._sam.is_ready(_STATUS_TIMEOUT_S), None
        if ready:
            model = await self._sam.run(server_status.member(), timeout_s=_STATUS_TIMEOUT_S)
        return JSONResponse(
            {
                "ready": ready,
                "model": model,
                "url": self._sam.url,
                "max_image_bytes": self._max_image_bytes,
                "folder": None if self._folder is None else self._folder.name,
            }
        )

    async def open(self, request: Request) -> Response:
        """Take an image file and have it encoded, unless the server has its embedding."""
        async with self._receiving:
            encoded = await wire.body(request, self._max_image_bytes)
            start = time.perf_counter()
            upload, sha256 = await self._files.open(encoded)
            image = AsyncRemoteImage(self._sam, upload)
            # Kept before it is encoded: a click on it is answered as soon as it is.
            self._images.add(image)
        known = await _while_connected(request, image.embed())
        height, width = image.size
        return JSONResponse(
            {
                "image_id": image.image_id,
                "sha256": sha256,
                "width": width,
                "height": height,
                "known": known,
                "seconds": round(time.perf_counter() - start, 6),
            }
        )

    async def segment(self, request: Request) -> Response:
        """Answer a prompt with a mask's logits, and its predicted IoU in a header."""
        fields, masks = wire.read(await wire.body(request, wire.MAX_JSON_BYTES + wire.MASK_BYTES))
        image = self._images.get(request.path_params["image_id"])
        refine = Mask(masks[0], 0.0, image.size) if masks else None
        start = time.perf_counter()
        mask = await _while_connected(request, image.segment(**wire.prompt(fields), refine=refine))
        took_s = time.perf_counter() - start
        return Response(
            wire.write(mask.low_res_logits),
            media_type="application/octet-stream",
            headers={
                "x-mask-iou": f"{mask.iou:.6f}",
                "server-timing": f"segment;dur={1000 * took_s:.1f}",
            },
        )

    async def everything(self, request: Request) -> Response:
        """Answer with the masks of all objects, as COCO's run lengths."""
        await wire.body(request, 0)
        image = self._images.get(request.path_params["image_id"])
        async with self._searching:
            found = await _while_connected(request, image.everything(EVERYTHING))
        return JSONResponse({"masks": [mask.rle() for mask in found]})

    async def shown(self, request: Request) -> Response:
        """Answer an image file that browsers cannot show with a JPEG of what the model sees."""
        async with self._receiving:
            encoded = await wire.body(request, self._max_image_bytes)
            content = await self._files.picture("shown", encoded)
        return Response(content, media_type="image/jpeg")


async def _while_connected(request: Request, call: Coroutine[Any, Any, T]) -> T:
    """Return the result of a call; cancel it if the browser disconnects.

    So abandoned previews and images never delay a click.
    """
    work = asyncio.ensure_future(call)
    # The body has been read, so the next message is the disconnect.
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
            raise PageError(499, "gone", "the browser disconnected")
        return work.result()
    finally:
        gone.cancel()


async def _page_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PageError)  # noqa: S101 - as registered
    return error.response()


async def _client_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HQSamError)  # noqa: S101 - as registered
    return from_client(error).response()
