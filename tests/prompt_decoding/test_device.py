"""The decoder of `segment` for a GPU, with the memory of the CPU as its device.

The code is the same: only ONNX Runtime's provider and the kind of memory differ.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hqsam_export import exporter, onnx_files
from hqsam_server import small_model
from hqsam_server.errors import StartError
from hqsam_server.prompt_decoding import open_decoder, stacking
from hqsam_server.prompt_decoding.decoder import Job
from hqsam_server.prompt_decoding.device import Device, DeviceDecoder
from hqsam_server.runtime.config import Arrays, ModelFile
from hqsam_server.runtime.onnx_runtime import gpu_providers

from tests.prompt_decoding.jobs import OUTPUTS, embedding, expected, job, prompt_decoder_file

CPU = Device("cpu", 0)
TOGETHER = 4
HEURISTIC = {"cudnn_conv_algo_search": "HEURISTIC"}
TOLERANCE = 1e-4
"""A prompt's logits alone and among others, in fp32."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> ModelFile:
    """The small model's, as it is exported now: it takes several images."""
    small = prompt_decoder_file()
    path = shutil.copy(small.path, tmp_path_factory.mktemp("file"))
    onnx_files.open_first_dimension(Path(path), exporter.OF_AN_IMAGE)
    return replace(small, path=Path(path), max_open_dims=(TOGETHER, 256))


@pytest.fixture(scope="module")
def decoder(file: ModelFile) -> DeviceDecoder:
    return DeviceDecoder(file, CPU)


