"""The folder that the page works on, without a browser."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hqsam_client import AsyncHQSam, OptionError
from hqsam_testing import image_files
from hqsam_ui.app import create_app
from hqsam_ui.folder import CLASSES, NOTHING, Folder
from PIL import Image
from starlette.testclient import TestClient

from tests.ui.driving import image_file

WORK = json.dumps({"objects": [{}, {}], "done": True}).encode()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three images, and things that are not to be read."""
    photos = tmp_path / "photos"
    (photos / "deeper").mkdir(parents=True)
    (photos / ".hidden").mkdir()
    for name in ("10.png", "9.png", "deeper/a.PNG", ".hidden/b.png"):
        (photos / name).write_bytes(image_file(30, 20))
    (photos / "notes.txt").write_text("secret")
    (tmp_path / "outside.png").write_bytes(image_file(30, 20))
    (photos / "link.png").symlink_to(tmp_path / "outside.png")
    return photos


@pytest.fixture
def client(photos: Path, unused_address: str) -> Iterator[TestClient]:
    app = create_app(lambda: AsyncHQSam(unused_address), folder=Folder(photos))
    with TestClient(app, base_url="http://localhost:7860") as running:
        yield running


def test_images_are_listed_in_natural_order_with_their_work(
    client: TestClient, photos: Path
) -> None:
    (photos / "9.png.hqsam.json").write_bytes(WORK)
    (photos / "10.png.hqsam.json").write_bytes(b"damaged")
    found = client.get("/api/folder").json()["images"]
    assert [each["name"] for each in found] == ["9.png", "10.png", "deeper/a.PNG"]
    assert [(each["objects"], each["done"]) for each in found] == [
        (2, True),
        (0, False),
        (0, False),
    ]
    content = client.get("/api/folder/image/deeper/a.PNG").content
    assert content == (photos / "deeper" / "a.PNG").read_bytes()
    thumbnail = client.get("/api/folder/thumbnail/9.png")
    assert thumbnail.headers["content-type"] == "image/jpeg"
    assert client.get("/api/status").json()["folder"] == "photos"


def test_a_heic_file_is_listed_with_its_thumbnail(client: TestClient, photos: Path) -> None:
    (photos / "phone.HEIC").write_bytes(image_files.heic(Image.new("RGB", (60, 40)), 6))
    names = [each["name"] for each in client.get("/api/folder").json()["images"]]
    assert "phone.HEIC" in names
    thumbnail = client.get("/api/folder/thumbnail/phone.HEIC")
    with Image.open(io.BytesIO(thumbnail.content)) as image:
        assert (image.format, image.size) == ("JPEG", (40, 60))


@pytest.mark.parametrize(
    "name",
    ["notes.txt", "link.png", ".hidden/b.png", "%2e%2e/outside.png", "/etc/passwd", "no.png", ""],
)
def test_nothing_else_is_read_or_written(client: TestClient, photos: Path, name: str) -> None:
    before = sorted(photos.parent.rglob("*"))
    for kind in ("image", "thumbnail", "work"):
        assert client.get(f"/api/folder/{kind}/{name}").status_code == 404
    headers = {"if-match": "*"}
    assert client.put(f"/api/folder/work/{name}", content=WORK, headers=headers).status_code == 404
    assert sorted(photos.parent.rglob("*")) == before


def test_work_is_replaced_only_by_who_has_seen_it(photos: Path) -> None:
    folder = Folder(photos)
    assert folder.load("9.png") == (b"null", NOTHING)
    first = folder.save("9.png", WORK, NOTHING)
    assert folder.load("9.png") == (WORK, first)
    second = folder.save("9.png", b"{}", first)
    for stale in (NOTHING, first):
        with pytest.raises(Exception, match="changed elsewhere"):
            folder.save("9.png", WORK, stale)
    assert folder.load("9.png") == (b"{}", second)
    folder.save("9.png", WORK, "*")
    assert [path.name for path in photos.iterdir() if path.name.startswith(".9")] == []
    assert (photos / "9.png.hqsam.json").stat().st_mode & 0o777 == (
        photos / "9.png"
    ).stat().st_mode & 0o777


def test_a_write_that_fails_leaves_the_old_work(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(photos)
    folder.save("9.png", WORK, NOTHING)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Exception, match="No space left"):
        folder.save("9.png", b"{}", "*")
    assert folder.load("9.png")[0] == WORK
    assert len(list(photos.iterdir())) == 7


def test_work_that_is_not_json_is_refused(client: TestClient, photos: Path) -> None:
    answer = client.put(f"/api/folder/work/{CLASSES}", content=b"{", headers={"if-match": "*"})
    assert (answer.status_code, answer.json()["code"]) == (400, "request")
    assert not (photos / CLASSES).exists()


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="give a folder of images"):
        Folder(tmp_path / "missing")
