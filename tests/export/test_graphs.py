"""The exported graphs compute what the model does, prompt by prompt."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hqsam_client import contract
from hqsam_export import checkpoint, onnx_files
from hqsam_export.exporter import OF_AN_IMAGE, SPECS
from hqsam_export.graphs.prompt_decoder import PromptDecoderGraph
from hqsam_export.modeling import HQSamModel
from hqsam_testing import rebuilt
from torch.nn import functional

from tests.export import prompts
from tests.export.prompts import PROMPTS, Arrays, batch

TOLERANCE = 1e-4
"""Issue 3: a prompt's result alone and in a batch."""


@pytest.fixture(scope="module")
def image(tiny_repository: Path) -> Arrays:
    embeddings = prompts.image()
    return embeddings | prompts.run(tiny_repository, "features", embeddings)


def decode(repository: Path, image: Arrays, prompt: Arrays) -> Arrays:
    return prompts.run(repository, "prompt_decoder", image | prompt)


def assert_same(found: Arrays, expected: Arrays, tolerance: float = TOLERANCE) -> None:
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=tolerance, rtol=0, err_msg=name)


def row(outputs: Arrays, index: int) -> Arrays:
    return {name: array[index : index + 1] for name, array in outputs.items()}


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_files_declare_the_contract(tiny_repository: Path, spec: contract.ModelSpec) -> None:
    path = tiny_repository / spec.name / "1" / "model.onnx"
    # The file of `prompt_decoder` also takes an image for each prompt.
    inputs = [
        replace(tensor, shape=(-1, *tensor.shape[1:]))
        if spec is contract.PROMPT_DECODER and tensor.name in OF_AN_IMAGE
        else tensor
        for tensor in spec.inputs
    ]
    assert onnx_files.shapes(path) == (inputs, list(spec.outputs))
    onnx.checker.check_model(str(path), full_check=True)


def test_a_prompt_gives_the_same_alone_and_in_a_batch(tiny_repository: Path, image: Arrays) -> None:
    together = decode(tiny_repository, image, batch(list(PROMPTS.values())))
    for index, prompt in enumerate(PROMPTS.values()):
        assert_same(row(together, index), decode(tiny_repository, image, batch([prompt])))


def test_prompts_on_different_images_give_the_same_alone_and_in_a_batch(
    tiny_repository: Path, image: Arrays
) -> None:
    images = [image, {name: array[..., ::-1].copy() for name, array in image.items()}]
    each = [batch([PROMPTS["point"]]), batch([PROMPTS["box"]], length=2)]
    together = {
        name: np.concatenate(
            [{**one, **prompt}[name] for one, prompt in zip(images, each, strict=True)]
        )
        for name in (*OF_AN_IMAGE, *each[0])
    }
    found = prompts.run(tiny_repository, "prompt_decoder", together)
    for index, (one, prompt) in enumerate(zip(images, each, strict=True)):
        assert_same(row(found, index), decode(tiny_repository, one, prompt))


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_padding_changes_nothing(
    tiny_repository: Path, image: Arrays, prompt: prompts.Prompt
) -> None:
    alone = decode(tiny_repository, image, batch([prompt]))
    assert_same(decode(tiny_repository, image, batch([prompt], length=9)), alone)


def test_where_padding_stands_and_what_coordinates_it_has_changes_nothing(
    tiny_repository: Path, image: Arrays
) -> None:
    alone = decode(tiny_repository, image, batch([PROMPTS["box"]]))
    corners, _ = PROMPTS["box"]
    mixed = ([(7.0, 9.0), corners[0], (1000.0, 1.0), corners[1]], [-1, 2, -1, 3])
    assert_same(decode(tiny_repository, image, batch([mixed])), alone)


def test_the_padding_point_of_a_prompt_without_a_box_does_count(
    tiny_repository: Path, image: Arrays
) -> None:
    with_it = decode(tiny_repository, image, batch([PROMPTS["point"]]))
    without = decode(tiny_repository, image, batch([([(400, 500)], [1])]))
    assert np.abs(with_it["low_res_masks"] - without["low_res_masks"]).max() > TOLERANCE


def test_each_prompt_of_a_batch_has_its_own_mask_to_refine(
    tiny_repository: Path, image: Arrays
) -> None:
    chosen = [PROMPTS["point"], PROMPTS["box"], PROMPTS["point"]]
    masks = 4 * np.random.default_rng(1).standard_normal((3, 1, 256, 256), np.float32)
    inputs = batch(chosen, masks)
    inputs["has_mask_input"] = np.array([1, 1, 0], np.float32)
    together = decode(tiny_repository, image, inputs)
    alone = [
        decode(tiny_repository, image, batch(chosen[:1], masks[:1])),
        decode(tiny_repository, image, batch(chosen[1:2], masks[1:2])),
        decode(tiny_repository, image, batch(chosen[2:])),
    ]
    for index, expected in enumerate(alone):
        assert_same(row(together, index), expected)
    logits = [expected["low_res_masks"] for expected in alone]
    assert all(np.abs(a - b).max() > TOLERANCE for a, b in pairwise([*logits, logits[0]]))


