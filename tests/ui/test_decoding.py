"""The page reads image files of strangers within a budget, and goes on for others meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hqsam_client import ImageError, Percentiles
from hqsam_client.decoding.pool import Budget
from hqsam_client.image_files import ValueRange
from hqsam_client.shared.upload import prepare
from hqsam_testing import image_files
from hqsam_ui import decoding, pictures
from PIL import Image

from tests.ui.driving import image_file


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[decoding.ImageFiles]:
    monkeypatch.setattr(decoding, "BUDGET", Budget(cpu_s=2, memory_bytes=2**30))
    files = decoding.ImageFiles()
    yield files
    files.close()


def slow() -> bytes:
    """Return a JPEG whose millions of empty segments Pillow goes through one by one."""
    whole = image_file(60, 40, "JPEG")
    return whole[:2] + b"\xff\xe1\0\2" * 3_000_000 + whole[2:]


def deep() -> bytes:
    """Return a TIFF file of 12-bit values."""
    values = np.linspace(0, 4095, 2400).astype(np.uint16).reshape(40, 60)
    return image_files.encoded(Image.fromarray(values), "TIFF")


@pytest.mark.parametrize("value_range", [(0, 4095), Percentiles(1, 99)], ids=str)
@pytest.mark.parametrize(
    "make",
    [
        lambda: image_file(60, 40),
        lambda: image_files.heic(Image.open(io.BytesIO(image_file(1500, 60)))),
        deep,
    ],
    ids=["PNG", "HEIC", "TIFF"],
)
def test_a_file_is_what_the_client_makes_of_it(
    make: Callable[[], bytes], value_range: ValueRange
) -> None:
    content = make()
    expected = prepare(content, value_range=value_range)
    files = decoding.ImageFiles(value_range)
    try:
        upload, sha256 = asyncio.run(files.open(content))
        pictures_of_it = [
            asyncio.run(files.picture(kind, content)) for kind in ("shown", "thumbnail")
        ]
    finally:
        files.close()
    assert upload == replace(expected, source=None)
    assert sha256 == hashlib.sha256(content).hexdigest()
    assert pictures_of_it == [
        pictures.shown(content, value_range),
        pictures.thumbnail(content, value_range),
    ]


def test_what_cannot_be_read_is_refused_with_the_reason(files: decoding.ImageFiles) -> None:
    for read in (files.open(deep()), files.picture("shown", deep())):
        with pytest.raises(ImageError, match=r"--value-range 0,4095"):
            asyncio.run(read)


@pytest.mark.slow
def test_a_file_that_takes_too_long_is_refused_and_others_are_read(
    files: decoding.ImageFiles,
) -> None:
    async def both() -> None:
        bad = asyncio.create_task(files.open(slow()))
        assert (await files.open(image_file(60, 40))).upload.size == (40, 60)
        with pytest.raises(ImageError, match="took more than 2 s of processor time"):
            await bad

    asyncio.run(both())
