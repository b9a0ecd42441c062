"""A client in another language, written from `docs/protocol.md` alone, loses no click.

It is plain grpc.aio: no retries but those that the page asks for.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from hqsam_testing.api import new_png
from hqsam_testing.envoy import Envoy
from hqsam_testing.replicas import Replica
from hqsam_testing.waiting import TIMEOUT_S
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

CLIENTS = 8
CLICKS = 400
"""Least number of clicks of all clients together."""

PAUSES_S = (0.2, 0.4, 0.8, 1.6)
REPEATED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED)

# Without these, gRPC would repeat some calls by itself.
OPTIONS = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]


class PlainClient:
    """Clicks on one image, again and again."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        self._file = new_png()
        self._image_id = hashlib.sha256(self._file).hexdigest()
        self.embeds = 0

    async def click(self) -> NDArray[np.float32]:
        """Return the logits of a click, [256, 256]."""
        for _ in range(3):
            try:
                response = await self._repeated(self._segment())
                break
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.NOT_FOUND:
                    raise
                await self._repeated(self._embed(), also=(grpc.StatusCode.NOT_FOUND,))
                self.embeds += 1
        else:
            response = await self._repeated(self._segment())
        (raw,) = response.raw_output_contents
        return np.frombuffer(raw, "<f4").reshape(256, 256)

    async def _repeated(
        self, request: service_pb2.ModelInferRequest, also: tuple[grpc.StatusCode, ...] = ()
    ) -> service_pb2.ModelInferResponse:
        for pause_s in (*PAUSES_S, None):
            try:
                return await self._stub.ModelInfer(
                    request, metadata=(("x-image-id", self._image_id),), timeout=TIMEOUT_S
                )
            except grpc.aio.AioRpcError as error:
                if pause_s is None or error.code() not in (*REPEATED, *also):
                    raise
                await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311
        raise AssertionError

    def _segment(self) -> service_pb2.ModelInferRequest:
        request = service_pb2.ModelInferRequest(model_name="segment")
        name = self._image_id.encode()
        request.inputs.add(name="image_id", datatype="BYTES", shape=[1])
        request.raw_input_contents.append(len(name).to_bytes(4, "little") + name)
        request.inputs.add(name="point_coords", datatype="FP32", shape=[1, 2, 2])
        request.raw_input_contents.append(np.array([[500, 300], [0, 0]], "<f4").tobytes())
        request.inputs.add(name="point_labels", datatype="FP32", shape=[1, 2])
        request.raw_input_contents.append(np.array([1, -1], "<f4").tobytes())
        request.outputs.add(name="low_res_masks")
        return request

    def _embed(self) -> service_pb2.ModelInferRequest:
        request = service_pb2.ModelInferRequest(model_name="embed")
        request.inputs.add(name="encoded_image", datatype="UINT8", shape=[len(self._file)])
        request.raw_input_contents.append(self._file)
        return request


@pytest.mark.slow
def test_it_loses_no_click_while_replicas_go_and_come_back(
    envoy: Envoy, replicas: list[Replica]
) -> None:
    async def main() -> None:
        clicks = 0
        over = asyncio.Event()

        async def work(client: PlainClient) -> None:
            nonlocal clicks
            right = await client.click()
            while not over.is_set():
                np.testing.assert_allclose(await client.click(), right, rtol=1e-3)
                clicks += 1

        async with grpc.aio.insecure_channel(envoy.url, options=OPTIONS) as channel:
            clients = [PlainClient(channel) for _ in range(CLIENTS)]
            working = [asyncio.create_task(work(client)) for client in clients]

            async def until(wanted: int) -> None:
                while clicks < wanted and not any(it.done() for it in working):
                    await asyncio.sleep(0.05)

            try:
                await until(CLICKS // 8)
                # Lost without a warning, and back with an empty store.
                await asyncio.to_thread(replicas[0].kill)
                await until(clicks + CLICKS // 4)
                await asyncio.to_thread(replicas[0].start)
                await until(clicks + CLICKS // 4)
                # A process dies, and is started again.
                await asyncio.to_thread(replicas[1].kill_process, "segment_0_0")
                await until(clicks + CLICKS // 8)
                # Told to end, as for an upgrade.
                await asyncio.to_thread(replicas[1].terminate)
                await until(clicks + CLICKS // 8)
                await asyncio.to_thread(replicas[1].start)
                await until(clicks + CLICKS // 8)
            finally:
                over.set()
                await asyncio.gather(*working)
        assert clicks >= CLICKS
        # Images moved with the replicas.
        assert sum(client.embeds for client in clients) > CLIENTS

    # A browser of earlier tests may leave an event loop in this thread.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, main()).result()
