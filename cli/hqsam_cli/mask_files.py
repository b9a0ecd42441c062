"""Files of masks and overlays: their names, which may be templates, and how they are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from hqsam_client import drawing, raster
from hqsam_client.errors import OptionError
from hqsam_client.mask import MASK_ENDINGS, Mask
from hqsam_client.windows import WindowMask
from PIL import Image

from hqsam_cli.options import UsageError

_GEOJSON = ".geojson"


def is_geojson(template: str) -> bool:
    """Tell whether outlines are to be written."""
    return Path(template).suffix.lower() == _GEOJSON


def name(template: str, image: str, index: int) -> Path:
    """Return a file's name; {stem} is that of the image without its ending, {index} the mask's."""
    filled = template.replace("{stem}", Path(image).stem).replace("{index}", str(index))
    return Path(filled).expanduser()


def check_masks(flag: str, template: str | None, targets: Sequence[tuple[str, int]]) -> None:
    """Refuse names of masks, as `check_overlays` does."""
    _check(flag, template, targets, MASK_ENDINGS | {_GEOJSON}, ": masks are written without loss")


def check_overlays(flag: str, template: str | None, targets: Sequence[tuple[str, int]]) -> None:
    """Refuse names of an unknown format, and names that would be written twice.

    Args:
        flag: the option, for the message.
        template: see `name`; None if it was not given.
        targets: image and number of each file.

    Raises:
        UsageError: it cannot be used.
    """
    _check(flag, template, targets, Image.registered_extensions(), "")


def _check(
    flag: str,
    template: str | None,
    targets: Sequence[tuple[str, int]],
    endings: Collection[str],
    reason: str,
) -> None:
    if template is None:
        return
    if Path(template).suffix.lower() not in endings:
        raise UsageError(f"{flag} is {template!r}, expected an ending such as .png{reason}")
    if len({name(template, *target) for target in targets}) < len(targets):
        raise UsageError(
            f"{flag} is {template!r} for {len(targets)} files: use {{stem}} and {{index}} in it"
        )


def write(masks: Sequence[Mask], path: Path, image: Path) -> None:
    """Write a mask, or the outlines of masks, with their place on the map if the image has one.

    Args:
        masks: one, unless the file is one of outlines.
        path: of the file.
        image: that they are of.

    Raises:
        OptionError: it cannot be written.
        MissingPackageError: outlines need OpenCV.
    """
    is_map = raster.is_georeferenced(image)
    if is_geojson(path.name):
        found = raster.feature_collection(masks, image) if is_map else _in_pixels(masks)
        text = json.dumps(found) + "\n"
        save(lambda file: file.write_text(text, "utf-8"), path)
    elif is_map and path.suffix.lower() in (".tif", ".tiff"):
        save(lambda file: raster.save_mask(masks[0], file, image), path)
    else:
        save(masks[0].save, path)


def _in_pixels(masks: Sequence[Mask]) -> dict[str, Any]:
    """Return outlines in original pixels."""
    return raster.collection([(mask, mask.geojson()) for mask in masks])


def draw(template: str, image: str, masks: Sequence[Mask], *, on_windows: bool = False) -> None:
    """Write the overlay of each mask, or, without {index}, of all on one image.

    Args:
        template: see `name`.
        image: of the masks.
        masks: are drawn.
        on_windows: draw a mask of its own on its window.
    """
    if "{index}" in template:
        for index, mask in enumerate(masks):
            drawn = mask.inner if on_windows and isinstance(mask, WindowMask) else mask
            save(drawn.overlay().save, name(template, image, index))
        return
    together = drawing.together(masks)
    if together is not None:
        save(together.save, name(template, image, 0))


def save(write: Callable[[Path], object], path: Path) -> None:
    """Write a file, and make its folder.

    Raises:
        OptionError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    except OSError as error:
        raise OptionError(f"{path} cannot be written: {error.strerror or error}") from error
