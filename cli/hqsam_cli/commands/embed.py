"""`hqsam embed`: encode images ahead of time."""

from __future__ import annotations

import argparse
from pathlib import Path

from hqsam_client.client import HQSam
from hqsam_client.errors import HQSamError, OptionError
from hqsam_client.image_files import IMAGE_ENDINGS
from hqsam_client.windows import Windows

from hqsam_cli import options

_EPILOG = """\
Folders are searched for image files, subfolders too. Images that the server already has are
not sent again, so after an interruption or a failure run the same command again. The exit
status is 1 if any image failed. With tqdm (pip install 'hqsam-triton[progress]') a progress
bar is shown.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hqsam embed`."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "paths", nargs="+", type=options.path, metavar="PATH", help="folders or image files"
    )
    parser.add_argument(
        "--concurrency",
        type=options.positive,
        default=4,
        metavar="N",
        help="images under way at once (default: %(default)s)",
    )
    parser.add_argument(
        "--upload",
        choices=("original", "resized"),
        default="original",
        help="resized: shrink large images before sending them; only clients that do the same "
        "then find them (default: %(default)s)",
    )
    options.add_windows(parser)
    options.add_image_arguments(parser)
    options.add_server_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Embed the images and print how many were encoded, known and failed."""
    images = _images(args.paths)
    windows = options.windows(args)
    if windows is not None:
        return _embed_windows(images, windows, args)
    with (
        HQSam(args.url, **options.client_options(args)) as sam,
        options.progress("image") as show,
    ):
        results = sam.embed(
            images,
            upload=args.upload,
            value_range=args.value_range,
            concurrency=args.concurrency,
            progress=options.each(show, len(images)),
        )
    failed = 0
    for path, result in zip(images, results, strict=True):
        if result.error is not None:
            failed += 1
            options.print_failure("embed", path, result.error)
    known = sum(result.already_stored for result in results)
    print(
        f"{len(results)} images: {len(results) - known - failed} encoded, "
        f"{known} already stored, {failed} failed"
    )
    return 1 if failed else 0


def _embed_windows(images: list[Path], windows: Windows, args: argparse.Namespace) -> int:
    failed = 0
    with HQSam(args.url, **options.client_options(args)) as sam:
        for path in images:
            try:
                image = sam.open(path, value_range=args.value_range, windows=windows)
                with options.progress("window") as bar:
                    new = image.embed(concurrency=args.concurrency, progress=bar)
            except HQSamError as error:
                failed += 1
                options.print_failure("embed", path, error)
            else:
                known = len(image.windows) - new
                print(f"{path}: {new} windows encoded, {known} already stored", flush=True)
    return 1 if failed else 0


def _images(paths: list[Path]) -> list[Path]:
    """Return the files among `paths`, and the image files in the folders, in order."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS)
        else:
            found.append(path)
    if not found:
        raise OptionError(
            f"no images in {', '.join(map(str, paths))}: expected files such as .jpg or .png"
        )
    return found
