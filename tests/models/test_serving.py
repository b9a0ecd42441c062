"""The models in a running Triton."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import io
import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from hqsam_client import contract
from hqsam_client.mask import Mask
from hqsam_client.shared.modes import Mode, choice, combine
from hqsam_server import Front, TritonServer, Tuning
from hqsam_server.launcher.process import instances
from hqsam_server.models.preprocess import Limits
from hqsam_testing import cheap_repository as cheap
from hqsam_testing import image_files
from hqsam_testing.api import Api, new_png, point, serve
from hqsam_testing.oracle import images
from hqsam_testing.preprocess import preprocess
from hqsam_testing.waiting import TIMEOUT_S, wait_until
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image
from tritonclient.utils import InferenceServerException

from tests.models.conftest import MAX_WAITING, STORE_ENTRIES
from tests.models.test_segment import BAD_PROMPTS, prompts

MASKS = [spec.name for spec in contract.PROMPT_DECODER.outputs]

BAD_IMAGES = {
    "no image": (b"no image", "not an image that can be read"),
    "no bytes": (b"", "not an image that can be read"),
    "truncated": (image_files.png(300, 200)[:5000], "truncated or damaged"),
    "a bomb": (image_files.bomb(), "100000 x 100000 pixels, expected at most"),
    "too many bytes": (image_files.png() + bytes(1_000_000), "bytes, expected at most 1000000"),
}


def fails(call: Callable[[], Any]) -> tuple[str, str]:
    """Return code and message of the error that a call ends with."""
    with pytest.raises(InferenceServerException) as caught:
        call()
    return caught.value.status(), caught.value.message()


def hq_sam_inputs(encoded: bytes) -> dict[str, NDArray[Any]]:
    return {
        "encoded_image": np.frombuffer(encoded, np.uint8),
        **point(),
        "mask_input": np.zeros((1, 1, 256, 256), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
    }


def test_encodes_give_way_to_clicks(server: TritonServer, api: Api) -> None:
    api.embed(new_png())
    own = psutil.Process(server.pid).nice()
    computed_at = {
        name.rsplit("_", 2)[0]: _niceness_of_the_work(pid)
        for pid, name in instances(server.pid).items()
    }
    for model in ("preprocess", "encoder", "features"):
        assert computed_at[model] == 19
    for model in ("embed", "segment"):
        assert computed_at[model] == own


def _niceness_of_the_work(pid: int) -> int:
    """Return the niceness of the threads that did most of a process's work."""
    seconds: defaultdict[int, float] = defaultdict(float)
    for thread in psutil.Process(pid).threads():
        seconds[os.getpriority(os.PRIO_PROCESS, thread.id)] += thread.user_time
    return max(seconds, key=seconds.__getitem__)


@pytest.mark.parametrize("model", ["preprocess", "hq_sam", "embed"])
@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_is_an_invalid_argument(api: Api, model: str, name: str) -> None:
    encoded, expected = BAD_IMAGES[name]
    inputs = hq_sam_inputs(encoded)
    if model != "hq_sam":
        inputs = {"encoded_image": inputs["encoded_image"]}
    status, message = fails(lambda: api.infer(model, inputs))
    assert (status, expected in message) == ("StatusCode.INVALID_ARGUMENT", True), message


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (1, 1)),
        Image.new("RGB", (1, 20000)),
        Image.new("RGB", (20000, 1)),
        *(Image.new(mode, (30, 20)) for mode in ("L", "LA", "P", "RGBA", "I;16", "1")),
    ],
    ids=lambda image: f"{image.mode}-{image.width}x{image.height}",
)
def test_images_of_every_mode_and_shape_can_be_segmented(api: Api, image: Image.Image) -> None:
    image_id, size, _ = api.embed(image_files.encoded(image))
    assert size == (image.height, image.width)
    assert api.segment(image_id)["original_size"].tolist() == list(size)


def test_preprocess_answers_what_the_function_does(api: Api) -> None:
    encoded = image_files.png(300, 200)
    outputs = api.infer("preprocess", {"encoded_image": np.frombuffer(encoded, np.uint8)})
    image, size = preprocess(encoded, Limits())
    assert np.array_equal(outputs["image"], image)
    assert outputs["original_size"].tolist() == list(size)


