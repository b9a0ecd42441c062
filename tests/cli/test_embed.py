"""`hqsam embed`, against a running server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hqsam_client import HQSam
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


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("empty", 1, "/empty: expected files such as .jpg or .png\n"),
        ("photo.png --concurrency 0", 2, "--concurrency: '0', expected an integer of at least 1"),
        ("photo.png --upload tiny", 2, "--upload: invalid choice: 'tiny'"),
        ("", 2, "the following arguments are required: PATH"),
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
