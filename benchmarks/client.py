"""The client's own share of a click: everything but the server and the network.

The server's answer is synthetic, so the figures hold for any server and any model.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from hqsam_client import Mask, contract
from hqsam_client.shared import prompt_encoding
from hqsam_client.shared.modes import choice
from hqsam_client.shared.protocol import segment_flow
from hqsam_client.shared.upload import prepare
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from benchmarks import report

ONE_MEGAPIXEL = (866, 1155)
TWELVE_MEGAPIXELS = (3000, 4000)


def main() -> None:
    """Run the benchmark."""
    logits = blob()
    answer = encoded_answer(logits)
    upload = prepare(np.zeros((*ONE_MEGAPIXEL, 3), np.uint8))

    def click() -> NDArray[np.bool_]:
        prompts = prompt_encoding.build(upload.size, points=[(400, 500)])
        flow = segment_flow(upload, prompts, choice("hq"))
        next(flow).request.SerializeToString()
        try:
            flow.send(service_pb2.ModelInferResponse.FromString(answer))
        except StopIteration as stop:
            mask: Mask = stop.value[0]
            return mask.array
        raise RuntimeError("a click takes one call")

    def large() -> NDArray[np.bool_]:
        return Mask(logits, 1.0, TWELVE_MEGAPIXELS).array

    def start_python(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], check=True)

    seconds = report.in_turns({"click": click, "large": large}, rounds=50, warm_up=5)
    seconds |= report.in_turns(
        {
            "import": lambda: start_python("from hqsam_client import HQSam"),
            "python": lambda: start_python(""),
        },
        rounds=7,
    )
    figures = {name: report.summary(values) for name, values in seconds.items()}
    rows = [
        row(what, figures[name], aim)
        for name, what, aim in (
            ("click", "the client's share of a click, image of 1 megapixel", "aim: 2 ms"),
            ("large", "a mask of 12 megapixels from its logits", "aim: 150 ms"),
            ("import", "a Python process that imports the client", "aim: 1000 ms"),
            ("python", "a Python process that does nothing", "for comparison"),
        )
    ]
    report.write("client", "The client's own share", "make bench-client", rows)


def row(what: str, figure: dict[str, float], aim: str) -> dict[str, str]:
    """Return a row of the report."""
    return {
        "what": what,
        "figure": f"{figure['median_ms']:.1f} ms",
        "detail": f"fastest {figure['min_ms']:.1f} ms, p95 {figure['p95_ms']:.1f} ms; {aim}",
    }


def blob() -> NDArray[np.float32]:
    """Return the logits of a disc, float32 [256, 256]."""
    y, x = np.mgrid[:256, :256].astype(np.float32)
    disc: NDArray[np.float32] = 10 - np.hypot(x - 120, y - 90) / 6
    return disc


def encoded_answer(logits: NDArray[np.float32]) -> bytes:
    """Return the answer of `segment` to one prompt, serialized."""
    side = contract.MASK_SIZE
    response = service_pb2.ModelInferResponse(model_name=contract.SEGMENT.name)
    for name, shape, array in (
        ("low_res_masks", (1, 1, side, side), logits),
        ("iou_predictions", (1, 1), np.ones(1, np.float32)),
    ):
        response.outputs.add(name=name, datatype="FP32", shape=shape)
        response.raw_output_contents.append(array.tobytes())
    encoded: bytes = response.SerializeToString()
    return encoded


if __name__ == "__main__":
    main()
