"""`hqsam demo-official`, against a running server."""

from __future__ import annotations

from pathlib import Path

import pytest
from hqsam_testing.oracle import images
from PIL import Image

from tests.cli.command import hqsam


@pytest.mark.long
def test_the_authors_demonstration_on_a_copy_of_their_images(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = tmp_path / "input_imgs", tmp_path / "output"
    folder.mkdir()
    flags = [f"--url={url}", f"--output={output}", "--timeout=300"]
    assert hqsam("demo-official", str(folder), *flags) == 1
    assert "lacks example0.png, example1.png" in capsys.readouterr().err
    for number in range(8):
        Image.fromarray(images.draw(1024 - number, 1024)).save(folder / f"example{number}.png")
    assert hqsam("demo-official", str(folder), *flags) == 0
    names = {path.name for path in output.iterdir()}
    assert names == {
        *(f"example{number}.png" for number in range(8)),
        *(f"example{number}-mask.png" for number in range(7)),
        "example7-0-mask.png",
        "example7-1-mask.png",
    }
    for number in range(8):
        with Image.open(output / f"example{number}.png") as overlay:
            assert overlay.size == (1024 - number, 1024)
