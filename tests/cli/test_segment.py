"""`hqsam segment`, against a running server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hqsam_client import HQSam, Percentiles
from hqsam_client.image_files import ValueRange
from hqsam_testing import command
from PIL import Image
from pycocotools import mask as coco

from tests.cli.command import hqsam

BOXES = ["20,30,200,180", "100,10,290,150"]
FLAGS = "--point 5,6"


def test_the_documented_command_leaves_a_mask_and_an_overlay(folder: Path, sam: HQSam) -> None:
    arguments = "segment photo.png --point 105,90 --output mask.png --overlay overlay.png"
    done = command.run(command.hqsam(*arguments.split()))
    assert done.returncode == 0, done.stderr
    mask = sam.open("photo.png").segment(points=[(105, 90)])
    assert done.stdout.startswith(f"photo.png 0: {mask.area} pixels, box ")
    assert done.stdout.endswith("-> mask.png\n")
    with Image.open("mask.png") as image:
        np.testing.assert_array_equal(np.asarray(image) > 0, mask.array)
    with Image.open("overlay.png") as image:
        assert (image.mode, image.size) == ("RGB", (300, 200))


def test_flags_make_the_prompt(
    folder: Path, sam: HQSam, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--point", "105,90", "--background", "10,190", "--box", BOXES[0], "--mode", "best")
    assert hqsam("segment", "photo.png", *flags, "--json") == 0
    entry = json.loads(capsys.readouterr().out)
    mask = sam.open("photo.png").segment(
        [(105, 90), (10, 190)], [1, 0], (20, 30, 200, 180), mode="best"
    )
    assert entry == {
        "image": "photo.png",
        "index": 0,
        "size": [200, 300],
        "box": list(mask.box or ()),
        "area": mask.area,
        "iou": pytest.approx(mask.iou, abs=1e-4),
    }


@pytest.mark.parametrize(
    ("flags", "value_range"),
    [
        (("--value-range", "-1000,3080"), (-1000, 3080)),
        (("--percentiles", "1,99.5"), Percentiles(1, 99.5)),
    ],
    ids=["values", "percentiles"],
)
def test_a_deep_image_is_segmented_and_drawn_within_the_range(
    folder: Path,
    sam: HQSam,
    flags: tuple[str, str],
    value_range: ValueRange,
    capsys: pytest.CaptureFixture[str],
) -> None:
    grey = np.asarray(Image.open("photo.png").convert("L"))
    Image.fromarray(grey.astype(np.int32) * 16 - 1000).save("slice.tif")
    names = ("--output", "mask.png", "--overlay", "overlay.png")
    assert hqsam("segment", "slice.tif", "--point", "105,90", *flags, *names) == 0
    image = sam.open("slice.tif", value_range=value_range)
    mask = image.segment(points=[(105, 90)])
    assert capsys.readouterr().out.startswith(f"slice.tif 0: {mask.area} pixels, box ")
    with Image.open("mask.png") as found:
        np.testing.assert_array_equal(np.asarray(found) > 0, mask.array)
    with Image.open("overlay.png") as drawn:
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(mask.overlay()))
    if isinstance(value_range, tuple):
        np.testing.assert_array_equal(np.asarray(image.full_image())[..., 0], grey)


def test_each_box_gives_a_mask_and_all_of_them_one_overlay(folder: Path) -> None:
    flags = ("--box", BOXES[0], "--box", BOXES[1])
    names = ("--output", "out/{stem}-{index}.png", "--overlay", "out/{stem}-overlay.png")
    assert hqsam("segment", "photo.png", *flags, *names) == 0
    written = sorted(path.name for path in (folder / "out").iterdir())
    assert written == ["photo-0.png", "photo-1.png", "photo-overlay.png"]
    assert hqsam("segment", "photo.png", *flags, "--overlay", "{index}.png") == 0
    assert (folder / "0.png").exists()
    assert (folder / "1.png").exists()


def test_prompts_come_from_json_lines_and_masks_go_to_run_lengths(
    folder: Path, sam: HQSam, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        {"image": "photo.png", "points": [[105, 90], [10, 190]], "labels": [1, 0]},
        {"image": "photo.png", "box": [20, 30, 200, 180]},
    ]
    (folder / "prompts.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    assert hqsam("segment", "--prompts", "prompts.jsonl", "--rle") == 0
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["index"] for entry in entries] == [0, 1]
    expected = sam.open("photo.png").segment(box=(20, 30, 200, 180))
    assert (coco.decode(entries[1]["rle"]).astype(bool) != expected.array).mean() < 1e-3


def test_one_prompt_file_may_serve_several_images(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "prompts.jsonl").write_text('{"points": [[5, 6]]}')
    (folder / "other.png").write_bytes((folder / "photo.png").read_bytes())
    assert hqsam("segment", "photo.png", "other.png", "--prompts", "prompts.jsonl") == 0
    assert [line.split(" ")[0] for line in capsys.readouterr().out.splitlines()] == [
        "photo.png",
        "other.png",
    ]


def test_an_image_that_fails_does_not_stop_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hqsam("segment", "none.png", "photo.png", "--point", "5,6") == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("photo.png 0: ")
    assert printed.err == (
        f"hqsam segment: {folder / 'none.png'} cannot be read: No such file or directory; "
        "check the path\n"
    )


USAGE = [
    (FLAGS, "no image was given, expected one or more, or --prompts"),
    ("photo.png", "no prompt was given, expected --point, --box or --prompts"),
    (f"photo.png {FLAGS} --box {BOXES[0]} --box {BOXES[1]}", "not with several: use --prompts"),
    (f"a.png b.png {FLAGS} --output m.png", "use {stem} and {index} in it"),
    (f"a/x.png b/x.png {FLAGS} --overlay {{stem}}.png", "use {stem} and {index} in it"),
    (f"photo.png {FLAGS} --output mask", "--output is 'mask', expected an ending such as .png"),
    (f"photo.png {FLAGS} --output mask.jpg", "such as .png: masks are written without loss"),
    ("photo.png --prompts unnamed.jsonl --point 1,2", "--prompts replaces --point"),
    ("photo.png --point 5;6", "--point: '5;6', expected numbers of the form X,Y"),
    ("photo.png --point", "--point: expected one argument"),
    ("photo.png --box 1,2,3", "--box: '1,2,3', expected numbers of the form X0,Y0,X1,Y1"),
    (f"photo.png {FLAGS} --mode fast", "--mode: invalid choice: 'fast'"),
    (f"photo.png {FLAGS} --timeout soon", "--timeout: 'soon' is not a time, expected seconds"),
    (f"photo.png {FLAGS} --timeout -1", "--timeout: '-1' is not a time, expected seconds"),
    (
        f"photo.png {FLAGS} --colour red",
        "unknown arguments: --colour red; see hqsam segment --help",
    ),
]

FAILURES = [
    ("--prompts none.jsonl", "none.jsonl cannot be read: No such file or directory"),
    ("photo.png --prompts photo.png", "photo.png cannot be read: it is not text"),
    ("photo.png --prompts empty.jsonl", "empty.jsonl is empty"),
    ("photo.png --prompts broken.jsonl", "broken.jsonl, line 1: not JSON"),
    (
        "photo.png --prompts typo.jsonl",
        "line 1: expected an object with box, image, labels, points",
    ),
    ("--prompts numbered.jsonl", "line 1: image is 7, expected a path"),
    ("photo.png --prompts bare.jsonl", "line 1: expected points, a box, or both"),
    ("photo.png --prompts named.jsonl", "name the image either here or on the command line"),
    ("--prompts unnamed.jsonl", "name the image either here or on the command line"),
    (f"pics {FLAGS}", "pics is a folder, expected image files, such as pics/*.jpg"),
    (f"~no-such-user/photo.png {FLAGS}", "there is no such home folder"),
    (f"photo.png {FLAGS} --tls --root-certificates none.pem", "none.pem cannot be read"),
    (f"photo.png {FLAGS} --url nonsense", "expected host:port, such as localhost:8001"),
]


@pytest.mark.parametrize(
    ("status", "arguments", "message"),
    [(2, *case) for case in USAGE] + [(1, *case) for case in FAILURES],
)
def test_what_is_wrong_is_told_in_one_line(
    folder: Path,
    nobody: str,
    status: int,
    arguments: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HQSAM_URL", nobody)
    (folder / "pics").mkdir()
    for name, text in {
        "empty": "\n",
        "broken": "{",
        "typo": '{"point": [[1, 2]]}',
        "numbered": '{"image": 7, "points": [[1, 2]]}',
        "bare": '{"labels": [1]}',
        "named": '{"image": "photo.png", "points": [[1, 2]]}',
        "unnamed": '{"points": [[1, 2]]}',
    }.items():
        (folder / f"{name}.jsonl").write_text(text)
    assert hqsam("segment", *arguments.split()) == status
    error = capsys.readouterr().err
    assert error.startswith("hqsam segment: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_mask_that_cannot_be_written_is_told_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hqsam("segment", "photo.png", *FLAGS.split(), "--output", "photo.png/mask.png") == 1
    assert "photo.png/mask.png cannot be written: " in capsys.readouterr().err


def test_coordinates_may_be_negative(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The parser takes them; whether the image has such a point is the client's to say.
    assert hqsam("segment", "photo.png", "--point", "-3,20") == 1
    error = capsys.readouterr().err
    assert error.startswith("hqsam segment: photo.png: points")
    assert "(-3, 20)" in error
    assert hqsam("segment", "photo.png", "--box", "-.5e1,-1,200,180") != 2


def test_a_tilde_in_a_quoted_path_is_the_home_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert hqsam("segment", "~/photo.png", *FLAGS.split(), "--output", "~/{stem}-mask.png") == 0
    assert (folder / "photo-mask.png").is_file()
    (folder / "prompts.jsonl").write_text('{"image": "~/photo.png", "points": [[5, 6]]}')
    assert hqsam("segment", "--prompts", "~/prompts.jsonl", "--overlay", "~/overlay.png") == 0
    assert (folder / "overlay.png").is_file()


def test_the_help_teaches_by_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert hqsam("segment", "--help") == 0
    assert "hqsam segment photo.jpg --point 420,310 --output mask.png" in capsys.readouterr().out
