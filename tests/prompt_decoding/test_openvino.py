"""The decoder of `segment` on OpenVINO, with the small model."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hqsam_server import small_model
from hqsam_server.errors import StartError
from hqsam_server.prompt_decoding.decoder import Job
from hqsam_server.prompt_decoding.openvino import OpenVinoDecoder
from hqsam_server.runtime.config import Arrays, ModelFile, Tensor
from hqsam_testing import configs

from tests.prompt_decoding.jobs import OUTPUTS, embedding, expected, job

CLICK = ["low_res_masks", "iou_predictions"]


def prompt_decoder_file(precision: str = "bf16", *usual_points: int) -> ModelFile:
    """Return the small model's; only shapes with these numbers of points are usual ones."""
    config = configs.cpu_variant("prompt_decoder")
    path = small_model.FOLDER / "prompt_decoder" / "1" / "model.onnx"
    file = ModelFile.of(config, path)
    assert file.openvino is not None
    return replace(
        file,
        intra_op_threads=2,
        openvino={**file.openvino, "precision": precision},
        usual_shapes=tuple(it for it in file.usual_shapes if it["point_labels"][1] in usual_points),
    )


def opened(file: ModelFile) -> OpenVinoDecoder:
    assert file.openvino is not None
    return OpenVinoDecoder(file, file.openvino)


@pytest.fixture(scope="module")
def decoder() -> OpenVinoDecoder:
    return opened(prompt_decoder_file())


def run(decoder: OpenVinoDecoder, job: Job, requested: list[str], *, narrow: bool) -> Arrays:
    [outputs] = decoder.run([job], requested, narrow=narrow)
    assert outputs.keys() == set(requested)
    return outputs


@pytest.mark.parametrize("mask", [False, True], ids=["no mask", "mask"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_decoder_answers_as_prompt_decoder_does(precision: str, mask: bool) -> None:
    file = prompt_decoder_file(precision, 4)
    stored, decoder = embedding(0), opened(file)
    prompt = job(decoder.place(stored), 4, mask=mask)
    answer = expected(stored, prompt, file)
    found = run(decoder, prompt, OUTPUTS, narrow=False)
    for name in OUTPUTS:
        np.testing.assert_array_equal(found[name], answer[name])


@pytest.mark.parametrize("points", [2, 8, 16])
def test_threads_and_requested_outputs_change_no_bit(decoder: OpenVinoDecoder, points: int) -> None:
    prompt = job(decoder.place(embedding(1)), points)
    alone = run(decoder, prompt, CLICK, narrow=False)
    for requested, narrow in ((CLICK, True), (OUTPUTS, False), (OUTPUTS, True)):
        other = run(decoder, prompt, requested, narrow=narrow)
        for name in CLICK:
            np.testing.assert_array_equal(other[name], alone[name])


def test_calls_at_once_answer_what_they_answer_alone(decoder: OpenVinoDecoder) -> None:
    images = [decoder.place(embedding(seed)) for seed in range(2)]
    prompts = [job(images[number % 2], points) for number, points in enumerate((2, 4, 2, 8))]
    alone = [run(decoder, prompt, CLICK, narrow=False) for prompt in prompts]
    with ThreadPoolExecutor(6) as pool:
        at_once = list(pool.map(lambda it: run(decoder, it, CLICK, narrow=True), 3 * prompts))
    for found, answer in zip(at_once, 3 * alone, strict=True):
        for name in CLICK:
            np.testing.assert_array_equal(found[name], answer[name])


@pytest.mark.parametrize(("precision", "size"), [("bf16", 2), ("fp32", 4)])
def test_a_placed_image_states_its_size(precision: str, size: int) -> None:
    placed = opened(prompt_decoder_file(precision)).place(embedding(0))
    assert placed.nbytes == size * (256 * 64 * 64 + 32 * 256 * 256)


@pytest.mark.parametrize(("threads", "lanes"), [(1, (1, 0, 1)), (2, (1, 2, 1)), (16, (2, 4, 1))])
def test_eight_threads_or_more_work_on_a_lone_prompt(
    threads: int, lanes: tuple[int, int, int]
) -> None:
    file = replace(prompt_decoder_file(), intra_op_threads=threads)
    assert opened(file).lanes == lanes


def test_graphs_of_each_kind_are_kept_apart_in_the_cache(tmp_path: Path) -> None:
    file = prompt_decoder_file("bf16", 2)
    file = replace(file, openvino={**(file.openvino or {}), "cache_dir": str(tmp_path)})
    answers = []
    for _ in range(2):  # the second one reads what the first one compiled
        decoder = opened(file)
        prompt = job(decoder.place(embedding(2)), 2)
        answers += [
            run(decoder, prompt, requested, narrow=narrow)
            for requested in (CLICK, OUTPUTS)
            for narrow in (False, True)
        ]
    for answer in answers:
        np.testing.assert_array_equal(answer["low_res_masks"], answers[0]["low_res_masks"])


def test_a_file_that_contradicts_its_config_is_refused(tmp_path: Path) -> None:
    file = prompt_decoder_file()
    inputs = {**file.inputs, "point_labels": Tensor("TYPE_INT32", (-1, -1))}
    with pytest.raises(StartError, match="input point_labels as TYPE_INT32"):
        opened(replace(file, inputs=inputs))
    broken = tmp_path / "prompt_decoder" / "1" / "model.onnx"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"not ONNX")
    with pytest.raises(StartError, match=r"cannot load .*model\.onnx"):
        opened(replace(file, path=broken))


def test_a_call_may_use_every_core(decoder: OpenVinoDecoder) -> None:
    """The narrow lanes were bound to the same core, where two calls took as long as two in turn."""
    prompt = job(decoder.place(embedding(3)), 2)
    cores = os.sched_getaffinity(0)
    found: set[frozenset[int]] = set()

    def decode(narrow: bool) -> int:
        run(decoder, prompt, CLICK, narrow=narrow)
        return threading.get_native_id()

    for narrow in (False, True):
        with ThreadPoolExecutor(1) as pool:
            thread = pool.submit(decode, narrow).result()
            calls = [pool.submit(decode, narrow) for _ in range(3)]
            while not all(call.done() for call in calls):
                found.add(frozenset(os.sched_getaffinity(thread)))
    assert found == {frozenset(cores)}
