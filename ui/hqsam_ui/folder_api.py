"""The calls of the page's script for a folder of images."""

from __future__ import annotations

import asyncio
import json

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hqsam_ui import wire
from hqsam_ui.decoding import ImageFiles
from hqsam_ui.errors import PageError
from hqsam_ui.folder import Folder

MAX_WORK_BYTES = 64 * 2**20
"""Size of the work on one image."""


def folder_routes(folder: Folder, files: ImageFiles) -> list[Route]:
    """Return the routes of a folder.

    Args:
        folder: the folder.
        files: reads its images.
    """
    calls = _FolderApi(folder, files)
    return [
        Route("/api/folder", calls.images),
        Route("/api/folder/image/{name:path}", calls.image),
        Route("/api/folder/thumbnail/{name:path}", calls.thumbnail),
        Route("/api/folder/work/{name:path}", calls.load, methods=["GET"]),
        Route("/api/folder/work/{name:path}", calls.save, methods=["PUT"]),
    ]


class _FolderApi:
    def __init__(self, folder: Folder, files: ImageFiles) -> None:
        self._folder = folder
        self._files = files

    async def images(self, request: Request) -> Response:
        """List the images."""
        return JSONResponse({"images": await asyncio.to_thread(self._folder.images)})

    async def image(self, request: Request) -> Response:
        """Answer with an image file."""
        content = await asyncio.to_thread(self._folder.read, request.path_params["name"])
        return Response(content, media_type="application/octet-stream")

    async def thumbnail(self, request: Request) -> Response:
        """Answer with a small picture of an image."""
        content = await asyncio.to_thread(self._folder.read, request.path_params["name"])
        picture = await self._files.picture("thumbnail", content)
        headers = {"cache-control": "private, max-age=600"}
        return Response(picture, media_type="image/jpeg", headers=headers)

    async def load(self, request: Request) -> Response:
        """Answer with the work on an image, or null; its revision is the ETag."""
        content, revision = await asyncio.to_thread(self._folder.load, request.path_params["name"])
        return Response(content, media_type="application/json", headers={"etag": f'"{revision}"'})

    async def save(self, request: Request) -> Response:
        """Replace the work on an image, if its revision is still the one in If-Match."""
        content = await wire.body(request, MAX_WORK_BYTES)
        try:
            json.loads(content)
        except (ValueError, RecursionError) as error:
            raise PageError(400, "request", "the work is not JSON: reload the page") from error
        revision = request.headers.get("if-match", "").strip('"')
        name = request.path_params["name"]
        saved = await asyncio.to_thread(self._folder.save, name, content, revision)
        return JSONResponse({"revision": saved})
