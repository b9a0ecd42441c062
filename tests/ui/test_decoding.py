"""The page reads image files of strangers within a budget, and goes on for others meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hqsam_client import ImageError
from hqsam_client.decoding.pool import Budget
from hqsam_client.shared.upload import prepare
from hqsam_ui import decoding, pictures

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


def test_a_file_is_what_the_client_makes_of_it(files: decoding.ImageFiles) -> None:
    photo = image_file(60, 40)
    expected = prepare(photo)
    assert asyncio.run(files.open(photo)) == expected
    assert asyncio.run(files.picture("shown", photo)) == pictures.shown(photo)
    assert asyncio.run(files.picture("thumbnail", photo)) == pictures.thumbnail(photo)


@pytest.mark.slow
def test_a_file_that_takes_too_long_is_refused_and_others_are_read(
    files: decoding.ImageFiles,
) -> None:
    async def both() -> None:
        bad = asyncio.create_task(files.open(slow()))
        assert (await files.open(image_file(60, 40))).size == (40, 60)
        with pytest.raises(ImageError, match="took more than 2 s of processor time"):
            await bad

    asyncio.run(both())
