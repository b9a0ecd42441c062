"""TIFF files that are read in parts, and masks with the place on the map of their image.

Needs rasterio: ``pip install 'hqsam-triton[raster]'``. It reads GeoTIFF and BigTIFF of any number
of pixels; only the tiles or strips of a window are decoded.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import threading
import warnings
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from hqsam_client import image_files
from hqsam_client.errors import ImageError, MissingPackageError, OptionError
from hqsam_client.image_files import ValueRange
from hqsam_client.mask import Mask
from hqsam_client.shared import depth
from hqsam_client.windows import Window

_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_BLOCK_BYTES = 256 * 2**20
"""Size of a tile or strip, at most: it is decoded as a whole, into GDAL's cache."""

_SAMPLED_PIXELS = 1 << 22
"""Pixels that are looked at, at least, for the range of an image of more."""

_DEEP = frozenset(
    map(np.dtype, ("int8", "uint16", "int16", "uint32", "int32", "float32", "float64"))
)
"""Types of values that a range maps."""

_MOST_PIXELS = 1 << 28
"""Pixels of an image that is read as a whole, at most."""


def is_tiff(path: str | PathLike[str]) -> bool:
    """Tell whether a file is a TIFF file; not if it cannot be read."""
    try:
        with Path(path).expanduser().open("rb") as file:
            return file.read(4) in _SIGNATURES
    # Without a home folder, `expanduser` raises RuntimeError.
    except (OSError, RuntimeError, ValueError):
        return False


def is_installed() -> bool:
    """Tell whether rasterio is installed."""
    return importlib.util.find_spec("rasterio") is not None


