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
from importlib import resources
from pathlib import PurePosixPath
from typing import Any, TypeVar

from hqsam_client import AsyncHQSam, AsyncRemoteImage, HQSamError, Mask
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hqsam_ui import wire
from hqsam_ui.decoding import ImageFiles
from hqsam_ui.downloads import DOWNLOADS
from hqsam_ui.errors import PageError, from_client
from hqsam_ui.guard import Guard
from hqsam_ui.images import Images

MAX_IMAGE_BYTES = 64 * 2**20
"""Size of an image file; the model server's own default limit."""

KEPT_BYTES = 256 * 2**20
"""Total size of the image files that are kept in memory."""

_STATUS_TIMEOUT_S = 2.0

_MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}

T = TypeVar("T")


def create_app(
    make_client: Callable[[], AsyncHQSam],
    hosts: Collection[str] | None = None,
    kept_bytes: int = KEPT_BYTES,
    max_image_bytes: int = MAX_IMAGE_BYTES,
) -> Starlette:
    """Return the ASGI app.

    Args:
        make_client: makes the client; called in the running event loop when the app starts.
        hosts: host names that the page is served as; None for any.
        kept_bytes: see `KEPT_BYTES`.
        max_image_bytes: see `MAX_IMAGE_BYTES`.
    """
    api = _Api(make_client, Images(kept_bytes), max_image_bytes)
    routes = [
        Route("/api/status", api.status),
        Route("/api/images", api.open, methods=["POST"]),
        Route("/api/images/{image_id}/mask", api.segment, methods=["POST"]),
        Route("/api/images/{image_id}/{name}", api.download, methods=["POST"]),
        *_static_files(),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={PageError: _page_error, HQSamError: _client_error},
        lifespan=api.lifespan,
    )


def _static_files() -> list[Route]:
    """Return a route for each file of the page. Files are read once; requests name no paths."""
    folder = resources.files("hqsam_ui") / "page"
    files = [("", entry) for entry in folder.iterdir()]
    files += [("js/", entry) for entry in (folder / "js").iterdir()]
    routes = []
    for prefix, entry in files:
        media_type = _MEDIA_TYPES.get(PurePosixPath(entry.name).suffix)
        if media_type is None or not entry.is_file():
            continue
        path = "/" if entry.name == "index.html" else f"/{prefix}{entry.name}"
        routes.append(Route(path, _file(entry.read_bytes(), media_type)))
    return routes


def _file(content: bytes, media_type: str) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def answer(request: Request) -> Response:
        return Response(content, media_type=media_type, headers={"cache-control": "no-cache"})

    return answer


class _Api:
    """The calls of the page's script."""

    def __init__(
        self,
        make_client: Callable[[], AsyncHQSam],
        images: Images,
        max_image_bytes: int,
    ) -> None:
        self._make_client = make_client
        self._images = images
        self._max_image_bytes = max_image_bytes
        self._download_lock = asyncio.Lock()
        self._files = ImageFiles()
        self._sam: AsyncHQSam

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Keep the client open while the app runs."""
        async with self._make_client() as self._sam:
            yield
        await asyncio.to_thread(self._files.close)

    async def status(self, request: Request) -> Response:
        """Tell whether the HQ-SAM server is ready, and the page's limits."""
        return JSONResponse(
            {
                "ready": await self._sam.is_ready(_STATUS_TIMEOUT_S),
                "url": self._sam.url,
                "max_image_bytes": self._max_image_bytes,
                "max_objects": wire.MAX_OBJECTS,
            }
        )

    async def open(self, request: Request) -> Response:
        """Take an image file and have it encoded, unless the server has its embedding."""
        encoded = await wire.body(request, self._max_image_bytes)
        start = time.perf_counter()
        image = AsyncRemoteImage(self._sam, await self._files.open(encoded))
        known = await image.embed()
        self._images.add(image)
        height, width = image.size
        return JSONResponse(
            {
                "image_id": image.image_id,
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

    async def download(self, request: Request) -> Response:
        """Answer masks, sent as logits, with a file of them in original pixels."""
        download = DOWNLOADS.get(request.path_params["name"])
        if download is None:
            raise PageError(404, "request", f"expected one of {', '.join(DOWNLOADS)}")
        limit = wire.MAX_JSON_BYTES + wire.MAX_OBJECTS * wire.MASK_BYTES
        fields, masks = wire.read(await wire.body(request, limit))
        image = self._images.get(request.path_params["image_id"])
        # One at a time: each holds a few full-size images.
        async with self._download_lock:
            content = await asyncio.to_thread(download.write, self._files, image, fields, masks)
        return Response(content, media_type=download.media_type)


async def _while_connected(request: Request, call: Coroutine[Any, Any, T]) -> T:
    """Return the result of a call; cancel it if the browser disconnects.

    So abandoned previews never delay a click.
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