def test_a_stored_image_gives_the_masks_of_the_whole_pipeline(api: Api) -> None:
    encoded = new_png()
    whole = api.infer("hq_sam", hq_sam_inputs(encoded))
    image_id, size, _ = api.embed(encoded)
    outputs = api.segment(image_id)
    assert whole["original_size"].tolist() == list(size)
    assert np.allclose(outputs["low_res_masks"], whole["low_res_masks"], atol=2e-3)
    assert np.allclose(outputs["iou_predictions"], whole["iou_predictions"], atol=1e-3)


def test_prompts_in_one_request_give_the_masks_of_single_requests(api: Api) -> None:
    image_id, _, _ = api.embed(new_png())
    points = [point(100 * number, 80 * number) for number in range(9)]
    together = api.segment(
        image_id, {name: np.concatenate([it[name] for it in points]) for name in points[0]}
    )
    for number, inputs in enumerate(points):
        alone = api.segment(image_id, inputs)
        for name in MASKS:
            assert np.allclose(together[name][number], alone[name][0], atol=2e-3)


def test_only_requested_outputs_travel(api: Api) -> None:
    image_id, _, _ = api.embed(new_png())
    outputs = api.segment(image_id, outputs=["iou_predictions", "original_size"])
    assert set(outputs) == {"iou_predictions", "original_size"}
    assert set(api.segment(image_id)) == {*MASKS, "original_size"}


def two_prompts() -> dict[str, NDArray[Any]]:
    points = [point(300, 200), point(600, 500)]
    return {name: np.concatenate([it[name] for it in points]) for name in points[0]}


SIDEWAYS = 6
"""An EXIF orientation: what is stored as 57 x 41 pixels is 41 x 57 upright."""