class RasterSource:
    """A TIFF file of grey, palette or RGB, which is read in parts.

    Its first three bands are taken, or those that the file calls red, green and blue; or a single
    band. Transparency is dropped. Values of more than 8 bits need a range, which is that of the
    whole image for each part.

    Attributes:
        size: (height, width) in original pixels.
    """

    def __init__(self, path: str | PathLike[str], value_range: ValueRange | None = None) -> None:
        """Open the file, and read its header.

        Args:
            path: of the file.
            value_range: which values become 0 and 255, unless they are of 8 bits. Percentiles are
                those of a regular sample of the pixels, 4 million at least where there are more.

        Raises:
            ImageError: it cannot be read, or not in parts; or the model would see black.
            OptionError: `value_range` is not a range.
            MissingPackageError: rasterio is not installed.
        """
        self._path = Path(path).expanduser()
        self._lock = threading.Lock()
        self._dataset = _open(path)
        self.size: tuple[int, int] = (self._dataset.height, self._dataset.width)
        self._bands, self._palette = self._colours()
        self._check(value_range)
        # Values that become 0 and 255; None for 8 bits.
        self._limits: tuple[float, float] | None = None
        if value_range is not None and self._dataset.dtypes[self._bands[0] - 1] != "uint8":
            self._limits = depth.limits(self._sample(), value_range)

    def part(self, window: Window) -> Image.Image:
        """Return the pixels of a window, in mode RGB.

        Raises:
            ImageError: they cannot be read.
        """
        x0, y0, x1, y1 = window
        part = _rasterio().windows.Window(x0, y0, x1 - x0, y1 - y0)
        values = self._read(window, window=part)
        if self._palette is not None:
            return Image.fromarray(self._palette[values[0]])
        values = values.transpose(1, 2, 0)
        if self._limits is not None:
            values = image_files.mapped(values, *self._limits)
        rgb = np.broadcast_to(values, (*values.shape[:2], 3))
        return Image.fromarray(np.ascontiguousarray(rgb))

    def full_image(self) -> Image.Image:
        """Return all pixels, in mode RGB.

        Raises:
            ImageError: they are too many, or cannot be read.
        """
        height, width = self.size
        if height * width > _MOST_PIXELS:
            raise ImageError(
                f"the image has {width} x {height} pixels, too many to read as a whole: draw "
                "each mask on its window: mask.inner.overlay(), or {index} in --overlay"
            )
        return self.part((0, 0, width, height))

    def _read(self, where: object, **options: Any) -> NDArray[Any]:
        """Return values of the bands, [bands, height, width]; `where` is for the message."""
        try:
            with self._lock:  # GDAL's files are for one thread at a time
                values: NDArray[Any] = self._dataset.read(self._bands, **options)
        except _rasterio().errors.RasterioError as error:
            raise _unreadable(self._path, f"at {where}", error) from error
        return values

    def _sample(self) -> NDArray[Any]:
        """Return values of the whole image, or of a regular grid over it, [height, width, bands].

        Pixels that the file calls empty are not numbers.
        """
        height, width = self.size
        step = max(1, math.isqrt(height * width // _SAMPLED_PIXELS))
        shape = (len(self._bands), math.ceil(height / step), math.ceil(width / step))
        values: Any = self._read("a grid of pixels", out_shape=shape, masked=True)
        if values.mask.any():
            values = values.astype(np.float64).filled(np.nan)
        return np.asarray(values).transpose(1, 2, 0)

    def _colours(self) -> tuple[list[int], NDArray[np.uint8] | None]:
        """Return the numbers of the bands to read, and the palette: uint8 [256, 3] or None."""
        colours_of = _rasterio().enums.ColorInterp
        meanings = list(self._dataset.colorinterp)
        if meanings[0] == colours_of.palette:
            colours = self._dataset.colormap(1)
            return [1], np.array([colours.get(i, (0, 0, 0))[:3] for i in range(256)], np.uint8)
        rgb = (colours_of.red, colours_of.green, colours_of.blue)
        if all(meaning in meanings for meaning in rgb):
            return [meanings.index(meaning) + 1 for meaning in rgb], None
        if not set(meanings) <= {*rgb, colours_of.gray, colours_of.undefined, colours_of.alpha}:
            names = ", ".join(meaning.name for meaning in meanings)
            raise ImageError(f"{self._path} has the bands {names}: convert it to RGB")
        return ([1, 2, 3] if len(meanings) > 2 else [1]), None

    def _check(self, value_range: ValueRange | None) -> None:
        """Refuse what is not read as it should be, or not in parts."""
        dataset, bands = self._dataset, self._bands
        bits = dataset.tags(bands[0], ns="IMAGE_STRUCTURE").get("NBITS")
        is_inverted = dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
        kinds = {np.dtype(dataset.dtypes[band - 1]) for band in bands}
        is_plain = kinds == {np.dtype(np.uint8)} and bits in (None, "8")
        is_ranged = value_range is not None and kinds <= _DEEP and self._palette is None
        if is_inverted or not (is_plain or is_ranged):
            kind = dataset.dtypes[bands[0] - 1] + ("" if bits is None else f" of {bits} bits")
            raise ImageError(
                f"{self._path} has values of {kind}, expected uint8 of which 0 is black, or a "
                "value_range (in the shell --value-range)"
            )
        height, width = max(dataset.block_shapes, key=math.prod)
        if height * width * dataset.count > _BLOCK_BYTES:
            raise ImageError(
                f"{self._path} is stored in parts of {width} x {height} pixels, too large to read "
                "one: store it in tiles, such as with gdal_translate -co TILED=YES"
            )
        if _orientation(self._path) != 1:
            raise ImageError(f"{self._path} is not upright: rotate it, and remove its orientation")


def save_mask(mask: Mask, path: str | PathLike[str], image: str | PathLike[str]) -> None:
    """Write a mask as a GeoTIFF file with the coordinate system and place of its image.

    Args:
        mask: of the image.
        path: of the file to write: 255 the object, 0 the rest. Only tiles with the object take
            room.
        image: the TIFF file that the mask is of.

    Raises:
        OptionError: the file cannot be written.
        ImageError: the image cannot be read.
        MissingPackageError: rasterio is not installed.
    """
    rasterio = _rasterio()
    with _open(image) as like:
        height, width = mask.size
        profile = {
            "driver": "GTiff",
            "dtype": "uint8",
            "count": 1,
            "height": height,
            "width": width,
            "crs": like.crs,
            "transform": like.transform,
            "tiled": True,
            "compress": "deflate",
            "sparse_ok": True,
        }
    part, (x, y) = mask.cutout()
    pixels = part.view(np.uint8) * np.uint8(255)
    try:
        with rasterio.open(path, "w", **profile) as file:
            file.write(pixels, 1, window=rasterio.windows.Window(x, y, *part.shape[::-1]))
    except (rasterio.errors.RasterioError, OSError) as error:
        raise OptionError(f"{path} cannot be written: {error}") from error


def feature_collection(masks: Sequence[Mask], image: str | PathLike[str]) -> dict[str, Any]:
    """Return masks as GeoJSON in the coordinate system of their image.

    Outlines run along the edges of pixels. The coordinate system is named in the member ``crs``,
    which GIS programs read; RFC 7946 knows only longitude and latitude.

    Args:
        masks: of the image.
        image: the TIFF file that they are of.

    Returns:
        A FeatureCollection with a feature for each mask, a MultiPolygon, and its ``area`` in
        pixels and ``iou``.

    Raises:
        ImageError: the image cannot be read.
        MissingPackageError: rasterio is not installed.
    """
    rasterio = _rasterio()
    with _open(image) as like:
        crs, transform = like.crs, like.transform
    outlines = []
    for mask in masks:
        part, corner = mask.cutout()
        window = rasterio.windows.Window(*corner, *part.shape[::-1])
        placed = rasterio.windows.transform(window, transform)
        found = rasterio.features.shapes(
            part.view(np.uint8), mask=part, connectivity=4, transform=placed
        )
        parts = [shape["coordinates"] for shape, _ in found]
        outlines.append((mask, {"type": "MultiPolygon", "coordinates": parts}))
    features = collection(outlines)
    authority = crs.to_authority() if crs is not None else None
    if authority is not None:
        name = "urn:ogc:def:crs:{}::{}".format(*authority)
        features["crs"] = {"type": "name", "properties": {"name": name}}
    return features


def collection(outlines: Iterable[tuple[Mask, dict[str, Any]]]) -> dict[str, Any]:
    """Return GeoJSON's FeatureCollection of masks with their geometries."""
    features = [
        {
            "type": "Feature",
            "properties": {"area": mask.area, "iou": round(mask.iou, 6)},
            "geometry": geometry,
        }
        for mask, geometry in outlines
    ]
    return {"type": "FeatureCollection", "features": features}


def is_georeferenced(image: str | PathLike[str]) -> bool:
    """Tell whether a TIFF file says where on a map it is; False without rasterio."""
    if not is_installed() or not is_tiff(image):
        return False
    with _open(image) as dataset:
        return dataset.crs is not None or not dataset.transform.is_identity


def _rasterio() -> Any:
    """Return the module, with all of its parts that are used here.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        for part in ("enums", "errors", "features", "windows"):
            importlib.import_module(f"rasterio.{part}")
        return importlib.import_module("rasterio")
    except ImportError as error:
        raise MissingPackageError(
            "large TIFF files need rasterio: pip install 'hqsam-triton[raster]'"
        ) from error


def _open(image: str | PathLike[str]) -> Any:
    rasterio = _rasterio()
    path = Path(image).expanduser()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            # No other driver: some read further files, or addresses, that a file names.
            return rasterio.open(path, driver="GTiff", sharing=False)
    except rasterio.errors.RasterioError as error:
        raise _unreadable(path, "as TIFF", error) from error


def _unreadable(path: Path, how: str, error: Exception) -> ImageError:
    return ImageError(f"{path} cannot be read {how}: {' '.join(str(error).split())}")


def _orientation(path: Path) -> int:
    """Return the EXIF orientation, which GDAL ignores."""
    try:
        with TiffImagePlugin.TiffImageFile(path) as image:
            return image_files.orientation(image)
    except Exception:
        return 1  # a kind of TIFF that Pillow does not know
