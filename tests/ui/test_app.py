"""The page's server, without a browser."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
from hqsam_client import AsyncHQSam, HQSam, contract
from hqsam_client.image_files import IMAGE_ENDINGS
from hqsam_server import TritonServer
from hqsam_server.models.preprocess import Limits
from hqsam_testing import image_files
from hqsam_testing.waiting import TIMEOUT_S
from hqsam_ui import pictures, wire
from hqsam_ui.app import MAX_IMAGE_BYTES, create_app
from hqsam_ui.guard import LOOPBACK
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient

from tests.ui.driving import image_file

POINTS = [[105.0, 90.0], [20.5, 180.25]]
LABELS = [1, 0]
UNKNOWN = "0" * 64

Start = Callable[..., AbstractContextManager[TestClient]]


@pytest.fixture
def start(server: TritonServer) -> Start:
    """Starts the app with the options of `create_app`."""

    def run(url: str = server.grpc_url, **options: Any) -> TestClient:
        options.setdefault("hosts", LOOPBACK)
        app = create_app(lambda: AsyncHQSam(url, timeout_s=TIMEOUT_S), **options)
        return TestClient(app, base_url="http://localhost:7860")

    return run


@pytest.fixture
def client(start: Start) -> Iterator[TestClient]:
    with start() as running:
        yield running


def opened(client: TestClient, photo: bytes) -> dict[str, Any]:
    answer = client.post("/api/images", content=photo)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def request(fields: object, *masks: bytes) -> bytes:
    return b"\n".join([json.dumps(fields).encode(), b"".join(masks)])


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_a_mask_is_what_the_client_gets(client: TestClient, photo: bytes, sam: HQSam) -> None:
    image_id = opened(client, photo)["image_id"]
    first = client.post(
        f"/api/images/{image_id}/mask", content=request({"points": POINTS, "labels": LABELS})
    )
    theirs = sam.open(photo)
    expected = theirs.segment([(105, 90), (20.5, 180.25)], LABELS)
    logits = np.frombuffer(first.content, "<f4").reshape(256, 256)
    np.testing.assert_array_equal(logits, expected.low_res_logits)
    assert float(first.headers["x-mask-iou"]) == pytest.approx(expected.iou, abs=1e-6)
    assert first.headers["server-timing"].startswith("segment;dur=")

    box = [20, 30, 200, 180]
    refined = client.post(
        f"/api/images/{image_id}/mask",
        content=request({"box": box, "mode": "best"}, first.content),
    )
    expected = theirs.segment(box=box, refine=expected, mode="best")
    np.testing.assert_array_equal(
        np.frombuffer(refined.content, "<f4").reshape(256, 256), expected.low_res_logits
    )


def test_an_image_is_encoded_once(client: TestClient, photo: bytes) -> None:
    first, second = opened(client, photo), opened(client, photo)
    assert (first["width"], first["height"]) == (300, 200)
    assert (first["known"], second["known"]) == (False, True)
    assert first["image_id"] == second["image_id"]


def test_a_dropped_image_can_be_sent_again(start: Start, photo: bytes) -> None:
    with start(kept_bytes=len(photo)) as client:
        image_id = opened(client, photo)["image_id"]
        opened(client, image_file(300, 200))
        ask = request({"points": [[1, 1]]})
        answer = client.post(f"/api/images/{image_id}/mask", content=ask)
        assert code(answer) == (404, "unknown-image")
        assert opened(client, photo)["known"] is True
        assert client.post(f"/api/images/{image_id}/mask", content=ask).status_code == 200


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0" + bytes(200)])
def test_a_file_that_is_not_an_image_is_refused(client: TestClient, content: bytes) -> None:
    assert code(client.post("/api/images", content=content)) == (422, "image")


def test_a_truncated_image_is_refused(client: TestClient, photo: bytes) -> None:
    answer = client.post("/api/images", content=photo[: len(photo) // 2])
    assert code(answer) == (422, "refused")


def test_a_file_over_the_limit_is_refused(start: Start, photo: bytes) -> None:
    with start(max_image_bytes=len(photo) - 1) as client:
        assert code(client.post("/api/images", content=photo)) == (413, "too-large")
        # Without a length, the body is read up to the limit.
        answer = client.post("/api/images", content=iter([photo[:100], photo[100:]]))
        assert code(answer) == (413, "too-large")
        assert client.get("/api/status").json()["max_image_bytes"] == len(photo) - 1


MASK = bytes(4 * 256 * 256)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", (400, "request")),
        (b"[" * 100_000, (400, "request")),
        (b"[]", (400, "request")),
        (b"\xff\xfe", (400, "request")),
        (request({"points": [[1, 2]]}, MASK[:-1]), (400, "request")),
        (request({"points": [[1, 2]]}, b"\x00\x00\xc0\x7f" + MASK[4:]), (400, "request")),
        (request({"points": [[1, 2]], "mode": ["hq"]}), (400, "request")),
        (request({"points": [[[1, 2]]]}), (400, "request")),
        (request({"points": "ab"}), (400, "request")),
        (request({"points": [[1, 2]], "mode": "other"}), (422, "prompt")),
        (request({"points": [[1, 2]], "labels": [7]}), (422, "prompt")),
        (request({"points": [[1, 201]]}), (422, "prompt")),
        (request({"points": [[1, float("nan")]]}), (422, "prompt")),
        (request({"points": [[1, 10**400]]}), (422, "prompt")),
        (request({"box": [5, 5, 5, 9]}), (422, "prompt")),
        (request({"box": {"a": 1}}), (422, "prompt")),
        (request({}), (422, "prompt")),
        (request({"points": [[1, 2]] * 200}), (422, "refused")),
        (b" " * 700_000, (413, "too-large")),
    ],
)
def test_a_wrong_prompt_is_refused(
    client: TestClient, photo: bytes, content: bytes, expected: tuple[int, str]
) -> None:
    image_id = opened(client, photo)["image_id"]
    assert code(client.post(f"/api/images/{image_id}/mask", content=content)) == expected


def test_nothing_gives_an_image_back(client: TestClient, photo: bytes) -> None:
    """Not even to those who know its `image_id`."""
    image_id = opened(client, photo)["image_id"]
    nothing = np.full((256, 256), -1, np.float32).tobytes()
    content = request({"objects": [{"color": [1, 2, 3]}], "points": [[1, 1]]}, nothing)
    for name in ("overlay.png", "mask.png", "coco.json", "image", "shown", ""):
        path = f"/api/images/{image_id}/{name}"
        for answer in (client.get(path), client.post(path, content=content)):
            assert answer.status_code in (404, 405), name


def test_a_deep_image_is_drawn_as_the_model_sees_it(client: TestClient) -> None:
    values = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (40, 1))
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF")
    answer = client.post("/api/shown", content=buffer.getvalue())
    assert answer.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(answer.content)) as image:
        grey = np.asarray(image.convert("L"), np.int16)
    assert np.abs(grey - (values >> 8)).max() <= 3
    assert code(client.post("/api/shown", content=b"nothing")) == (422, "image")


def picture(client: TestClient, content: bytes) -> NDArray[np.int16]:
    """Return what the page shows of a file, RGB."""
    answer = client.post("/api/shown", content=content)
    assert answer.status_code == 200, answer.text
    with Image.open(io.BytesIO(answer.content)) as image:
        return np.asarray(image.convert("RGB"), np.int16)


def test_a_heic_file_is_shown_upright_and_has_the_mask_of_its_pixels(
    client: TestClient, sam: HQSam, photo: bytes
) -> None:
    heic = image_files.heic(Image.open(io.BytesIO(photo)), orientation=6)
    pixels = sam.open(heic).full_image()
    assert np.abs(picture(client, heic) - np.asarray(pixels)).mean() < 2
    answer = opened(client, heic)
    assert (answer["width"], answer["height"]) == pixels.size == (200, 300)
    assert answer["sha256"] == hashlib.sha256(heic).hexdigest() != answer["image_id"]
    found = client.post(
        f"/api/images/{answer['image_id']}/mask", content=request({"points": POINTS[:1]})
    )
    expected = sam.segment(image_files.encoded(pixels), points=[(105, 90)])
    logits = np.frombuffer(found.content, "<f4").reshape(256, 256)
    np.testing.assert_allclose(logits, expected.low_res_logits, atol=1e-3)


def test_with_a_range_deep_images_are_shown_and_segmented_within_it(
    start: Start, client: TestClient, sam: HQSam
) -> None:
    values = np.tile(np.linspace(0, 4095, 300).astype(np.uint16), (200, 1))
    tiff = image_files.encoded(Image.fromarray(values), "TIFF")
    for call in ("/api/images", "/api/shown"):
        answer = client.post(call, content=tiff)
        assert code(answer) == (422, "image")
        assert "--value-range 0,4095" in answer.json()["message"]
    with start(value_range=(0, 4095)) as ranged:
        assert np.abs(picture(ranged, tiff)[..., 0] - values / 4095 * 255).max() < 3
        assert opened(ranged, tiff)["image_id"] == sam.open(tiff, value_range=(0, 4095)).image_id


@pytest.mark.parametrize("mode", ["RGB", "P", "L", "RGBA", "CMYK", "I;16", "F", "1"])
def test_a_large_image_is_drawn_smaller(mode: str) -> None:
    source = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (100, 1)))
    if mode == "I;16":
        source = Image.fromarray(np.asarray(source).astype(np.uint16) << 8)
    else:
        source = source.convert(mode)
    buffer = io.BytesIO()
    source.save(buffer, "TIFF")
    with Image.open(io.BytesIO(pictures.shown(buffer.getvalue(), max_pixels=5000))) as image:
        assert image.mode == "RGB" and image.size == (100, 50)


def test_slow_requests_end(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "BODY_TIMEOUT_S", 0.05)

    async def read(request: object, limit_bytes: int) -> bytes:
        await asyncio.Event().wait()
        return b""

    monkeypatch.setattr(wire, "_read", read)
    assert code(client.post("/api/images", content=b"image")) == (408, "slow")


def test_constants_agree(client: TestClient) -> None:
    assert Limits().max_bytes == MAX_IMAGE_BYTES
    script = client.get("/js/mask/field.js").text
    assert f"const MASK_SIZE = {contract.MASK_SIZE};" in script
    assert f"const INPUT_SIZE = {contract.INPUT_SIZE};" in script
    endings = re.search(r"ENDING = /(.+)/i;", client.get("/js/dropping.js").text)
    assert endings is not None
    assert all(re.search(endings[1], f"photo{ending}") for ending in IMAGE_ENDINGS)


def test_without_a_server_the_page_says_so(start: Start, photo: bytes, unused_address: str) -> None:
    with start(url=unused_address) as client:
        assert client.get("/").status_code == 200
        status = client.get("/api/status").json()
        assert status["ready"] is False
        assert status["model"] is None
        assert code(client.post("/api/images", content=photo)) == (503, "unavailable")


def test_everything_carries_the_security_headers(client: TestClient) -> None:
    for path in ("/", "/js/main.js", "/api/status", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; ")
        assert "unsafe" not in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "set-cookie" not in headers
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example:7860", "127.0.0.1.evil", "", "[::1", "a@b"]
)
def test_another_host_name_is_refused(client: TestClient, host: str) -> None:
    assert code(client.get("/api/status", headers={"host": host})) == (421, "host")


@pytest.mark.parametrize("host", ["localhost:7860", "127.0.0.1:1", "[::1]:7860", "LOCALHOST"])
def test_its_own_host_names_are_accepted(client: TestClient, host: str) -> None:
    assert client.get("/api/status", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["192.0.2.7:7860", "[2001:db8::1]:7860", "HERE.example"])
def test_on_other_addresses_names_are_checked_too(start: Start, host: str) -> None:
    """An address cannot be rebound by a name server; a name can."""
    with start(hosts=["localhost", "here.example"], any_address=True) as client:
        assert client.get("/api/status", headers={"host": host}).status_code == 200
        answer = client.get("/api/status", headers={"host": "rebound.example:7860"})
        assert code(answer) == (421, "host")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1"])
def test_other_pages_are_refused(client: TestClient, photo: bytes, origin: str) -> None:
    answer = client.post("/api/images", content=photo, headers={"origin": origin})
    assert code(answer) == (403, "origin")


@pytest.mark.parametrize(
    "path",
    [
        "/js/../../app.py",
        "/js/%2e%2e/%2e%2e/app.py",
        "/..%2fapp.py",
        "//etc/passwd",
        "/js/",
        "/app.py",
        "/js/main.js/..",
    ],
)
def test_nothing_but_the_page_can_be_fetched(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "import" not in answer.text


@pytest.mark.parametrize("image_id", [UNKNOWN, "..", "%2e%2e", "x" * 5000])
def test_an_unknown_image_has_no_masks(client: TestClient, image_id: str) -> None:
    ask = request({"points": [[1, 1]]})
    answer = client.post(f"/api/images/{image_id}/mask", content=ask)
    assert answer.status_code in (404, 405)


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    """It works without a network, and no other site learns of its use."""
    paths = {route.path for route in client.app.routes}  # type: ignore[attr-defined]
    texts = {path: client.get(path).text for path in paths if path.endswith((".js", ".css", "/"))}
    assert {"/", "/style.css", "/js/main.js"} <= set(texts)
    for path, text in texts.items():
        # The libraries name their sources in comments.
        code_alone = re.sub(r"^ *//.*$", "", text, flags=re.M)
        assert "http://" not in code_alone and "https://" not in code_alone, path
        assert "innerHTML" not in text and "eval(" not in text, path
        assert "style=" not in text and "onclick=" not in text, path
