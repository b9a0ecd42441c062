"""One client and two servers: ring hash in the client, without a proxy."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hqsam_client import HQSam, Mask, RemoteImage
from hqsam_client.server_status import read_metrics
from hqsam_server import TritonServer, Tuning
from hqsam_testing import image_files
from hqsam_testing.waiting import TIMEOUT_S

IMAGES = 300
THREADS = 8
CLICK = (20, 30)


@pytest.fixture
def servers(cheap_repository: Path) -> Iterator[list[TritonServer]]:
    """Two servers, each with its own store that has room for all images."""
    # Not `tmp_path`, which pytest keeps: the stores grow to 2 GB.
    with tempfile.TemporaryDirectory(prefix="hqsam-test-") as folder:
        running = [
            TritonServer(
                cheap_repository,
                tuning=Tuning(precision="fp32"),
                environment={
                    "HQSAM_STORE_FOLDER": f"{folder}/{name}",
                    "HQSAM_STORE_PRECISION": "fp16",
                    "HQSAM_STORE_BYTES": str(2 * 2**30),
                },
                log=sys.stdout,
            )
            for name in ("first", "second")
        ]
        with running[0], running[1]:
            yield running


def encodes(server: TritonServer) -> int:
    """Return how many images a server has encoded."""
    host, _, port = server.metrics_url.rpartition(":")
    return int(read_metrics(host, int(port), TIMEOUT_S)["encodes"])


@pytest.mark.long
def test_300_images_stay_on_their_server_and_move_when_it_is_killed(
    servers: list[TritonServer],
) -> None:
    photos = [image_files.png(60 + index, 50) for index in range(IMAGES)]
    url = ",".join(server.grpc_url for server in servers)
    with HQSam(url, timeout_s=TIMEOUT_S) as sam:
        assert [result.error for result in sam.embed(photos)] == [None] * IMAGES
    assert all(server.is_running() for server in servers)
    first, second = map(encodes, servers)
    assert first + second == IMAGES
    assert max(first, second) <= 1.25 * IMAGES / 2

    # A new client finds all of them.
    with HQSam(url, timeout_s=TIMEOUT_S) as sam:
        assert all(result.already_stored for result in sam.embed(photos))
        opened = [sam.open(photo) for photo in photos]
        before, after = click_while_one_dies(opened, servers[0])
    assert all(
        np.allclose(a.low_res_logits, b.low_res_logits, rtol=1e-3)
        for a, b in zip(before, after, strict=True)
    )
    # Only the images of the dead server were encoded once more.
    assert encodes(servers[1]) == second + first


def click_while_one_dies(
    opened: list[RemoteImage], server: TritonServer
) -> tuple[list[Mask], list[Mask]]:
    """Click on every image twice, from 8 threads, and kill the server during the first round."""
    amid = threading.Semaphore(0)

    def click(image: RemoteImage) -> Mask:
        mask = image.segment(points=[CLICK])
        amid.release()
        return mask

    with ThreadPoolExecutor(THREADS) as pool:
        rounds = pool.map(click, [*opened, *opened])
        for _ in range(len(opened) // 2):
            assert amid.acquire(timeout=TIMEOUT_S)
        os.kill(server.pid, signal.SIGKILL)
        masks = list(rounds)
    return masks[: len(opened)], masks[len(opened) :]
