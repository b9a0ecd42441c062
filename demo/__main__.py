"""Starts Triton, segments a photograph, and leaves `mask.png` and `overlay.png`.

With `HQSAM_CHECKPOINT` set, it converts and uses that checkpoint. Otherwise it uses
rebuilt weights: full size and full speed, but random, so the mask means nothing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hqsam_client import HQSam, HQSamError
from hqsam_server import TritonServer

HERE = Path(__file__).parent
OUTPUT = HERE / "output"
POINT = (290, 150)  # the coffee, in pixels of coffee.jpg


def main() -> int:
    """Run the demonstration and return the exit status."""
    try:
        _run()
    except HQSamError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def _run() -> None:
    repository = _repository(os.environ.get("HQSAM_CHECKPOINT"))
    with _step("start Triton"):
        server = TritonServer(repository).start()
    with server, HQSam(server.grpc_url) as sam:
        with _step("open coffee.jpg (send it, encode it)"):
            picture = sam.open(HERE / "coffee.jpg")
        with _step(f"first click, on {POINT[0]},{POINT[1]}"):
            mask = picture.segment(points=[POINT])
        with _step("second click, elsewhere"):
            picture.segment(points=[(POINT[0] + 100, POINT[1] + 100)])
    mask.save(OUTPUT / "mask.png")
    mask.overlay().save(OUTPUT / "overlay.png")
    print(f"\nThe mask covers {mask.area} of {mask.array.size} pixels. Look at")
    for name in ("mask.png", "overlay.png"):
        print(f"  {os.path.relpath(OUTPUT / name)}")


def _repository(checkpoint: str | None) -> Path:
    """Return a model repository for the checkpoint, exporting it where that was not done yet."""
    name = Path(checkpoint).stem if checkpoint else "rebuilt-weights"
    folder = OUTPUT / name
    if not checkpoint:
        print(
            "HQSAM_CHECKPOINT is not set: these are rebuilt weights, of full size and speed\n"
            "but random, so the mask will mean nothing. For masks that do:\n"
            "  HQSAM_CHECKPOINT=/path/to/sam_hq_vit_b.pth make demo\n"
        )
    if (folder / "manifest.json").exists():
        print(f"using the model repository in {os.path.relpath(folder)}")
        return folder
    # PyTorch takes seconds to import and is needed only here.
    from hqsam_export import checkpoint as checkpoints
    from hqsam_export import exporter

    with _step("convert the checkpoint to ONNX, and compare with PyTorch"):
        if checkpoint:
            model = checkpoints.load_model(Path(checkpoint))
        else:
            from tests import rebuilt

            model = checkpoints.build_model(rebuilt.state_dict())
        exporter.export(model, folder)
    return folder


@contextmanager
def _step(what: str) -> Iterator[None]:
    print(f"{what} ...", end=" ", flush=True)
    start = time.perf_counter()
    yield
    print(f"{time.perf_counter() - start:.2f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
