"""A web service: send an image and a click, get the mask as a PNG file.

    curl --data-binary @photo.jpg 'localhost:8080/mask?point=420,310' --output mask.png

The service stores nothing. The client asks for the mask by the image's `image_id`, and sends
the image only to a server that does not have it.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from hqsam_client import (
    AsyncHQSam,
    ConnectionLostError,
    HQSamError,
    ImageError,
    InvalidRequestError,
    Mask,
    PromptError,
    TooLargeError,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

MAX_BYTES = 64 * 2**20


def service(url: str) -> Starlette:
    """Return the service in front of the HQ-SAM server at `url`."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncHQSam(url) as app.state.sam:
            yield

    return Starlette(routes=[Route("/mask", mask, methods=["POST"])], lifespan=lifespan)


async def mask(request: Request) -> Response:
    """Answer `POST /mask?point=X,Y&background=X,Y&box=X0,Y0,X1,Y1`."""
    query = request.query_params
    try:
        if int(request.headers.get("content-length", MAX_BYTES + 1)) > MAX_BYTES:
            return JSONResponse({"error": f"expected up to {MAX_BYTES} bytes"}, 413)
        inside = [numbers(text) for text in query.getlist("point")]
        beside = [numbers(text) for text in query.getlist("background")]
        found = await request.app.state.sam.segment(
            await request.body(),
            points=inside + beside or None,
            labels=[1] * len(inside) + [0] * len(beside) or None,
            box=numbers(query["box"]) if "box" in query else None,
        )
    except (ValueError, ImageError, PromptError, InvalidRequestError, TooLargeError) as error:
        return JSONResponse({"error": str(error)}, 400)
    except ConnectionLostError as error:
        return JSONResponse({"error": str(error)}, 503)
    except HQSamError as error:
        return JSONResponse({"error": str(error)}, 502)
    # Encoding millions of pixels would block the event loop.
    return Response(await asyncio.to_thread(png, found), media_type="image/png")


def numbers(text: str) -> tuple[float, ...]:
    """Parse comma-separated numbers."""
    return tuple(float(part) for part in text.split(","))


def png(mask: Mask) -> bytes:
    """Return the mask as a PNG file: the object is white, the rest black."""
    buffer = io.BytesIO()
    mask.image().save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one")
    parser.add_argument("--url", default=os.environ.get("HQSAM_URL", "localhost:8001"))
    args = parser.parse_args()
    uvicorn.run(service(args.url), port=args.port)
