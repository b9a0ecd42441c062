"""Starts a server, segments a photograph with clicks and a box, and draws the masks.

The server has the small model, or the checkpoint that `HQSAM_CHECKPOINT` names.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hqsam_client import HQSam, HQSamError, Mask
from hqsam_server import TritonServer

from demo.drawing import Box, Point, with_prompts

HERE = Path(__file__).parent
OUTPUT = HERE / "output"
PHOTOGRAPH = HERE / "coins.png"

# Pixels of the photograph.
COIN = (335, 44)
OTHER = (277, 53)
BESIDE = (310, 45)
BOX = (242, 92, 297, 145)


def main() -> int:
    """Run the demonstration and return the exit status."""
    try:
        _run()
    except HQSamError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def _run() -> None:
    checkpoint = os.environ.get("HQSAM_CHECKPOINT")
    repository = _exported(Path(checkpoint)) if checkpoint else None
    OUTPUT.mkdir(exist_ok=True)
    with _step(f"start a server with {checkpoint or 'the small model'}"):
        server = TritonServer(repository).start()
    with server, HQSam(server.grpc_url) as sam:
        with _step(f"open {PHOTOGRAPH.name}: send it, encode it"):
            image = sam.open(PHOTOGRAPH)
        with _step("a click on a coin"):
            mask = image.segment(points=[COIN])
        _draw("click.png", mask, points=[COIN])
        with _step("a click on its neighbour"):
            mask = image.segment(points=[OTHER])
        _draw("other.png", mask, points=[OTHER])
        with _step("a negative click that corrects this mask"):
            mask = image.segment(points=[OTHER, BESIDE], labels=[1, 0], refine=mask)
        _draw("negative.png", mask, points=[OTHER], negative=[BESIDE])
        with _step("a box around a third coin"):
            mask = image.segment(box=BOX)
        _draw("box.png", mask, box=BOX)
        with _step("open the same file again: the server has its embedding"):
            sam.open(PHOTOGRAPH)
    if not checkpoint:
        bin_folder = os.path.relpath(Path(sys.executable).parent)
        print(
            "\nThis was the small model, which is for demonstrations and tests. For photographs, "
            "use ViT-B; its weights are 379 MB:\n"
            f"  {bin_folder}/pip install --editable '.[server,export]'\n"
            f'  {bin_folder}/hqsam export --checkpoint "$({bin_folder}/hqsam fetch)" '
            "--output model_repository\n"
            f"  {bin_folder}/hqsam serve --model-repository model_repository\n"
            "or run this demonstration with them: HQSAM_CHECKPOINT=sam_hq_vit_b.pth make demo"
        )


def _draw(
    name: str,
    mask: Mask,
    points: list[Point] | None = None,
    negative: list[Point] | None = None,
    box: Box | None = None,
) -> None:
    """Write the mask, and the image with the mask and its prompts."""
    mask.save(OUTPUT / f"mask-{name}")
    drawn = with_prompts(
        mask.overlay(), points or (), negative or (), () if box is None else (box,)
    )
    drawn.save(OUTPUT / name)
    print(f"    {os.path.relpath(OUTPUT / name)}: {mask.area} pixels, box {mask.box}")


def _exported(checkpoint: Path) -> Path:
    """Return the model repository of the checkpoint; export it unless that was done before."""
    folder = OUTPUT / checkpoint.stem
    if (folder / "manifest.json").exists():
        print(f"using the model repository in {os.path.relpath(folder)}")
        return folder
    # PyTorch takes seconds to import and is needed only here.
    from hqsam_export import checkpoint as checkpoints
    from hqsam_export import exporter

    with _step("convert the checkpoint to ONNX, and compare it with PyTorch"):
        exporter.export(checkpoints.load_model(checkpoint), folder)
    return folder


@contextmanager
def _step(what: str) -> Iterator[None]:
    print(f"{what} ...", end=" ", flush=True)
    start = time.perf_counter()
    yield
    print(f"{time.perf_counter() - start:.2f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
