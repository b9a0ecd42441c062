"""The page's server: the page itself, and a few calls of its script.

The page is plain HTML and JavaScript over this thin ASGI app rather than Gradio: there, each
click passes through a queue and is answered with a picture that was drawn on the server, and
hovering, keys, touch and several objects would have to be fitted into its components. Here a
click is one request, its answer is what the model said, and the browser draws it.

The app holds one client and a few pictures, and neither the browser nor a request can make
it speak to another server than the one it was started for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any, TypeVar

import grpc
from hqsam_client import AsyncHQSam, HQSamError, Mask
from hqsam_client.async_client import AsyncRemoteImage
from hqsam_client.shared.upload import prepare
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tritonclient.grpc import service_pb2

from hqsam_ui import wire
from hqsam_ui.downloads import DOWNLOADS
from hqsam_ui.errors import RefusedError, from_client
from hqsam_ui.guard import Guard, body, to_response
from hqsam_ui.images import Pictures

MAX_PICTURE_BYTES = 64 * 1024 * 1024
"""As many as the models take."""

KEPT_BYTES = 256 * 1024 * 1024
"""Files of pictures that are kept at hand."""

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
    max_picture_bytes: int = MAX_PICTURE_BYTES,
) -> Starlette:
    """Return the ASGI app.

    Args:
        make_client: makes the client, inside of the running event loop.
        hosts: names that the page goes by in a browser; None for any.
        kept_bytes: see `KEPT_BYTES`.
        max_picture_bytes: see `MAX_PICTURE_BYTES`.
    """
    api = _Api(make_client, Pictures(kept_bytes), max_picture_bytes)
    routes = [
        Route("/api/status", api.status),
        Route("/api/pictures", api.open, methods=["POST"]),
        Route("/api/pictures/{image_id}/mask", api.segment, methods=["POST"]),
        Route("/api/pictures/{image_id}/{name}", api.download, methods=["POST"]),
        *_page(),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={RefusedError: _refused, HQSamError: _failed},
        lifespan=api.lifespan,
    )


def _page() -> list[Route]:
    """Return a route for each file of the page, read once: no request names a path."""
    folder = resources.files("hqsam_ui") / "page"
    files = [("", entry) for entry in folder.iterdir()]
    files += [("js/", entry) for entry in (folder / "js").iterdir()]
    routes = []
    for prefix, entry in files:
        media_type = _MEDIA_TYPES.get(entry.name[entry.name.rfind(".") :])
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
    """What the script calls."""

    def __init__(
        self,
        make_client: Callable[[], AsyncHQSam],
        pictures: Pictures,
        max_picture_bytes: int,
    ) -> None:
        self._make_client = make_client
        self._pictures = pictures
        self._max_picture_bytes = max_picture_bytes
        self._sam: AsyncHQSam

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Hold the client for as long as the app runs."""
        async with self._make_client() as self._sam:
            yield

    async def status(self, request: Request) -> Response:
        """Say whether the HQ-SAM server answers, and how large a picture may be."""
        try:
            answer = await self._sam._stub.ServerReady(
                service_pb2.ServerReadyRequest(),
                timeout=_STATUS_TIMEOUT_S,
                metadata=self._sam._metadata,
            )
            ready = bool(answer.ready)
        except grpc.RpcError:
            ready = False
        return JSONResponse(
            {"ready": ready, "url": self._sam.url, "max_bytes": self._max_picture_bytes}
        )

    async def open(self, request: Request) -> Response:
        """Take a picture's file and have it encoded, unless the server knows it."""
        encoded = await body(request, self._max_picture_bytes)
        start = time.perf_counter()
        upload = await asyncio.to_thread(prepare, encoded)
        picture = AsyncRemoteImage(self._sam, upload)
        known = await picture.embed()
        self._pictures.add(picture)
        height, width = picture.size
        return JSONResponse(
            {
                "image_id": picture.image_id,
                "width": width,
                "height": height,
                "known": known,
                "seconds": round(time.perf_counter() - start, 6),
            }
        )

    async def segment(self, request: Request) -> Response:
        """Answer prompts with a mask's logits; what it says of itself is in headers."""
        fields, masks = wire.read(await body(request, wire.MAX_JSON_BYTES + wire.MASK_BYTES))
        picture = self._pictures.get(request.path_params["image_id"])
        refine = Mask(masks[0], 0.0, picture.size) if masks else None
        start = time.perf_counter()
        mask = await _unless_gone(
            request,
            picture.segment(**wire.prompt(fields), refine=refine),
        )
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
        """Answer masks that the page has with a file of them."""
        way = DOWNLOADS.get(request.path_params["name"])
        if way is None:
            raise RefusedError(404, "request", "there is no such download")
        limit = wire.MAX_JSON_BYTES + wire.MAX_OBJECTS * wire.MASK_BYTES
        fields, masks = wire.read(await body(request, limit))
        picture = self._pictures.get(request.path_params["image_id"])
        content = await asyncio.to_thread(way.write, picture._upload, fields, masks)
        return Response(content, media_type=way.media_type)


async def _unless_gone(request: Request, call: Coroutine[Any, Any, T]) -> T:
    """Return what a call returns; cancel it when the browser no longer waits for it.

    So a click never stands behind previews of where the cursor was.
    """
    work = asyncio.ensure_future(call)
    # The body has been read: what comes next is that the browser went away.
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
            raise RefusedError(499, "gone", "nobody waits for the answer")
        return work.result()
    finally:
        gone.cancel()


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)  # noqa: S101 - as registered
    return to_response(error)


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HQSamError)  # noqa: S101 - as registered
    return to_response(from_client(error))