@pytest.mark.parametrize("mode", ["hq", "hq+sam", "best"])
@pytest.mark.parametrize(
    ("shape", "orientation"), [((57, 41), 1), ((57, 41), SIDEWAYS), ((1, 301), 1), ((1300, 907), 1)]
)
def test_finished_masks_are_those_that_the_client_makes_of_the_logits(
    api: Api, mode: Mode, shape: tuple[int, int], orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(images.draw(*shape))
    image_id, size, _ = api.embed(image_files.encoded(image, "JPEG", exif=exif))
    assert size == (shape if orientation == SIDEWAYS else shape[::-1])
    outputs = api.segment(
        image_id,
        {**two_prompts(), "mode": np.array([mode.encode()], np.object_)},
        [*MASKS, *contract.FINISHED_OUTPUTS],
    )
    logits, ious = combine(outputs, choice(mode))
    assert outputs["box"].dtype == np.int32
    assert outputs["area"].dtype == np.int64
    for number, (one, iou) in enumerate(zip(logits, ious, strict=True)):
        mask = Mask(one, float(iou), size)
        rle = {"size": list(size), "counts": outputs["mask_rle"][number].decode()}
        assert rle == mask.rle()
        with Image.open(io.BytesIO(outputs["mask_png"][number])) as png:
            assert np.array_equal(np.asarray(png), mask.array)
        assert tuple(outputs["box"][number]) == (mask.box or (0, 0, 0, 0))
        assert outputs["area"][number] == mask.area


def test_only_good_masks_are_finished_and_at_the_size_that_is_asked_for(api: Api) -> None:
    image_id, _, _ = api.embed(image_files.encoded(Image.fromarray(images.draw(120, 80)), "PNG"))
    size = (800, 1200)
    inputs = {
        **two_prompts(),
        "mode": np.array([b"best"], np.object_),
        "mask_size": np.array(size, np.int32),
    }
    outputs = api.segment(image_id, inputs, [*MASKS, *contract.FINISHED_OUTPUTS])
    logits, ious = combine(outputs, choice("best"))
    masks = [Mask(one, float(iou), size) for one, iou in zip(logits, ious, strict=True)]
    for number, mask in enumerate(masks):
        assert outputs["mask_rle"][number].decode() == mask.rle()["counts"]
        inner, outer = (mask.logits > cut for cut in (1, -1))
        assert outputs["stability_score"][number] == pytest.approx(inner.sum() / outer.sum())
    scores = outputs["stability_score"]
    assert scores[0] != scores[1]
    inputs["stability_score_thresh"] = np.array([scores.max()], np.float32)
    found = api.segment(image_id, inputs, ["mask_rle"])["mask_rle"]
    assert [text != b"" for text in found] == [score == scores.max() for score in scores]


def test_finished_masks_are_of_the_hq_mask_and_need_no_other_output(api: Api) -> None:
    image_id, _, _ = api.embed(new_png())
    finished = api.segment(image_id, outputs=["area", "mask_rle"])
    assert finished.keys() == {"area", "mask_rle"}
    named = {**point(), "mode": np.array([b"hq"], np.object_)}
    assert api.segment(image_id, named, ["mask_rle"])["mask_rle"] == finished["mask_rle"]


@pytest.mark.parametrize("mode", ["", "HQ", "worst", "hq" * 5000])
def test_an_unknown_mode_is_an_invalid_argument(api: Api, mode: str) -> None:
    image_id, _, _ = api.embed(image_files.png())
    inputs = {**point(), "mode": np.array([mode.encode()], np.object_)}
    status, message = fails(lambda: api.segment(image_id, inputs))
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert "expected one of 'hq', 'hq+sam', 'best'" in message
    assert len(message) < 200


def test_a_finished_mask_over_http_is_text_or_a_file(api: Api, server: TritonServer) -> None:
    image_id, _, _ = api.embed(new_png())
    expected = api.segment(image_id, outputs=["mask_rle", "mask_png"])

    def ask(output: str, binary: bool) -> tuple[int, bytes, str | None]:
        parts = [
            {"name": "image_id", "datatype": "BYTES", "shape": [1], "data": [image_id]},
            {"name": "point_coords", "datatype": "FP32", "shape": [1, 1, 2], "data": [512, 300]},
            {"name": "point_labels", "datatype": "FP32", "shape": [1, 1], "data": [1]},
        ]
        wanted = {"name": output, "parameters": {"binary_data": binary}}
        body = json.dumps({"inputs": parts, "outputs": [wanted]})
        connection = http.client.HTTPConnection(server.http_url, timeout=TIMEOUT_S)
        connection.request("POST", "/v2/models/segment/infer", body)
        response = connection.getresponse()
        length = response.getheader("inference-header-content-length")
        return response.status, response.read(), length

    status, body, _ = ask("mask_rle", False)
    (output,) = json.loads(body)["outputs"]
    assert (status, output["data"]) == (200, [expected["mask_rle"][0].decode()])
    status, body, length = ask("mask_png", True)
    assert status == 200
    assert length is not None
    assert body[int(length) + 4 :] == expected["mask_png"][0]
    status, body, _ = ask("mask_png", False)
    assert status == 400
    assert b"the output mask_png is no text: ask for it with" in body


def test_an_unknown_image_is_not_found_until_it_is_embedded(api: Api, store: Path) -> None:
    encoded = new_png()
    digest = hashlib.sha256(encoded).hexdigest()
    unknown = (digest, (0, 0), False)

    assert fails(lambda: api.segment(digest))[0] == "StatusCode.NOT_FOUND"
    assert api.embed(image_id=digest) == unknown
    stored = api.embed(encoded, digest)
    assert (stored[0], stored[2]) == (digest, False)
    assert api.embed(image_id=digest) == (digest, stored[1], True)
    assert api.embed(encoded) == (digest, stored[1], True)
    first = api.segment(digest)
    for entry in store.glob(f"*{digest}*"):
        entry.unlink()
    assert fails(lambda: api.segment(digest))[0] == "StatusCode.NOT_FOUND"
    api.embed(encoded)
    assert np.allclose(api.segment(digest)["low_res_masks"], first["low_res_masks"], atol=1e-5)


def test_a_damaged_entry_is_not_found(api: Api, store: Path) -> None:
    encoded = new_png()
    image_id, _, _ = api.embed(encoded)
    (entry,) = store.glob(f"*{image_id}*")
    entry.write_bytes(entry.read_bytes()[:-100])
    assert fails(lambda: api.segment(image_id))[0] == "StatusCode.NOT_FOUND"
    assert not api.embed(encoded)[2]
    api.segment(image_id)


@pytest.mark.parametrize("image_id", ["", "../../../etc/passwd", "F" * 64, "f" * 64 + "\n", "ä"])
def test_a_malformed_image_id_is_an_invalid_argument(api: Api, image_id: str) -> None:
    for call in (lambda: api.segment(image_id), lambda: api.embed(image_id=image_id)):
        status, message = fails(call)
        assert status == "StatusCode.INVALID_ARGUMENT"
        assert "expected 64 lower-case hex digits" in message


def test_embed_takes_bytes_or_a_digest_and_refuses_two_that_disagree(api: Api) -> None:
    for call in (api.embed, lambda: api.embed(new_png(), "0" * 64)):
        assert fails(call)[0] == "StatusCode.INVALID_ARGUMENT"


# Triton itself refuses what has another rank than the contract says.
@pytest.mark.parametrize(
    "name", sorted(BAD_PROMPTS.keys() - {"too many prompts", "too many points"})
)
def test_bad_prompts_are_an_invalid_argument(api: Api, name: str) -> None:
    image_id, _, _ = api.embed(image_files.png())
    status, message = fails(lambda: api.segment(image_id, {**prompts(1), **BAD_PROMPTS[name][0]}))
    assert status == "StatusCode.INVALID_ARGUMENT", message


def test_too_many_prompts_or_points_are_an_invalid_argument(api: Api) -> None:
    image_id, _, _ = api.embed(image_files.png())
    many_points = {
        "point_coords": np.zeros((1, 129, 2), np.float32),
        "point_labels": np.ones((1, 129), np.float32),
    }
    for inputs in (prompts(257), many_points):
        status, message = fails(lambda inputs=inputs: api.segment(image_id, inputs))  # type: ignore[misc]
        assert status == "StatusCode.INVALID_ARGUMENT"
        assert "expected 1 to" in message


@pytest.mark.parametrize("name", ["point_coords", "point_labels", "has_mask_input"])
def test_a_wrong_dtype_is_an_invalid_argument(api: Api, name: str) -> None:
    image_id, _, _ = api.embed(image_files.png())
    inputs: dict[str, NDArray[Any]] = {**prompts(1), "has_mask_input": np.zeros(1, np.float32)}
    inputs[name] = inputs[name].astype(np.float64)
    status, message = fails(lambda: api.segment(image_id, inputs))
    assert status == "StatusCode.INVALID_ARGUMENT", message


def test_bad_requests_do_not_affect_their_neighbours(api: Api) -> None:
    encoded = new_png()
    image_id, _, _ = api.embed(encoded)
    expected = api.segment(image_id)["low_res_masks"]
    nan = {**point(), "point_coords": np.full((1, 2, 2), np.nan, np.float32)}
    with ThreadPoolExecutor(8) as pool:
        bad = [
            pool.submit(fails, call)
            for call in (lambda: api.segment(image_id, nan), lambda: api.embed(b"no image"))
            for _ in range(8)
        ]
        good = [pool.submit(api.segment, image_id) for _ in range(8)]
    assert {future.result()[0] for future in bad} == {"StatusCode.INVALID_ARGUMENT"}
    for future in good:
        assert np.allclose(future.result()["low_res_masks"], expected, atol=1e-5)


def test_two_clients_that_embed_the_same_image_cost_one_encode(
    api: Api, server: TritonServer
) -> None:
    encoded = new_png()
    before = api.metric("encodes_total")
    with Api(server) as other, ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(client.embed, encoded) for client in (api, other) for _ in range(3)]
    assert len({future.result()[:2] for future in futures}) == 1
    assert api.metric("encodes_total") == before + 1


