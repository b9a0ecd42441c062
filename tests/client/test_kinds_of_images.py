"""Images of every kind against a running server: each has the mask of the same pixels as PNG."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from hqsam_client import AsyncHQSam, HQSam, ImageError, Percentiles
from hqsam_testing import image_files
from hqsam_testing.api import Api
from hqsam_testing.waiting import TIMEOUT_S
from numpy.typing import NDArray
from PIL import Image
from tritonclient.utils import InferenceServerException

from tests.client.test_client import POINTS, close

KINDS = ("heic", "tiff", "colours", "floats", "bgr", "rgba", "grey")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, array: NDArray[np.uint8]) -> tuple[Any, dict[str, Any]]:
    """An image of a kind, and the arguments that say so."""
    grey = np.ascontiguousarray(array[..., 0])
    alpha = np.full((*grey.shape, 1), 9, np.uint8)
    deep = Image.fromarray(grey.astype(np.uint16) * 16)
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "heic": (image_files.heic(Image.fromarray(array), orientation=6), {}),
        "tiff": (image_files.encoded(deep, "TIFF"), {"value_range": (0, 255 * 16)}),
        "colours": (
            image_files.tiff_16_bit(array.astype(np.uint16) * 16),
            {"value_range": (0, 255 * 16)},
        ),
        "floats": (array / 255, {"value_range": (0, 1)}),
        "bgr": (array[..., ::-1], {"channels": "bgr"}),
        "rgba": (np.concatenate([array, alpha], axis=2), {"channels": "rgba"}),
        "grey": (grey, {"channels": "grey"}),
    }
    return kinds[request.param]


def as_png(image: Any, array: NDArray[np.uint8]) -> bytes:
    """Return the pixels of an image of a kind as a PNG file."""
    if isinstance(image, bytes) and b"ftyp" in image[:12]:
        pillow_heif.register_heif_opener()
        return image_files.encoded(Image.open(io.BytesIO(image)))
    is_grey = isinstance(image, bytes) and Image.open(io.BytesIO(image)).mode == "I;16"
    is_grey = is_grey or (isinstance(image, np.ndarray) and image.ndim == 2)
    return image_files.encoded(Image.fromarray(array[..., 0] if is_grey else array))


def test_an_image_of_any_kind_has_the_mask_of_its_pixels_as_png(
    sam: HQSam, url: str, kind: tuple[Any, dict[str, Any]], array: NDArray[np.uint8]
) -> None:
    image, arguments = kind
    expected = sam.segment(as_png(image, array), points=POINTS[:1])
    opened = sam.open(image, **arguments)
    assert opened.size == expected.size
    mask = opened.segment(points=POINTS[:1])
    assert close(mask, expected)
    np.testing.assert_array_equal(np.asarray(mask.overlay()), np.asarray(expected.overlay()))
    assert close(sam.segment(image, points=POINTS[:1], **arguments), expected)
    (embedded,) = sam.embed([image], **arguments)
    assert (embedded.image_id, embedded.already_stored) == (opened.image_id, True)

    async def check() -> None:
        async with AsyncHQSam(url, timeout_s=TIMEOUT_S) as other:
            assert (await other.open(image, **arguments)).image_id == opened.image_id
            assert close(await other.segment(image, points=POINTS[:1], **arguments), expected)
            (again,) = await other.embed([image], **arguments)
            assert again.image_id == opened.image_id

    asyncio.run(check())


def test_a_folder_of_any_depth_is_embedded_with_one_range(
    sam: HQSam, array: NDArray[np.uint8], photo: bytes, tmp_path: Path
) -> None:
    dark = np.tile(np.arange(300, dtype=np.uint16), (200, 1))
    for name, content in {
        "a.png": photo,
        "b.tiff": image_files.encoded(Image.fromarray(dark), "TIFF"),
        "c.heic": image_files.heic(Image.fromarray(array)),
        "d.png": image_files.encoded(Image.fromarray(dark * 0)),
    }.items():
        (tmp_path / name).write_bytes(content)
    results = sam.embed(sorted(tmp_path.iterdir()), value_range=Percentiles())
    errors = [result.error for result in results]
    assert errors[:3] == [None] * 3
    assert isinstance(errors[3], ImageError), "black has no percentiles"
    assert results[0].image_id == sam.open(photo).image_id


def test_a_server_that_is_sent_a_heic_file_refuses_it_and_names_what_it_reads(
    server: Any, array: NDArray[np.uint8]
) -> None:
    with Api(server) as api, pytest.raises(InferenceServerException, match=r"expected .*JPEG"):
        api.embed(image_files.heic(Image.fromarray(array)))
