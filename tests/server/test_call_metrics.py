"""What callers see is measured: how many calls, how they ended, how long they took."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hqsam_server import Front, TritonServer
from hqsam_testing import image_files
from hqsam_testing.api import Api, new_png, point
from hqsam_testing.waiting import wait_until
from tritonclient.utils import InferenceServerException

IMAGES = 8


@pytest.fixture(scope="module")
def api(whole_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    environment = {
        "HQSAM_STORE_FOLDER": str(tmp_path_factory.mktemp("store")),
        "HQSAM_ENCODE_WORKERS": "1",
    }
    with (
        TritonServer(
            whole_repository, front=Front(open_models=(), http=True), environment=environment
        ) as server,
        Api(server) as api,
    ):
        yield api


@pytest.mark.parametrize(
    ("model", "image_id", "counted_as", "code"),
    [
        ("segment", "0" * 64, "segment", "NOT_FOUND"),
        ("segment", "photo", "segment", "INVALID_ARGUMENT"),
        ("encoder", "0" * 64, "unknown", "NOT_FOUND"),
        ("no such model", "0" * 64, "unknown", "NOT_FOUND"),
    ],
)
def test_errors_are_counted_by_their_code(
    api: Api, model: str, image_id: str, counted_as: str, code: str
) -> None:
    def counts() -> tuple[float, float]:
        return (
            api.metric("calls_total", model=counted_as, code=code),
            api.metric("call_seconds_count", model=counted_as),
        )

    calls, measured = counts()
    with pytest.raises(InferenceServerException) as caught:
        api.infer(model, {"image_id": np.array([image_id.encode()], np.object_), **point()})
    assert caught.value.status() == f"StatusCode.{code}"
    assert counts() == (calls + 1, measured + 1)
    assert api.metric("calls_under_way", model=counted_as) == 0


@pytest.mark.slow
def test_a_line_of_images_shows_while_it_waits(api: Api) -> None:
    # What the autoscaler and the alerts read. Each image takes a moment to decode; a PNG file may
    # have something behind it.
    file = image_files.png(6000, 4000)
    images = [file + bytes([number]) for number in range(IMAGES)]
    answered = api.metric("calls_total", model="embed", code="OK")
    with ThreadPoolExecutor(IMAGES) as pool:
        answers = [pool.submit(api.embed, image) for image in images]
        wait_until(
            lambda: (
                api.metric("calls_under_way", model="embed") > IMAGES // 2
                and api.metric("encodes_waiting") > IMAGES // 2
            ),
            "images to wait",
        )
        image_ids = [answer.result()[0] for answer in answers]
    assert image_ids == [hashlib.sha256(image).hexdigest() for image in images]
    assert api.metric("calls_under_way", model="embed") == 0
    assert api.metric("encodes_waiting") == 0
    assert api.metric("calls_total", model="embed", code="OK") == answered + IMAGES
    # Most of them waited for others; the histogram saw that.
    seconds = api.metric("call_seconds_sum", model="embed")
    assert seconds > IMAGES / 2 * api.metric("call_seconds_bucket", model="embed", le="0.01")


def test_clicks_are_measured(api: Api) -> None:
    image_id, _, _ = api.embed(new_png())
    before = api.metric("call_seconds_count", model="segment")
    for _ in range(3):
        api.segment(image_id)
    assert api.metric("call_seconds_count", model="segment") == before + 3
    assert api.metric("call_seconds_bucket", model="segment", le="+Inf") == before + 3


def test_what_the_front_measures_is_for_the_metrics_page_alone(api: Api) -> None:
    method = api.client._channel.unary_unary("/hqsam.Front/Metrics")  # noqa: SLF001
    with pytest.raises(Exception, match="UNIMPLEMENTED"):
        method(b"", timeout=10)
