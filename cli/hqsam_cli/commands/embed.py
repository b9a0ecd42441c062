"""`hqsam embed`: have images encoded ahead of time."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hqsam_client.errors import OptionError
from hqsam_client.shared.base import EmbedResult

from hqsam_cli import options

_ENDINGS = frozenset(
    [
        ".avif",
        ".bmp",
        ".gif",
        ".jp2",
        ".jpeg",
        ".jpg",
        ".mpo",
        ".pbm",
        ".pgm",
        ".png",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    ]
)

_EPILOG = """\
Run it again after an interruption or a failure: the server is asked before anything is
sent. Folders are searched for image files, their subfolders included. The exit status
is 1 if any image failed. With tqdm (pip install 'hqsam-triton[progress]') there is a
progress bar.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hqsam embed`."""
    parser.epilog = _EPILOG
    parser.add_argument("paths", nargs="+", type=Path, metavar="FOLDER", help="folders or files")
    parser.add_argument(
        "--concurrency",
        type=int,
        default=4,
        metavar="N",
        help="images that are under way at once (default: %(default)s)",
    )
    parser.add_argument(
        "--upload",
        choices=("original", "resized"),
        default="original",
        help="resized: shrink large images before they are sent; they are then known to "
        "clients that do the same (default: %(default)s)",
    )
    options.add_server_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Embed the images and print what became of them; returns 1 if any failed."""
    images = _images(args.paths)
    with options.connect(args) as sam, _progress(len(images)) as report:
        results = sam.embed(
            images, upload=args.upload, concurrency=args.concurrency, progress=report
        )
    failed = 0
    for path, result in zip(images, results, strict=True):
        if result.error is not None:
            failed += 1
            print(f"hqsam embed: {path}: {result.error}", file=sys.stderr)
    known = sum(result.already_stored for result in results)
    print(
        f"{len(results)} images: {len(results) - known - failed} encoded, "
        f"{known} known before, {failed} failed"
    )
    return 1 if failed else 0


def _images(paths: list[Path]) -> list[Path]:
    """Return the files among `paths`, and the image files in the folders, in order."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in _ENDINGS)
        else:
            found.append(path)
    if not found:
        raise OptionError(f"no images in {', '.join(map(str, paths))}; check the path")
    return found


@contextmanager
def _progress(total: int) -> Iterator[Callable[[EmbedResult], object] | None]:
    """Show a progress bar where tqdm is installed and somebody watches."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield None
        return
    with tqdm(total=total, unit="image", disable=None) as bar:
        yield lambda _: bar.update()
