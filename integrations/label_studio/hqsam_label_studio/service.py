"""The web service that Label Studio calls, and the command that starts it.

Add its address to a project (Settings, Model; switch "interactive preannotations" on). Set
`LABEL_STUDIO_URL` and `LABEL_STUDIO_API_KEY` for images that were uploaded to Label Studio.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import urllib.parse
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, web
from async_lru import alru_cache
from hqsam_client import AsyncHQSam, AsyncRemoteImage, HQSamError, ImageError

from hqsam_label_studio.backend import MODEL_VERSION, Backend

MAX_BYTES = 64 * 2**20
DOWNLOAD_TIMEOUT_S = 30.0
KEPT_IMAGES, KEPT_S = 32, 300.0
"""How many images stay in memory for the next clicks, and how long: what is behind an address
may change."""


class Images:
    """Fetches images of tasks, and has them encoded.

    Args:
        sam: the client.
        session: for downloads.
        home: Label Studio's address, which addresses of uploads are relative to.
        key: a token of Label Studio, a legacy one or a personal one; sent to `home` only.
    """

    def __init__(self, sam: AsyncHQSam, session: ClientSession, home: str, key: str | None) -> None:
        self._sam, self._session, self._home, self._key = sam, session, home, key
        self.open = alru_cache(maxsize=KEPT_IMAGES, ttl=KEPT_S)(self._fetch_and_open)

    async def _fetch_and_open(self, address: str) -> AsyncRemoteImage:
        url = urllib.parse.urljoin(self._home, address)
        if not url.startswith(("http://", "https://")):
            raise ImageError(f"{url} cannot be fetched, expected http or https")
        try:
            async with self._session.get(url, headers=await self._headers(url)) as response:
                response.raise_for_status()
                encoded = await response.read()
        except (ClientError, asyncio.TimeoutError) as error:
            raise ImageError(
                f"{url} cannot be fetched: {error or 'no answer in time'}; check LABEL_STUDIO_URL "
                "and LABEL_STUDIO_API_KEY"
            ) from error
        return await self._sam.open(encoded)

    async def _headers(self, url: str) -> dict[str, str]:
        own = urllib.parse.urlsplit(url).netloc == urllib.parse.urlsplit(self._home).netloc
        if not self._key or not own:
            return {}
        if self._key.count(".") != 2:
            return {"Authorization": f"Token {self._key}"}
        # A personal token is exchanged for one that is valid for minutes.
        exchange = urllib.parse.urljoin(self._home, "/api/token/refresh")
        async with self._session.post(exchange, json={"refresh": self._key}) as response:
            response.raise_for_status()
            return {"Authorization": f"Bearer {(await response.json())['access']}"}


def service(url: str, tls: bool = False) -> web.Application:
    """Return the service in front of the HQ-SAM server at `url`."""
    backend = web.AppKey("backend", Backend)

    async def connected(app: web.Application) -> AsyncIterator[None]:
        home = os.environ.get("LABEL_STUDIO_URL", "http://localhost:8080")
        timeout = ClientTimeout(DOWNLOAD_TIMEOUT_S)
        async with (
            AsyncHQSam(url, tls=tls, token=os.environ.get("HQSAM_TOKEN")) as sam,
            ClientSession(timeout=timeout) as session,
        ):
            images = Images(sam, session, home, os.environ.get("LABEL_STUDIO_API_KEY"))
            app[backend] = Backend(images.open)
            yield

    async def predict(request: web.Request) -> web.Response:
        try:
            body = await request.json()
            context = (body.get("params") or {}).get("context")
            results = await request.app[backend].predict(
                body["label_config"], body["tasks"], context
            )
        except KeyError as error:
            return refusal(400, f"the request or the task has no {error}")
        except (AttributeError, TypeError) as error:
            return refusal(400, f"the request is not as Label Studio sends it: {error}")
        except ValueError as error:
            return refusal(400, str(error))
        except HQSamError as error:
            return refusal(502, str(error))
        return web.json_response({"results": results, "model_version": MODEL_VERSION})

    async def setup(_: web.Request) -> web.Response:
        return web.json_response({"model_version": MODEL_VERSION})

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "UP", "model_class": "HQSam"})

    async def webhook(_: web.Request) -> web.Response:
        return web.json_response({}, status=201)  # nothing is trained

    app = web.Application(client_max_size=MAX_BYTES)
    app.cleanup_ctx.append(connected)
    app.add_routes(
        [
            web.post("/predict", predict),
            web.post("/setup", setup),
            web.get("/health", health),
            web.get("/", health),
            web.post("/webhook", webhook),
        ]
    )
    return app


def refusal(status: int, text: str) -> web.Response:
    """Return an answer that says what is wrong.

    Label Studio shows the user the reason phrase, and nothing of the body.
    """
    line = " ".join(text.split())
    return web.json_response({"error": line}, status=status, reason=line)


def main(arguments: list[str] | None = None) -> Any:
    """Run the service until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=9090)
    parser.add_argument("--url", default=os.environ.get("HQSAM_URL", "localhost:8001"))
    parser.add_argument("--tls", action="store_true", help="encrypt; $HQSAM_TOKEN is sent if set")
    args = parser.parse_args(arguments)
    web.run_app(service(args.url, args.tls), host=args.host, port=args.port)


if __name__ == "__main__":
    main()
