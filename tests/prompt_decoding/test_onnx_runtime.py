"""The decoder of `segment` on ONNX Runtime, with the small model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hqsam_server.errors import StartError
from hqsam_server.prompt_decoding.decoder import Job
from hqsam_server.prompt_decoding.onnx_runtime import OnnxRuntimeDecoder
from hqsam_server.runtime.config import Arrays, Tensor

from tests.prompt_decoding.jobs import OUTPUTS, embedding, expected, job, prompt_decoder_file


@pytest.fixture(scope="module")
def decoder() -> OnnxRuntimeDecoder:
    return OnnxRuntimeDecoder(prompt_decoder_file())


@pytest.mark.parametrize("mask", [False, True], ids=["no mask", "mask"])
def test_a_decoder_answers_as_prompt_decoder_does(decoder: OnnxRuntimeDecoder, mask: bool) -> None:
    stored = embedding(0)
    prompt = job(decoder.place(stored), 4, mask=mask)
    [found] = decoder.run([prompt], OUTPUTS, narrow=False)
    for name, array in expected(stored, prompt).items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("points", [2, 8])
def test_the_bits_do_not_depend_on_the_number_of_threads(
    decoder: OnnxRuntimeDecoder, points: int
) -> None:
    many = OnnxRuntimeDecoder(replace(prompt_decoder_file(), intra_op_threads=5))
    prompt = job(decoder.place(embedding(0)), points)
    [narrow] = decoder.run([prompt], OUTPUTS, narrow=True)
    for other in (decoder, many):
        [wide] = other.run([prompt], OUTPUTS, narrow=False)
        for name in OUTPUTS:
            np.testing.assert_array_equal(wide[name], narrow[name])


def test_calls_at_once_answer_what_they_answer_alone(decoder: OnnxRuntimeDecoder) -> None:
    images = [decoder.place(embedding(seed)) for seed in range(2)]
    prompts = [job(images[seed % 2], 2, seed=seed) for seed in range(4)]

    def run(prompt: Job, narrow: bool) -> Arrays:
        return decoder.run([prompt], ["low_res_masks"], narrow=narrow)[0]

    alone = [run(prompt, False) for prompt in prompts]
    with ThreadPoolExecutor(8) as pool:
        at_once = list(pool.map(run, 2 * prompts, 4 * [True] + 4 * [False]))
    for found, answer in zip(at_once, 2 * alone, strict=True):
        np.testing.assert_array_equal(found["low_res_masks"], answer["low_res_masks"])


def test_only_the_requested_outputs_are_returned(decoder: OnnxRuntimeDecoder) -> None:
    prompt = job(decoder.place(embedding(0)), 2)
    [found] = decoder.run([prompt], ["iou_predictions"], narrow=False)
    assert {name: array.shape for name, array in found.items()} == {"iou_predictions": (1, 1)}


def test_a_placed_image_states_its_size(decoder: OnnxRuntimeDecoder) -> None:
    assert decoder.place(embedding(0)).nbytes == 4 * (256 * 64 * 64 + 32 * 256 * 256)


@pytest.mark.parametrize(("threads", "wide"), [(1, 1), (15, 1), (16, 2)])
def test_eight_threads_or_more_work_on_a_lone_prompt(threads: int, wide: int) -> None:
    file = replace(prompt_decoder_file(), intra_op_threads=threads)
    assert OnnxRuntimeDecoder(file).lanes == (wide, threads, 1)


def test_a_file_that_contradicts_its_config_is_refused(tmp_path: Path) -> None:
    file = prompt_decoder_file()
    inputs = {**file.inputs, "point_labels": Tensor("TYPE_INT32", (-1, -1))}
    with pytest.raises(StartError, match="input point_labels as TYPE_INT32"):
        OnnxRuntimeDecoder(replace(file, inputs=inputs))
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"not ONNX")
    with pytest.raises(StartError, match=r"cannot load .*model\.onnx"):
        OnnxRuntimeDecoder(replace(file, path=broken))