@contextmanager
def writes_held_up(store: Path) -> Iterator[None]:
    """Hold the write lock, as another process does: no encode can finish."""
    with (store / ".write.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_questions_and_clicks_do_not_wait_behind_encodes(api: Api, store: Path) -> None:
    image_id, size, _ = api.embed(new_png())
    with ThreadPoolExecutor(6) as pool:
        with writes_held_up(store):
            encodes = [pool.submit(api.embed, new_png()) for _ in range(6)]
            assert api.embed(image_id=image_id) == (image_id, size, True)
            api.segment(image_id)
            assert not any(future.done() for future in encodes)
        assert not any(future.result()[2] for future in encodes)


def test_a_full_queue_is_unavailable_at_once_and_the_others_are_served(
    api: Api, store: Path
) -> None:
    answers: Queue[str] = Queue()

    def embed() -> None:
        try:
            api.embed(new_png())
            answers.put("OK")
        except InferenceServerException as error:
            answers.put(error.status())

    with ThreadPoolExecutor(MAX_WAITING + 3) as pool:
        with writes_held_up(store):
            for _ in range(MAX_WAITING + 3):
                pool.submit(embed)
            refused = [answers.get(timeout=120) for _ in range(3)]
        served = [answers.get(timeout=120) for _ in range(MAX_WAITING)]
    assert set(refused) == {"StatusCode.UNAVAILABLE"}
    assert set(served) == {"OK"}


def test_an_encode_that_was_cancelled_in_the_queue_does_not_run(api: Api, store: Path) -> None:
    before = api.metric("encodes_total")
    with ThreadPoolExecutor(2) as pool:
        with writes_held_up(store):
            encodes = [pool.submit(api.embed, new_png()) for _ in range(2)]
            wait_until(
                lambda: api.metric("encodes_total") >= before + 2, "both workers to be held up"
            )
            status, _ = fails(lambda: api.embed(new_png(), timeout_s=0.2))
        assert not any(future.result()[2] for future in encodes)
    assert status == "StatusCode.DEADLINE_EXCEEDED"
    api.embed(new_png())  # the cancelled one came before it in the queue
    assert api.metric("encodes_total") == before + 3


@pytest.mark.slow
def test_readers_see_whole_entries_while_others_are_evicted(api: Api, store: Path) -> None:
    shown = [new_png() for _ in range(STORE_ENTRIES + 2)]
    expected = {}
    for encoded in shown:
        image_id, _, _ = api.embed(encoded)
        expected[image_id] = (encoded, api.segment(image_id)["low_res_masks"])
    before = api.metric("store_evictions_total")

    def read(image_id: str) -> NDArray[Any]:
        while True:
            try:
                return api.segment(image_id)["low_res_masks"]
            except InferenceServerException as error:
                assert error.status() == "StatusCode.NOT_FOUND"
                api.embed(expected[image_id][0])

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(read, [*expected, *expected]))
    for image_id, masks in zip([*expected, *expected], found, strict=True):
        assert np.allclose(masks, expected[image_id][1], atol=1e-5)
    assert api.metric("store_evictions_total") > before
    entries = list(store.glob("*.safetensors"))
    assert len(entries) <= STORE_ENTRIES
    assert api.metric("store_entries") == len(entries)
    assert api.metric("store_bytes") == sum(entry.stat().st_size for entry in entries)