def assert_as_alone(decoder: DeviceDecoder, jobs: Sequence[Job]) -> None:
    found = decoder.run(jobs, OUTPUTS, narrow=False)
    for prompt, outputs in zip(jobs, found, strict=True):
        [alone] = decoder.run([prompt], OUTPUTS, narrow=False)
        for name in OUTPUTS:
            np.testing.assert_allclose(outputs[name], alone[name], atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("mask", [False, True], ids=["no mask", "mask"])
def test_a_lone_prompt_is_answered_as_by_prompt_decoder(decoder: DeviceDecoder, mask: bool) -> None:
    stored = embedding(0)
    prompt = job(decoder.place(stored), 4, mask=mask)
    [found] = decoder.run([prompt], OUTPUTS, narrow=False)
    for name, array in expected(stored, prompt).items():
        np.testing.assert_allclose(found[name], array, atol=TOLERANCE, rtol=TOLERANCE)


def test_prompts_on_one_image_give_the_same_alone_and_together(decoder: DeviceDecoder) -> None:
    image = decoder.place(embedding(0))
    assert_as_alone(decoder, [job(image, 2, seed=seed) for seed in range(3)])


def test_prompts_on_different_images_give_the_same_alone_and_together(
    decoder: DeviceDecoder,
) -> None:
    images = [decoder.place(embedding(seed)) for seed in range(3)]
    assert_as_alone(decoder, [job(image, 2, seed=seed) for seed, image in enumerate(images)])


def test_prompts_of_all_kinds_are_decoded_together(decoder: DeviceDecoder) -> None:
    images = [decoder.place(embedding(seed)) for seed in range(2)]
    jobs = [
        job(images[0], 2, seed=0),
        job(images[1], 8, seed=1, mask=True),
        job(images[0], 16, seed=2),
        job(images[1], 4, seed=3),
    ]
    assert_as_alone(decoder, jobs)


def test_a_file_for_one_image_decodes_prompts_on_different_images() -> None:
    decoder = DeviceDecoder(replace(prompt_decoder_file(), max_open_dims=(2, 256)), CPU)
    images = [decoder.place(embedding(seed)) for seed in range(2)]
    assert_as_alone(decoder, [job(images[seed % 2], 2, seed=seed) for seed in range(2)])


def test_the_same_prompts_give_the_same_bits(decoder: DeviceDecoder) -> None:
    jobs = [job(decoder.place(embedding(seed)), 2, seed=seed) for seed in range(2)]
    first, again = (decoder.run(jobs, OUTPUTS, narrow=False) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        for name in OUTPUTS:
            np.testing.assert_array_equal(one[name], other[name])


def test_answers_belong_to_the_caller(decoder: DeviceDecoder) -> None:
    image = decoder.place(embedding(0))
    [first] = decoder.run([job(image, 2)], ["low_res_masks"], narrow=False)
    kept = first["low_res_masks"].copy()
    decoder.run([job(image, 2, seed=1)], ["low_res_masks"], narrow=False)
    np.testing.assert_array_equal(first["low_res_masks"], kept)


def test_only_the_requested_outputs_are_returned(decoder: DeviceDecoder) -> None:
    [found] = decoder.run([job(decoder.place(embedding(0)), 2)], ["iou_predictions"], narrow=False)
    assert {name: array.shape for name, array in found.items()} == {"iou_predictions": (1, 1)}


class _Copies:
    """Notes what is copied to the device: by a binding, and as a value of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nbytes: dict[str, int] = {}
        self.shapes: list[tuple[int, ...]] = []
        bind = onnxruntime.IOBinding.bind_cpu_input
        place = onnxruntime.OrtValue.ortvalue_from_numpy

        def noted(binding: onnxruntime.IOBinding, name: str, array: np.ndarray) -> None:  # type: ignore[type-arg]
            self.nbytes[name] = array.nbytes
            if name == "point_coords":
                self.shapes.append(array.shape)
            bind(binding, name, array)

        def placed(array: np.ndarray, *device: object) -> onnxruntime.OrtValue:  # type: ignore[type-arg]
            self.nbytes["a value"] = array.nbytes
            return place(array, *device)

        monkeypatch.setattr(onnxruntime.IOBinding, "bind_cpu_input", noted)
        monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", placed)


def test_the_shapes_of_clicks_run_before_the_first_one(
    file: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = _Copies(monkeypatch)
    decoder = DeviceDecoder(file, CPU)
    warm = set(copies.shapes)
    assert warm == {(1, 2, 2), (2, 2, 2), (4, 2, 2), (1, 4, 2), (1, 8, 2)}
    image = decoder.place(embedding(0))
    for points in (2, 4, 8):
        decoder.run([job(image, points)], OUTPUTS, narrow=False)
    assert set(copies.shapes) == warm


def test_a_click_copies_nothing_but_its_points(
    decoder: DeviceDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [decoder.place(embedding(seed)) for seed in range(2)]
    copies = _Copies(monkeypatch)
    decoder.run([job(images[0], 2)], OUTPUTS, narrow=False)
    assert copies.nbytes == {"point_coords": 16, "point_labels": 8, "has_mask_input": 4}
    copies.nbytes.clear()
    jobs = [job(image, 2) for image in images]
    decoder.run(jobs, OUTPUTS, narrow=False)
    assert copies.nbytes == {"point_coords": 32, "point_labels": 16, "has_mask_input": 8}
    copies.nbytes.clear()
    decoder.run([job(images[0], 2, mask=True)], OUTPUTS, narrow=False)
    assert copies.nbytes["mask_input"] == 4 * 256 * 256


def test_a_placed_image_states_its_size(decoder: DeviceDecoder) -> None:
    assert decoder.place(embedding(0)).nbytes == 4 * (256 * 64 * 64 + 32 * 256 * 256)


def test_one_call_takes_as_many_prompts_as_the_config_allows(decoder: DeviceDecoder) -> None:
    assert decoder.lanes == (1, 0, TOGETHER)


@pytest.mark.parametrize("counts", [[1], [2, 3, 130]], ids=str)
def test_a_stacking_model_is_valid_and_stacks(counts: list[int]) -> None:
    shapes = {"a": [1, 2], "b": [1, 200, 3]}
    model = stacking.model(shapes, counts)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    images: Arrays = {
        stacking.input_name(name, number): np.full(shape, number, np.float32)
        for name, shape in shapes.items()
        for number in range(max(counts))
    }
    for count in counts:
        for name, shape in shapes.items():
            [stacked] = session.run([stacking.output_name(name, count)], images)
            assert stacked.shape == (count, *shape[1:])
            assert stacked[:, 0].reshape(count, -1)[:, 0].tolist() == list(range(count))


def test_without_a_gpu_the_error_says_what_to_install(tmp_path: Path) -> None:
    small_model.write(tmp_path, link=True)
    with pytest.raises(StartError, match="has no CUDAExecutionProvider: install onnxruntime-gpu"):
        open_decoder(tmp_path, 0)


def test_accelerators_for_gpus_become_options_of_providers(
    file: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    accelerators = {
        "cuda": {"use_tf32": "0"},
        "tensorrt": {
            "precision_mode": "FP16",
            "max_workspace_size_bytes": "1024",
            "trt_engine_cache_enable": "true",
        },
    }
    assert gpu_providers(replace(file, gpu_accelerators=accelerators), 3) == [
        (
            "TensorrtExecutionProvider",
            {
                "device_id": "3",
                "trt_engine_cache_enable": "true",
                "trt_max_workspace_size": "1024",
                "trt_fp16_enable": "true",
            },
        ),
        ("CUDAExecutionProvider", {"device_id": "3", **HEURISTIC, "use_tf32": "0"}),
    ]
    assert gpu_providers(file, 0) == [("CUDAExecutionProvider", {"device_id": "0", **HEURISTIC})]
    searching = {"cuda": {"cudnn_conv_algo_search": "EXHAUSTIVE"}}
    [(_, options)] = gpu_providers(replace(file, gpu_accelerators=searching), 0)
    assert options["cudnn_conv_algo_search"] == "EXHAUSTIVE"
