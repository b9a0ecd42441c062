"""The commands `segment`, `embed` and `status`, against a running server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hqsam_cli import main
from hqsam_client import HQSam
from hqsam_server import TritonServer
from hqsam_testing.oracle import images
from PIL import Image
from pycocotools import mask as coco

BOXES = ["20,30,200,180", "100,10,290,150"]


@pytest.fixture
def folder(tmp_path: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch, url: str) -> Path:
    """An empty folder to work in, with `photo.png`; the commands find the server by themselves."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HQSAM_URL", url)
    (tmp_path / "photo.png").write_bytes(photo)
    return tmp_path


def hqsam(*arguments: str) -> int:
    return main.main(arguments)


def test_the_documented_command_leaves_a_mask_and_an_overlay(folder: Path, sam: HQSam) -> None:
    command = "segment photo.png --point 105,90 --output mask.png --overlay overlay.png"
    script = "import sys; from hqsam_cli.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", script, *command.split()], capture_output=True, text=True, check=True
    )
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
    assert printed.err == "hqsam segment: none.png: none.png cannot be read: " + (
        "No such file or directory; check the path\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--point 5,6", "no image was given"),
        ("photo.png", "no prompt was given"),
        (f"photo.png --point 5,6 --box {BOXES[0]} --box {BOXES[1]}", "go with one --box"),
        ("a.png b.png --point 5,6 --output m.png", "use {stem} and {index} in it"),
        ("a/x.png b/x.png --point 5,6 --overlay {stem}.png", "use {stem} and {index} in it"),
        ("photo.png --point 5,6 --output mask", "expected an ending such as .png"),
        ("photo.png --point 5,6 --output photo.png/mask.png", "cannot be written"),
        ("photo.png --prompts none.jsonl", "none.jsonl cannot be read"),
        ("photo.png --prompts photo.png", "photo.png cannot be read"),
        ("photo.png --prompts empty.jsonl", "empty.jsonl is empty"),
        ("photo.png --prompts broken.jsonl", "broken.jsonl, line 1: not JSON"),
        (
            "photo.png --prompts typo.jsonl",
            "line 1: expected an object with box, image, labels, points",
        ),
        ("--prompts numbered.jsonl", "line 1: image is 7, expected a path"),
        ("photo.png --prompts bare.jsonl", "line 1: expected points, a box, or both"),
        ("photo.png --prompts named.jsonl", "the image is named here or on the command line"),
        ("--prompts unnamed.jsonl", "the image is named here or on the command line"),
        ("photo.png --prompts unnamed.jsonl --point 1,2", "--prompts stands instead of --point"),
    ],
)
def test_a_wrong_command_line_is_one_clear_line(
    folder: Path, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
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
    assert hqsam("segment", *arguments.split()) == 1
    error = capsys.readouterr().err
    assert error.startswith("hqsam segment: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_malformed_point_is_refused_with_the_form_it_should_have(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        hqsam("segment", "photo.png", "--point", "5;6")
    assert "--point: '5;6' is not of the form X,Y" in capsys.readouterr().err


def test_the_help_teaches_by_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        hqsam("segment", "--help")
    assert "hqsam segment photo.jpg --point 420,310 --output mask.png" in capsys.readouterr().out


def test_a_folder_is_embedded_and_an_interrupted_run_goes_on(
    folder: Path, sam: HQSam, capsys: pytest.CaptureFixture[str], forget: Callable[[str], None]
) -> None:
    (folder / "deep").mkdir()
    other = folder / "deep" / "other.PNG"
    Image.open(folder / "photo.png").rotate(180).save(other)
    (folder / "notes.txt").write_text("not an image, and not asked for")
    assert hqsam("embed", str(folder)) == 0
    assert "2 images: 2 encoded, 0 known before, 0 failed\n" in capsys.readouterr().out
    forget(sam.open(other).image_id)
    assert hqsam("embed", str(folder), "--concurrency", "1") == 0
    assert "2 images: 1 encoded, 1 known before, 0 failed\n" in capsys.readouterr().out


def test_an_image_that_cannot_be_embedded_is_told_with_the_reason(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "cut.png").write_bytes((folder / "photo.png").read_bytes()[:3000])
    assert hqsam("embed", str(folder)) == 1
    printed = capsys.readouterr()
    assert "2 images: 1 encoded, 0 known before, 1 failed\n" in printed.out
    assert "cut.png: " in printed.err
    assert "INVALID_ARGUMENT" in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("embed", "empty"), "no images in empty"),
        (("embed", "photo.png", "--concurrency", "0"), "concurrency is 0, expected at least 1"),
    ],
)
def test_nothing_to_embed_or_no_way_to_is_an_error(
    folder: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty").mkdir()
    assert hqsam(*arguments) == 1
    assert message in capsys.readouterr().err


def metrics_port(server: TritonServer) -> str:
    return server.metrics_url.rpartition(":")[2]


def test_status_tells_of_models_and_store_and_makes_a_real_call(
    folder: Path, url: str, server: TritonServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hqsam("segment", "photo.png", "--point", "5,6") == 0
    capsys.readouterr()
    assert hqsam("status", "--probe", "--metrics-port", metrics_port(server)) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{url}: ready, Triton ")
    assert "segment 1" in printed
    assert "missing" not in printed
    assert "probe   answered in" in printed
    assert " 0 encodes" not in printed


def test_status_speaks_json(
    folder: Path, url: str, server: TritonServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hqsam("segment", "photo.png", "--point", "5,6") == 0
    capsys.readouterr()
    assert hqsam("status", "--json", "--metrics-port", metrics_port(server)) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["replica"] == url
    assert status["ready"] is True
    assert {model["name"] for model in status["models"] if model["ready"]} >= {"embed", "segment"}
    assert status["metrics"]["encodes"] >= 1
    assert status["metrics"]["store_entries"] >= 1


def test_status_tells_replicas_apart_and_fails_if_one_is_down(
    url: str, nobody: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hqsam("status", "--url", f"{url},{nobody}", "--metrics-port", "1") == 1
    printed = capsys.readouterr().out
    assert f"{url}: ready" in printed
    assert "store   unknown" in printed
    assert f"{nobody}: failed: no answer" in printed
    assert hqsam("status", "--url", nobody, "--json") == 1
    assert json.loads(capsys.readouterr().out)["ready"] is False


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