def test_hits_misses_and_prompts_are_counted_across_processes(api: Api) -> None:
    names = ("store_hits_total", "store_misses_total", "prompts_total")
    before = [api.metric(name) for name in names]
    image_id, _, _ = api.embed(new_png())  # a miss
    api.embed(image_id=image_id)  # a hit
    api.segment(image_id, prompts(3))  # a hit
    fails(lambda: api.segment("0" * 64))  # a miss
    counted = [api.metric(name) - old for name, old in zip(names, before, strict=True)]
    assert counted == [2, 2, 3]


def test_embed_is_unavailable_while_the_encoders_process_is_dead(
    api: Api, server: TritonServer
) -> None:
    for process, instance in instances(server.pid).items():
        if instance.startswith("encoder_"):
            os.kill(process, signal.SIGKILL)
    status, message = fails(lambda: api.embed(new_png()))
    assert status == "StatusCode.UNAVAILABLE"
    assert "encode failed" in message
    server.reload("encoder", timeout_s=TIMEOUT_S)
    api.embed(new_png())


def test_the_stateless_prompt_decoder_is_served_where_it_is_opened(
    cheap_repository: Path, tmp_path: Path
) -> None:
    inputs = {
        spec.name: np.zeros([1 if side == -1 else side for side in spec.shape], np.float32)
        for spec in contract.PROMPT_DECODER.inputs
    }
    with (
        TritonServer(
            cheap_repository,
            tuning=Tuning(model_config_name="none"),
            environment={"HQSAM_STORE_FOLDER": str(tmp_path)},
            front=Front(open_models=("prompt_decoder",)),
            start_timeout_s=TIMEOUT_S,
            log=sys.stdout,
        ) as server,
        Api(server) as other,
    ):
        assert other.infer("prompt_decoder", inputs).keys() == set(MASKS)


