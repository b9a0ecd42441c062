"""Everything in an image against the same prompts as clicks, and what a click notices of it.

The small model serves: its decoder does the arithmetic of ViT-B's, and its masks are those of
objects, while those of rebuilt weights are mostly edges.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import psutil
from hqsam_client import EverythingOptions, HQSam
from hqsam_client.shared.mask_search import grid
from hqsam_server import TritonServer
from hqsam_testing.coins import COINS
from hqsam_testing.processes import memory_bytes
from PIL import Image

from benchmarks import report

SIZE = (1155, 866)
"""Of the image, (width, height): one megapixel."""

OPTIONS = EverythingOptions(pred_iou_thresh=0.7)
"""The small model predicts low scores. With these, a part of the masks is finished, as with ViT-B
and the defaults."""

PROMPTS_IN_A_REQUEST = 64


def main() -> None:
    """Run the benchmark."""
    photograph = np.asarray(Image.open(COINS).convert("RGB").resize(SIZE))
    with ExitStack() as stack:
        server = stack.enter_context(TritonServer())
        one, other = (
            stack.enter_context(HQSam(server.grpc_url, timeout_s=600.0)) for _ in range(2)
        )
        image, clicked = one.open(photograph), other.open(photograph)
        before = memory_bytes(server.pid)
        counted = sent_bytes()
        found = image.everything(OPTIONS)
        wire_mb = (sent_bytes() - counted) / 1e6
        grown_mb = (memory_bytes(server.pid) - before) / 1e6

        def everything() -> None:
            image.everything(OPTIONS)

        def prompts() -> None:
            points = grid(OPTIONS.points_per_side or 0) * image.size[::-1]
            for start in range(0, len(points), PROMPTS_IN_A_REQUEST):
                part = points[start : start + PROMPTS_IN_A_REQUEST]
                image.segment(part[:, None], mode="best")

        def click() -> None:
            _ = clicked.segment(points=[(400, 500)]).array

        seconds = report.in_turns({"everything": everything, "prompts": prompts}, rounds=3)
        idle = report.in_turns({"click": click}, rounds=40, warm_up=5)["click"]
        with meanwhile(everything):
            beside = report.in_turns({"click": click}, rounds=40, warm_up=5)["click"]
    figures = {name: report.summary(values) for name, values in seconds.items()}
    alone, with_search = report.summary(idle), report.summary(beside)
    share = figures["everything"]["median_ms"] / figures["prompts"]["median_ms"]
    slower = with_search["median_ms"] / alone["median_ms"]
    rows = [
        {
            "what": "everything: 1,024 prompts, image of 1 megapixel",
            "figure": f"{figures['everything']['median_ms'] / 1e3:.1f} s",
            "detail": f"{share:.2f} of the time of as many prompts of mode best in requests of "
            f"{PROMPTS_IN_A_REQUEST} (aim: 0.85); {len(found)} masks found",
        },
        {
            "what": "bytes on the wire",
            "figure": f"{wire_mb:.2f} MB",
            "detail": "both ways, over loopback; aim: less than 2 MB",
        },
        {
            "what": "memory that the server needs besides",
            "figure": f"{grown_mb:.0f} MB",
            "detail": "kept after the first search; aim: less than 500 MB",
        },
        {
            "what": "a click of another client meanwhile",
            "figure": f"{with_search['median_ms']:.1f} ms",
            "detail": f"{slower:.2f} times the idle median of {alone['median_ms']:.1f} ms "
            f"(aim: 1.5); p95 {with_search['p95_ms']:.1f} ms",
        },
    ]
    report.write("everything", "Everything in an image", "make bench-everything", rows)


@contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """Do something again and again, in a thread, during the block."""
    over = threading.Event()

    def repeat() -> None:
        while not over.is_set():
            work()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def sent_bytes() -> int:
    """Return what this machine has sent over loopback."""
    return int(psutil.net_io_counters(pernic=True)["lo"].bytes_sent)


if __name__ == "__main__":
    main()
