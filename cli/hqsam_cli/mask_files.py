"""Files of masks and overlays: their names, which may be templates, and how they are written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from hqsam_client import drawing
from hqsam_client.errors import OptionError
from hqsam_client.mask import MASK_ENDINGS, Mask
from PIL import Image

from hqsam_cli.options import UsageError


def name(template: str, image: str, index: int) -> Path:
    """Return a file's name; {stem} is that of the image without its ending, {index} the mask's."""
    filled = template.replace("{stem}", Path(image).stem).replace("{index}", str(index))
    return Path(filled).expanduser()


def check_masks(flag: str, template: str | None, targets: Sequence[tuple[str, int]]) -> None:
    """Refuse names of masks, as `check_overlays` does."""
    _check(flag, template, targets, MASK_ENDINGS, ": masks are written without loss")


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


def draw(template: str, image: str, masks: Sequence[Mask]) -> None:
    """Write the overlay of each mask, or, without {index}, of all on one image."""
    if "{index}" in template:
        for index, mask in enumerate(masks):
            save(mask.overlay().save, name(template, image, index))
        return
    drawn = drawing.together(masks)
    if drawn is not None:
        save(drawn.save, name(template, image, 0))


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
