"""`hqsam embed`, against a running server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hqsam_client import HQSam
from hqsam_testing import image_files
from PIL import Image

from tests.cli.command import hqsam


def test_a_folder_is_embedded_and_an_interrupted_run_goes_on(
    folder: Path,
    sam: HQSam,
    capsys: pytest.CaptureFixture[str],
    forget: Callable[[str], None],
) -> None:
    (folder / "deep").mkdir()
    other = folder / "deep" / "other.PNG"
    Image.open(folder / "photo.png").rotate(180).save(other)
    (folder / "notes.txt").write_text("not an image, and not asked for")
    assert hqsam("embed", str(folder)) == 0
    assert "2 images: 2 encoded, 0 already stored, 0 failed\n" in capsys.readouterr().out
    forget(sam.open(other).image_id)
    assert hqsam("embed", str(folder), "--concurrency", "1") == 0
    assert "2 images: 1 encoded, 1 already stored, 0 failed\n" in capsys.readouterr().out


def test_an_image_that_cannot_be_embedded_is_told_with_the_reason(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "cut.png").write_bytes((folder / "photo.png").read_bytes()[:3000])
    assert hqsam("embed", str(folder)) == 1
    printed = capsys.readouterr()
    assert "2 images: 1 encoded, 0 already stored, 1 failed\n" in printed.out
    assert "cut.png: " in printed.err
    assert "INVALID_ARGUMENT" in printed.err


def test_a_folder_of_any_kind_of_image_is_embedded_with_one_range(
    folder: Path, sam: HQSam, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = Image.open(folder / "photo.png")
    (folder / "phone.HEIC").write_bytes(image_files.heic(photo, orientation=6))
    deep = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 16)
    deep.save(folder / "scan.tif")
    assert hqsam("embed", folder) == 1
    printed = capsys.readouterr()
    assert "3 images: 2 encoded, 0 already stored, 1 failed\n" in printed.out
    assert "scan.tif: " in printed.err and "--value-range 0,4095" in printed.err
    assert hqsam("embed", folder, "--value-range", "0,4095") == 0
    assert "3 images: 1 encoded, 2 already stored, 0 failed\n" in capsys.readouterr().out
    assert sam.open(folder / "scan.tif", value_range=(0, 4095)).embed() is True


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("empty", 1, "/empty: expected files such as .jpg or .png\n"),
        ("photo.png --concurrency 0", 2, "--concurrency: '0', expected an integer of at least 1"),
        ("photo.png --upload tiny", 2, "--upload: invalid choice: 'tiny'"),
        ("", 2, "the following arguments are required: PATH"),
        ("photo.png --value-range 5", 2, "'5', expected numbers of the form LOW,HIGH"),
        ("photo.png --value-range -3,-4", 2, "'-3,-4', expected two finite numbers, the smaller"),
        ("photo.png --percentiles 2,200", 2, "the percentiles are 2 and 200, expected two of 0 to"),
        (
            "photo.png --percentiles 2,98 --value-range 0,1",
            2,
            "--value-range: not allowed with argument --percentiles",
        ),
    ],
)
def test_nothing_to_embed_or_a_wrong_option_is_told_in_one_line(
    folder: Path, arguments: str, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty").mkdir()
    assert hqsam("embed", *arguments.split()) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