@pytest.mark.slow
def test_many_threads_report_to_the_same_metrics(cheap_repository: Path, tmp_path: Path) -> None:
    """Triton 2.51 dies of two reports to one metric at once, within a few dozen clicks."""
    tuning = Tuning(model_config_name="none")
    environment = {"HQSAM_STORE_FOLDER": str(tmp_path)}
    with (
        TritonServer(cheap_repository, tuning=tuning, environment=environment) as server,
        Api(server) as api,
        ThreadPoolExecutor(16) as pool,
    ):
        before = instances(server.pid)
        image_id, _, _ = api.embed(new_png())
        list(pool.map(lambda _: api.segment(image_id), range(300)))
        assert api.metric("prompts_total") == 300
        assert instances(server.pid) == before


@pytest.mark.slow
def test_servers_of_different_precision_share_a_folder_and_no_embeddings(
    tiny_repository: Path, tmp_path: Path
) -> None:
    encoded = new_png()
    for precision in ("bf16", "fp32"):
        environment = {"HQSAM_STORE_FOLDER": str(tmp_path)}
        tuning = Tuning(precision=precision)
        with (
            TritonServer(tiny_repository, tuning=tuning, environment=environment) as server,
            Api(server) as api,
        ):
            image_id = hashlib.sha256(encoded).hexdigest()
            assert fails(lambda: api.segment(image_id))[0] == "StatusCode.NOT_FOUND"  # noqa: B023
            assert not api.embed(encoded)[2]
            api.segment(image_id)
    assert len(list(tmp_path.glob(f"*{image_id}*"))) == 2


def test_a_decoder_that_always_fails_is_internal_and_not_retryable(tmp_path: Path) -> None:
    repository = cheap.write(tmp_path / "repository")
    path = repository / "prompt_decoder" / "1" / "model.onnx"
    model = onnx.load(path)
    # An index far beyond the labels: each run fails.
    index = helper.make_tensor("far", TensorProto.INT64, [1], [10**6])
    model.graph.initializer.append(index)
    model.graph.node.insert(0, helper.make_node("Gather", ["point_labels", "far"], ["taken"]))
    for node in model.graph.node:
        if node.op_type == "ReduceMean" and node.input[0] == "point_labels":
            node.input[0] = "taken"
    onnx.save(model, path)
    # Without a config of that name: on ONNX Runtime.
    tuning = Tuning(model_config_name="none")
    environment = {"HQSAM_STORE_FOLDER": str(tmp_path / "store")}
    with (
        TritonServer(repository, tuning=tuning, environment=environment) as server,
        Api(server) as api,
    ):
        image_id, _, _ = api.embed(new_png())
        status, message = fails(lambda: api.segment(image_id))
    assert status == "StatusCode.INTERNAL"
    assert "the prompt decoder failed" in message


@pytest.mark.slow
def test_a_store_outlives_its_server(tiny_repository: Path, tmp_path: Path) -> None:
    encoded = new_png()
    with serve(tiny_repository, tmp_path, {}) as server, Api(server) as api:
        image_id, size, _ = api.embed(encoded)
        masks = api.segment(image_id)["low_res_masks"]
    with serve(tiny_repository, tmp_path, {}) as server, Api(server) as api:
        assert api.embed(image_id=image_id) == (image_id, size, True)
        assert np.allclose(api.segment(image_id)["low_res_masks"], masks, atol=1e-5)
        assert api.metric("encodes_total") == 0
        assert api.metric("store_entries") == 1