@pytest.mark.parametrize(("count", "length"), [(1, 1), (1, 12), (5, 2), (17, 3)])
def test_prompts_and_points_may_be_as_many_as_wanted(
    tiny_repository: Path, image: Arrays, count: int, length: int
) -> None:
    points = [(float(40 * i), float(30 * i)) for i in range(length)]
    outputs = decode(tiny_repository, image, batch([(points, [1] * length)] * count))
    for spec in contract.PROMPT_DECODER.outputs:
        assert outputs[spec.name].shape == (count, *spec.shape[1:])


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_features_and_prompt_decoder_together_are_the_decoder(
    tiny_repository: Path, image: Arrays, prompt: prompts.Prompt
) -> None:
    inputs = batch([prompt])
    whole = prompts.run(tiny_repository, "decoder", image | inputs)
    masks = whole.pop("masks")
    assert_same(decode(tiny_repository, image, inputs), whole)
    logits = torch.from_numpy(whole["low_res_masks"])
    enlarged = functional.interpolate(logits, (1024, 1024), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(masks, enlarged.numpy(), atol=TOLERANCE)


def test_all_four_outputs_are_those_of_the_model(
    tiny_repository: Path, tiny_model: HQSamModel, image: Arrays
) -> None:
    masks = 4 * np.random.default_rng(1).standard_normal((4, 1, 256, 256), np.float32)
    inputs = batch(list(PROMPTS.values()), masks)
    outputs = decode(tiny_repository, image, inputs)
    names = [tensor.name for tensor in contract.PROMPT_DECODER.inputs]
    tensors = [torch.from_numpy((image | inputs)[name]) for name in names]
    hq, sam, iou = tiny_model.decode(*tensors)
    assert_same(
        outputs,
        {
            "low_res_masks": hq.numpy(),
            "iou_predictions": iou[:, :1].numpy(),
            "sam_masks": sam.numpy(),
            "sam_iou_predictions": iou.numpy(),
        },
        tolerance=2e-4,
    )


def test_a_box_has_its_centre_as_a_point_where_a_model_has_centres(image: Arrays) -> None:
    architecture = replace(rebuilt.TINY, box_centre=True)
    model = checkpoint.build_model(rebuilt.state_dict(architecture))
    assert model.architecture == architecture
    inputs = {name: torch.from_numpy(array) for name, array in batch([*PROMPTS.values()]).items()}
    coords, labels = inputs["point_coords"], inputs["point_labels"]
    embedded, valid = model.prompt_encoder.embed_points(coords, labels)
    assert valid[:, -1].tolist() == ["box" in name for name in PROMPTS]
    middle, _ = model.prompt_encoder.embed_points(
        torch.tensor([[[400.0, 500.0]]]), torch.full((1, 1), 9.0)
    )
    box = list(PROMPTS).index("box")
    assert model.prompt_encoder.box_centre is not None
    expected = middle[0, 0] + model.prompt_encoder.box_centre.weight[0]
    torch.testing.assert_close(embedded[box, -1], expected)

    inputs |= {name: torch.from_numpy(image[name]) for name in ("image_embeddings", "hq_features")}
    inputs = {spec.name: inputs[spec.name] for spec in contract.PROMPT_DECODER.inputs}
    found = PromptDecoderGraph(model)(*inputs.values())
    hq, sam, iou = model.decode(*inputs.values())
    for one, other in zip(found, (hq, iou[:, :1], sam, iou), strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=0)


def test_outputs_that_are_not_asked_for_cost_nothing(tiny_repository: Path) -> None:
    model = onnx.load(tiny_repository / "prompt_decoder" / "1" / "model.onnx")
    # A runtime drops what no requested output needs; the HQ mask must not need SAM's.
    producers = {output: node for node in model.graph.node for output in node.output}

    def needed(*outputs: str) -> set[str]:
        found: set[str] = set()
        waiting = list(outputs)
        while waiting:
            node = producers.get(waiting.pop())
            if node is not None and node.output[0] not in found:
                found.add(node.output[0])
                waiting.extend(node.input)
        return found

    mask = needed("low_res_masks", "iou_predictions")
    everything = needed(*(spec.name for spec in contract.PROMPT_DECODER.outputs))
    assert "sam_masks" not in mask
    assert mask < everything


def test_intermediate_embeddings_of_a_small_model_are_filled_up_with_zeros(
    tiny_repository: Path, tiny_model: HQSamModel
) -> None:
    image = np.random.default_rng(0).standard_normal((1, 3, 1024, 1024), np.float32)
    interm = prompts.run(tiny_repository, "encoder", {"image": image})["interm_embeddings"]
    _, expected = tiny_model.image_encoder(torch.from_numpy(image))
    np.testing.assert_allclose(interm[:1, ..., :48], expected.numpy(), atol=TOLERANCE)
    assert not interm[1:].any()
    assert not interm[..., 48:].any()
