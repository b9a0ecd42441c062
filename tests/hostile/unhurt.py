"""What has to hold after hostile input: ready, the same processes, masks and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
import pytest
from hqsam_server import TritonServer
from hqsam_server.launcher.process import instances
from hqsam_testing import image_files
from hqsam_testing.api import Api, new_png, point
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

MEMORY_GROWTH_BYTES = 300 * 2**20
"""How much more memory the processes may hold than before. Allocators keep what one image of
the largest size needed, in each process that decodes. A leak exceeds it after hundreds of
requests."""

_IMAGE = image_files.png(300, 200)


def processes(server: TritonServer) -> list[psutil.Process]:
    """Return `tritonserver`, all of its children, and the front."""
    triton = psutil.Process(server.pid)
    front = map(psutil.Process, server.front_pids.values())
    return [triton, *triton.children(recursive=True), *front]


def memory_bytes(server: TritonServer) -> int:
    """Return the memory of a server's processes; shared memory counts once."""
    return sum(process.memory_full_info().pss for process in processes(server))


def _warm(api: Api) -> None:
    """Run every model once: the memory that each takes at first is not a leak."""
    inputs = {
        **point(),
        "encoded_image": np.frombuffer(_IMAGE, np.uint8),
        "mask_input": np.zeros((1, 1, 256, 256), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
    }
    api.infer("hq_sam", inputs)
    click(api)
    image_id, _, _ = api.embed(_IMAGE)
    # Each worker has a process that decodes; a caller alone gets half of them.
    with ThreadPoolExecutor(8) as pool:
        callers = [f"10.0.0.{number}" for number in range(8)]
        list(pool.map(lambda caller: api.embed(new_png(), caller=caller), callers))

    def click_with(points: int) -> None:
        """Click with this many points, and as much padding."""
        inputs = {name: np.repeat(it, points, axis=1) for name, it in point().items()}
        api.segment(image_id, inputs, outputs=["low_res_masks"])

    # `segment` has graphs for the usual numbers of points, also for many clicks at once, and keeps
    # those of the last three kinds of other requests.
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(click_with, [1, 2, 4] * 8))
    for points in (9, 17, 33):
        click_with(points)
    click(api)


def click(api: Api) -> dict[str, NDArray[Any]]:
    """Return all outputs of an ordinary click on an ordinary image."""
    image_id, _, _ = api.embed(_IMAGE)
    return api.segment(image_id)


@contextmanager
def unhurt(server: TritonServer, api: Api) -> Iterator[None]:
    """Assert that the block does not hurt the server."""
    _warm(api)
    expected = click(api)
    before = (instances(server.pid), server.front_pids)
    memory = memory_bytes(server)
    yield
    assert api.client.is_server_ready(client_timeout=60)
    found = click(api)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert np.array_equal(found[name], array), name
    assert (instances(server.pid), server.front_pids) == before
    grown = memory_bytes(server) - memory
    assert grown <= MEMORY_GROWTH_BYTES, f"{grown / 2**20:.0f} MiB more than before"


def refusal(call: Callable[[], Any]) -> tuple[str, str]:
    """Return code and message of the error that a call ends with."""
    with pytest.raises(InferenceServerException) as caught:
        call()
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()
