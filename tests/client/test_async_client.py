"""The async client against a running server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
from hqsam_client import AsyncHQSam, HQSam, ImageError, Mask, SupersededError
from hqsam_client.server_status import read_metrics
from hqsam_server import TritonServer
from hqsam_testing.waiting import TIMEOUT_S
from numpy.typing import NDArray

from tests.client.test_client import POINTS, close


def test_sync_and_async_give_the_same_masks(sam: HQSam, url: str, photo: bytes) -> None:
    image = sam.open(photo)

    async def check() -> None:
        async with AsyncHQSam(url, timeout_s=TIMEOUT_S) as other:
            opened = await other.open(photo)
            assert opened.image_id == image.image_id
            assert close(await opened.segment(points=POINTS), image.segment(points=POINTS))
            boxes = [(20, 30, 200, 180), (100, 10, 290, 150)]
            many = await opened.segment(boxes=boxes, mode="best")
            expected = image.segment(boxes=boxes, mode="best")
            assert all(close(a, b) for a, b in zip(many, expected, strict=True))
            assert close(await other.segment(photo, points=POINTS), image.segment(points=POINTS))
            finished = await opened.segment(points=POINTS, logits=False)
            assert finished.rle() == image.segment(points=POINTS, logits=False).rle()
            assert finished.rle() == (await other.segment(photo, points=POINTS, logits=False)).rle()

    asyncio.run(check())


def test_of_64_clicks_at_once_20_superseded_each_gets_its_own_result(
    sam: HQSam, url: str, photo: bytes
) -> None:
    distinct = [(10 + 30 * i, 20 + 15 * i) for i in range(8)]
    alone = sam.open(photo).segment([[click] for click in distinct])
    clicks = distinct * 8

    async def check() -> None:
        async with AsyncHQSam(url, timeout_s=TIMEOUT_S) as other:
            image = await other.open(photo)
            calls = [
                (image.latest if i < 21 else image).segment(points=[click])
                for i, click in enumerate(clicks)
            ]
            results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, SupersededError) for result in results[:20])
        for i, mask in enumerate(results[20:], 20):
            assert isinstance(mask, Mask)
            assert close(mask, alone[i % 8])

    asyncio.run(check())


def test_a_superseded_click_that_had_not_begun_is_never_decoded(
    server: TritonServer, photo: bytes
) -> None:
    host, _, port = server.metrics_url.rpartition(":")

    def metric(name: str) -> float:
        return read_metrics(host, int(port), 10)[name]

    async def check() -> None:
        async with AsyncHQSam(server.grpc_url, timeout_s=TIMEOUT_S) as sam:
            image = await sam.open(photo)
            begun, prompts = metric("store_hits"), metric("prompts")
            boxes = [(20, 30, 200, 180)] * 8
            busy = [asyncio.ensure_future(image.segment(boxes=boxes)) for _ in range(2)]
            while await asyncio.to_thread(metric, "store_hits") < begun + 2:
                await asyncio.sleep(0.01)
            clicks = (image.latest.segment(points=[point]) for point in POINTS * 3)
            *superseded, newest = await asyncio.gather(*clicks, return_exceptions=True)
            assert all(isinstance(outcome, SupersededError) for outcome in superseded)
            assert isinstance(newest, Mask)
            await asyncio.gather(*busy)
        assert metric("prompts") == prompts + 2 * len(boxes) + 1

    asyncio.run(check())


def test_a_cancelled_task_is_cancelled_and_not_superseded(url: str, photo: bytes) -> None:
    async def check() -> None:
        async with AsyncHQSam(url, timeout_s=TIMEOUT_S) as sam:
            image = await sam.open(photo)
            task = asyncio.ensure_future(image.latest.segment(boxes=[(20, 30, 200, 180)] * 64))
            await asyncio.sleep(0)
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(outcome, asyncio.CancelledError)
            mask = await image.latest.segment(points=[(105, 90)])
            assert mask.size == (200, 300)

    asyncio.run(check())


def test_an_evicted_image_is_embedded_again_for_all_tasks(
    url: str, photo: bytes, forget: Callable[[str], None]
) -> None:
    async def check() -> None:
        async with AsyncHQSam(url, timeout_s=TIMEOUT_S) as sam:
            image = await sam.open(photo)
            forget(image.image_id)
            clicks = (image.segment(points=[point]) for point in POINTS * 2)
            masks = await asyncio.gather(*clicks)
            assert all(close(masks[i], masks[i + 4]) for i in range(4))

    asyncio.run(check())


def test_embed_tells_failures_apart(url: str, photo: bytes, array: NDArray[np.uint8]) -> None:
    async def check() -> None:
        async with AsyncHQSam(url, timeout_s=TIMEOUT_S) as sam:
            await sam.open(photo)
            known, failed, fresh = await sam.embed([photo, b"nothing", array])
            assert known.already_stored
            assert isinstance(failed.error, ImageError)
            assert fresh.error is None
            assert not fresh.already_stored

    asyncio.run(check())
