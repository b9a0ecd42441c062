"""The page's server, without a browser."""

from __future__ import annotations

import gc
import io
import json
import re
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
from hqsam_client import AsyncHQSam, HQSam, Mask, contract
from hqsam_client.drawing import COLORS
from hqsam_server import TritonServer
from hqsam_server.models.preprocess import Limits
from hqsam_testing.waiting import TIMEOUT_S
from hqsam_ui.app import MAX_IMAGE_BYTES, create_app
from hqsam_ui.guard import LOOPBACK
from PIL import Image
from pycocotools import mask as coco
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


def test_downloads_hold_the_exact_masks(client: TestClient, photo: bytes, sam: HQSam) -> None:
    image_id = opened(client, photo)["image_id"]
    masks = sam.open(photo).segment(boxes=[(20, 30, 200, 180), (100, 10, 290, 150)])
    colors = [[30, 144, 255], [255, 127, 14]]
    entries = [{"color": color, "iou": 0.5} for color in colors]
    content = request(
        {"objects": entries, "name": "photo.png"},
        *(mask.low_res_logits.tobytes() for mask in masks),
    )
    got = {
        name: client.post(f"/api/images/{image_id}/{name}", content=content)
        for name in ("mask.png", "overlay.png", "coco.json")
    }
    with Image.open(io.BytesIO(got["mask.png"].content)) as image:
        np.testing.assert_array_equal(np.asarray(image), masks[0].array * 255)
    drawn = masks[1].overlay(masks[0].overlay(color=(30, 144, 255)), (255, 127, 14))
    with Image.open(io.BytesIO(got["overlay.png"].content)) as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(drawn))
    data = got["coco.json"].json()
    assert data["images"] == [
        {"id": 1, "file_name": "photo.png", "width": 300, "height": 200, "sha256": image_id}
    ]
    for annotation, mask in zip(data["annotations"], masks, strict=True):
        assert annotation["segmentation"] == mask.rle()
        assert annotation["area"] == mask.area == int(coco.area(annotation["segmentation"]))
        x, y, width, height = annotation["bbox"]
        assert (x, y, x + width, y + height) == mask.box


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


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("mask.png", request({}), (400, "request")),
        ("mask.png", request({"objects": []}), (400, "request")),
        ("mask.png", request({"objects": [{}, {}]}, MASK), (400, "request")),
        ("coco.json", request({"objects": [{}] * 65}, MASK * 64), (413, "too-large")),
        ("overlay.png", request({"objects": [{"color": [1, 2]}]}, MASK), (400, "request")),
        ("overlay.png", request({"objects": [{"color": [1, 2, 256]}]}, MASK), (400, "request")),
        ("mask.tiff", request({"objects": [{}]}, MASK), (404, "request")),
    ],
)
def test_a_wrong_download_is_refused(
    client: TestClient, photo: bytes, name: str, content: bytes, expected: tuple[int, str]
) -> None:
    image_id = opened(client, photo)["image_id"]
    assert code(client.post(f"/api/images/{image_id}/{name}", content=content)) == expected


def test_an_empty_mask_can_be_downloaded(client: TestClient, photo: bytes) -> None:
    image_id = opened(client, photo)["image_id"]
    nothing = np.full((256, 256), -1, np.float32)
    content = request({"objects": [{"color": [1, 2, 3]}]}, nothing.tobytes())
    data = client.post(f"/api/images/{image_id}/coco.json", content=content).json()
    assert data["annotations"][0]["bbox"] == [0, 0, 0, 0]
    assert data["annotations"][0]["segmentation"] == Mask(nothing, 0, (200, 300)).rle()


@pytest.mark.parametrize("name", ["overlay.png", "coco.json"])
def test_a_download_takes_no_more_memory_for_more_objects(client: TestClient, name: str) -> None:
    """Or 64 objects in 128 megapixels would take 8 GB."""
    width, height = 2000, 1500
    image_id = opened(client, image_file(width, height))["image_id"]

    def peak_bytes(count: int) -> int:
        content = request(
            {"objects": [{"color": [1, 2, 3]}] * count},
            np.full((256, 256), 1, np.float32).tobytes() * count,
        )
        gc.collect()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        answer = client.post(f"/api/images/{image_id}/{name}", content=content)
        assert answer.status_code == 200
        return tracemalloc.get_traced_memory()[1] - before - 5 * len(content)

    tracemalloc.start()
    try:
        peak_bytes(2)
        few, many = peak_bytes(2), peak_bytes(12)
    finally:
        tracemalloc.stop()
    mask_bytes = width * height
    assert few > mask_bytes
    assert many < few + 2 * mask_bytes


def test_constants_agree(client: TestClient) -> None:
    assert Limits().max_bytes == MAX_IMAGE_BYTES
    script = client.get("/js/mask.js").text
    assert f"const MASK_SIZE = {contract.MASK_SIZE};" in script
    assert f"const INPUT_SIZE = {contract.INPUT_SIZE};" in script
    colors = re.findall(r"^  \[(\d+), (\d+), (\d+)\],$", client.get("/js/state.js").text, re.M)
    assert [tuple(map(int, color)) for color in colors] == list(COLORS)


def test_without_a_server_the_page_says_so(start: Start, photo: bytes, unused_address: str) -> None:
    with start(url=unused_address) as client:
        assert client.get("/").status_code == 200
        assert client.get("/api/status").json()["ready"] is False
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
        assert "http://" not in text and "https://" not in text, path
        assert "innerHTML" not in text and "eval(" not in text, path
        assert "style=" not in text and "onclick=" not in text, path
