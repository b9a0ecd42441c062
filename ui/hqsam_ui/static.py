"""The page's files: HTML, style sheets, scripts, images."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from importlib import resources
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from importlib.abc import Traversable

_MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}


def routes() -> list[Route]:
    """Return a route for each file of the page. Files are read once; requests name no paths."""
    found = []
    for path, entry in _files(resources.files("hqsam_ui") / "page", PurePosixPath("/")):
        media_type = _MEDIA_TYPES.get(path.suffix)
        if media_type is not None:
            address = "/" if path.name == "index.html" else str(path)
            found.append(Route(address, _file(entry.read_bytes(), media_type)))
    return found


def _files(folder: Traversable, path: PurePosixPath) -> Iterator[tuple[PurePosixPath, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry, path / entry.name)
        else:
            yield path / entry.name, entry


def _file(content: bytes, media_type: str) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def answer(request: Request) -> Response:
        return Response(content, media_type=media_type, headers={"cache-control": "no-cache"})

    return answer
