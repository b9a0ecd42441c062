"""The web service that X-AnyLabeling calls as its "Remote-Server", and the command that starts it.

X-AnyLabeling posts the whole image with every click. The image is encoded once all the same: the
client asks the server for the mask by the image's content, and sends the image only to a server
that does not have it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import os
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web
from hqsam_client import AsyncHQSam, ConnectionLostError, HQSamError, ImageError

from hqsam_x_anylabeling import shapes

MODEL_ID = "hq-sam"
MAX_BYTES = 128 * 2**20
"""Limit of a request: an image of 96 MB, in base64."""

MODEL: dict[str, Any] = {
    "display_name": "HQ-SAM",
    "widgets": [
        *(
            {"name": name, "value": None}
            for name in (
                "button_add_point",
                "button_remove_point",
                "button_add_rect",
                "button_clear",
                "button_finish_object",
            )
        ),
        # Without it, X-AnyLabeling takes away all annotations of an image when a click fails.
        {"name": "toggle_preserve_existing_annotations", "value": True},
        {"name": "mask_fineness_slider", "value": 10},
        {"name": "mask_fineness_value_label", "value": None},
    ],
    "params": {},
    # Every object needs a click: there is nothing to run on a folder.
    "batch_processing_mode": None,
}
"""What X-AnyLabeling shows of the model."""

SAM = web.AppKey("sam", AsyncHQSam)


def service(url: str, tls: bool = False) -> web.Application:
    """Return the service in front of the HQ-SAM server at `url`."""

    async def connected(app: web.Application) -> AsyncIterator[None]:
        async with AsyncHQSam(url, tls=tls, token=os.environ.get("HQSAM_TOKEN")) as app[SAM]:
            yield

    app = web.Application(client_max_size=MAX_BYTES)
    app.cleanup_ctx.append(connected)
    app.add_routes(
        [
            web.get("/health", health),
            web.get("/v1/models", models),
            web.post("/v1/predict", predict),
        ]
    )
    return app


async def health(_: web.Request) -> web.Response:
    """Say that the service runs."""
    return web.json_response({"status": "healthy", "models_loaded": 1})


async def models(_: web.Request) -> web.Response:
    """Answer with the one model."""
    return web.json_response({"success": True, "data": {MODEL_ID: MODEL}})


async def predict(request: web.Request) -> web.Response:
    """Answer with the polygons of the object that the marks are on."""
    try:
        body = await request.json()
        if body["model"] != MODEL_ID:
            raise ValueError(f"there is no model {body['model']!r}, expected {MODEL_ID!r}")
        params = body.get("params") or {}
        prompt = shapes.prompt(params.get("marks") or [])
        mask = await request.app[SAM].segment(decoded(body["image"]), *prompt)
        # Millions of pixels would block the event loop.
        fineness = float(params.get("epsilon_factor", shapes.FINENESS))
        found = await asyncio.to_thread(shapes.polygons, mask, fineness)
    except KeyError as error:
        return refusal(400, f"the request has no {error}")
    except web.HTTPRequestEntityTooLarge:
        return refusal(413, f"the image is too large, expected up to {3 * MAX_BYTES // 4} bytes")
    except (AttributeError, TypeError) as error:
        return refusal(400, f"the request is not as X-AnyLabeling sends it: {error}")
    except ValueError as error:
        return refusal(400, str(error))
    except ConnectionLostError as error:
        return refusal(503, str(error))
    except HQSamError as error:
        return refusal(502, str(error))
    answer = {"shapes": found, "description": "", "replace": False}
    return web.json_response({"success": True, "data": answer})


def decoded(data: str) -> bytes:
    """Return the image file in a data URI, or in plain base64."""
    try:
        return base64.b64decode(data.rpartition(",")[2], validate=True)
    except binascii.Error as error:
        raise ImageError(f"image is not base64: {error}") from error


def refusal(status: int, text: str) -> web.Response:
    """Return an answer that says what is wrong.

    X-AnyLabeling shows the user the reason phrase, and nothing of the body.
    """
    line = " ".join(text.split())
    error: dict[str, Any] = {"code": "INFERENCE_ERROR", "message": line}
    return web.json_response({"success": False, "error": error}, status=status, reason=line)


def main(arguments: list[str] | None = None) -> None:
    """Run the service until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8010)
    parser.add_argument("--url", default=os.environ.get("HQSAM_URL", "localhost:8001"))
    parser.add_argument("--tls", action="store_true", help="encrypt; $HQSAM_TOKEN is sent if set")
    args = parser.parse_args(arguments)
    web.run_app(service(args.url, args.tls), host=args.host, port=args.port)


if __name__ == "__main__":
    main()
