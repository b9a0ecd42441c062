"""Reads a data set: which mask file belongs to which image, and the objects in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hqsam_client import image_files
from hqsam_client.errors import OptionError
from numpy.typing import NDArray
from PIL import Image

from hqsam_evaluation.measures import BoolMask

IMAGE_FOLDERS = ("images", "im")
"""Usual names of the folder of the images."""

MASK_FOLDERS = ("masks", "gt", "masks_max255")
"""Usual names of the folder of the masks."""

_MASK_ENDING = ".png"
# What white is, by Pillow's mode; 255 in all others.
_WHITE = {"1": 1, "I;16": 65535}
_LISTED = 3


class Pair(NamedTuple):
    """An image file and the file of its mask."""

    image: Path
    mask: Path


def find_pairs(folder: Path, images: str | None = None, masks: str | None = None) -> list[Pair]:
    """Return each image of a data set with its mask, in order of name.

    A mask has the name of its image; the endings may differ. Where both are in one folder,
    masks are the PNG files and images the others.

    Args:
        folder: the data set.
        images: name of the folder in it of the images; None to look for a usual one, and
            take `folder` itself if there is none.
        masks: name of the folder in it of the masks; None as for `images`.

    Raises:
        OptionError: there are no images, an image has no mask, a mask has no image, or two
            images or two masks have the same name.
    """
    if not folder.is_dir():
        raise OptionError(f"{folder} is not a folder, expected one of images and masks")
    image_folder = _subfolder(folder, images, IMAGE_FOLDERS)
    mask_folder = _subfolder(folder, masks, MASK_FOLDERS)
    shared = image_folder == mask_folder
    image_files, mask_files = _image_files(image_folder), _image_files(mask_folder)
    if shared:
        image_files = [path for path in image_files if path.suffix.lower() != _MASK_ENDING]
        mask_files = [path for path in mask_files if path.suffix.lower() == _MASK_ENDING]
    by_name = _by_name(image_files, "images"), _by_name(mask_files, "masks")
    if not any(by_name):
        raise OptionError(
            f"{image_folder} has no image files: name the folder of the images with --images"
        )
    _check_partners(*by_name, image_folder, mask_folder)
    return [Pair(path, by_name[1][name]) for name, path in sorted(by_name[0].items())]


def _subfolder(folder: Path, name: str | None, usual: tuple[str, ...]) -> Path:
    if name is None:
        return next((folder / it for it in usual if (folder / it).is_dir()), folder)
    if not (folder / name).is_dir():
        raise OptionError(f"{folder / name} is not a folder")
    return folder / name


def _image_files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in image_files.IMAGE_ENDINGS
    )


def _by_name(files: list[Path], kind: str) -> dict[str, Path]:
    counts = Counter(path.stem for path in files)
    if twice := [path.name for path in files if counts[path.stem] > 1]:
        raise OptionError(
            f"{files[0].parent} has {kind} of the same name: {_listed(twice)}; masks are found "
            "by the name without its ending, so rename or move one of them"
        )
    return {path.stem: path for path in files}


def _check_partners(
    images: dict[str, Path], masks: dict[str, Path], image_folder: Path, mask_folder: Path
) -> None:
    shared = image_folder == mask_folder
    for files, others, kind, other, folder in (
        (images, masks, "image", "mask", mask_folder),
        (masks, images, "mask", "image", image_folder),
    ):
        if alone := sorted(files.keys() - others.keys()):
            raise OptionError(
                f"{len(alone)} of {len(files)} {kind}s have no {other} "
                f"({_listed(files[name].name for name in alone)}): expected {other}s of the same "
                f"names in {folder}"
                + (f", where masks are {_MASK_ENDING} and images are not" if shared else "")
                + "; --images and --masks name other folders"
            )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")


def read_objects(path: Path, labels: bool) -> list[BoolMask]:
    """Return the objects of a mask file.

    Args:
        path: an image file.
        labels: each value but 0 is an object. Otherwise there is one object: what is
            brighter than half.

    Returns:
        bool [height, width] for each object, in order of value; at least one.

    Raises:
        OptionError: it cannot be read, or holds no object.
    """
    values, white = _values(path, labels)
    if labels:
        masks = [values == value for value in np.unique(values) if value]
        if not masks:
            raise OptionError(f"{path} holds no object: all its values are 0")
        return masks
    mask = values > white / 2
    if not mask.any():
        raise OptionError(
            f"{path} holds no object: its brightest value is {values.max()} of {white}, expected "
            "more than half; if each value is an object, pass --labels"
        )
    return [mask]


def _values(path: Path, labels: bool) -> tuple[NDArray[Any], int]:
    """Return a mask file's values [height, width], and what white is among them."""
    try:
        with Image.open(path) as file:
            # Upright, as its image is.
            image = image_files.upright(file)
            # A palette's indices are the labels; its colours are what is bright or not.
            plain = image.mode in ("1", "L", "P", "I", "I;16") and (labels or image.mode != "P")
            white = _WHITE.get(image.mode, 255)
            return np.asarray(image if plain else image.convert("L")), white
    except Exception as error:  # Pillow's readers raise nearly anything over damaged files
        raise OptionError(f"{path} cannot be read as a mask: {error}") from error
