"""What serving is compared with: the official implementation, and models without a server."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino.passes
import torch
import transformers
import tritonclient.grpc
from hqsam_client import Mask, contract
from hqsam_server.runtime import open_model
from hqsam_server.runtime.config import Model, ModelFile
from hqsam_testing import configs
from hqsam_testing.oracle import images
from numpy.typing import NDArray
from PIL import Image

Arrays = dict[str, NDArray[Any]]

CLICK = (400, 500)
IMAGE = (1200, 900)

_SIDE = 4096

# OpenVINO's names of the operators whose arithmetic counts.
_PRODUCTS = ("MatMul", "Einsum", "Convolution", "ConvolutionBackpropData", "GroupConvolution")


def jpeg(width: int, height: int, seed: int) -> bytes:
    """Return an image with camera noise that depends on the seed."""
    rng = np.random.default_rng(seed)
    image = images.draw(width, height).astype(np.int16)
    image += rng.integers(-12, 13, image.shape, dtype=np.int16)
    file = io.BytesIO()
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def jpeg_variant(file: bytes, seed: int) -> bytes:
    """Return the same image with another digest: decoders ignore bytes after a JPEG's end."""
    return file + seed.to_bytes(4, "big")


class Official:
    """ViT-B in PyTorch as the authors wrote it: attention is not fused."""

    def __init__(self) -> None:
        config = transformers.SamHQConfig(vision_config=transformers.SamHQVisionConfig())
        self._model: Any = transformers.AutoModel.from_config(  # type: ignore[no-untyped-call]
            config, attn_implementation="eager"
        )
        self._model.train(False)
        self._processor: Any = transformers.SamImageProcessorPil()

    def encode(self, file: bytes) -> tuple[Any, Any]:
        """Read, resize and encode an image file."""
        image = Image.open(io.BytesIO(file)).convert("RGB")
        pixels = self._processor(image, return_tensors="pt")["pixel_values"]
        embeddings, intermediate = self._model.get_image_embeddings(pixels)
        return embeddings, intermediate

    def click(self, encoded: tuple[Any, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the mask of a click in an image of `size` = (width, height)."""
        width, height = size
        scale = contract.INPUT_SIZE / max(size)
        with torch.inference_mode():
            outputs = self._model(
                image_embeddings=encoded[0],
                intermediate_embeddings=encoded[1],
                input_points=torch.tensor([[[CLICK]]], dtype=torch.float32) * scale,
                input_labels=torch.ones(1, 1, 1, dtype=torch.int64),
                multimask_output=False,
                hq_token_only=True,
            )
            resized = contract.resized_size((height, width))
            masks = self._processor.post_process_masks(
                outputs.pred_masks, [[height, width]], [list(resized)]
            )
        return np.asarray(masks[0][0, 0].numpy(), np.bool_)


def bare(repository: Path, spec: contract.ModelSpec, precision: str | None) -> Callable[[], object]:
    """Return a function that runs a model of the repository in this process, without a server.

    Args:
        repository: an exported model repository.
        spec: the model; its inputs are one click and random embeddings.
        precision: OpenVINO's inference precision; None for ONNX Runtime's CPU provider.
    """
    file, inputs = _file_and_inputs(repository, spec)
    settings = None if precision is None else {**(file.openvino or {}), "precision": precision}
    threads = len(os.sched_getaffinity(0))
    model: Model = open_model(replace(file, intra_op_threads=threads, openvino=settings))
    wanted = [tensor.name for tensor in spec.outputs]
    if spec is contract.PROMPT_DECODER:
        wanted = ["low_res_masks", "iou_predictions"]
    return lambda: model.run(inputs, wanted)


def _file_and_inputs(repository: Path, spec: contract.ModelSpec) -> tuple[ModelFile, Arrays]:
    """Return a file as its own config describes it, and inputs: one click, random embeddings."""
    path = repository / spec.name / "1" / "model.onnx"
    file = ModelFile.of(configs.cpu_variant(spec.name, repository), path)
    rng = np.random.default_rng(0)
    click = prompt()
    inputs: Arrays = {
        name: click[name] if name in click else rng.standard_normal(tensor.dims, np.float32)
        for name, tensor in file.inputs.items()
    }
    return file, inputs


def prompt() -> Arrays:
    """Return a click as inputs of the ONNX models."""
    return {
        "point_coords": np.array([[CLICK, (0, 0)]], np.float32),
        "point_labels": np.array([[1, -1]], np.float32),
        "mask_input": np.zeros((1, 1, 256, 256), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
    }


class EmbeddingsSent:
    """A client that keeps the embeddings, and sends them with each click."""

    def __init__(self, url: str) -> None:
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        self._client = tritonclient.grpc.InferenceServerClient(url, channel_args=options)
        rng = np.random.default_rng(0)
        self._image = rng.standard_normal(contract.ENCODER.inputs[0].shape, np.float32)
        self._kept: Arrays = {
            spec.name: rng.standard_normal(spec.shape, np.float32)
            for spec in contract.ENCODER.outputs
        }

    def encode(self) -> None:
        """Send an image to `encoder`, and get its embeddings."""
        names = [tensor.name for tensor in contract.ENCODER.outputs]
        inputs = {contract.ENCODER.inputs[0].name: self._image}
        self._kept = self._infer(contract.ENCODER, inputs, names)

    def click(self) -> NDArray[np.bool_]:
        """Segment one object by sending the embeddings to `decoder`, and resize its mask."""
        outputs = self._infer(contract.DECODER, {**self._kept, **prompt()}, ["low_res_masks"])
        width, height = IMAGE
        return Mask(outputs["low_res_masks"][0, 0], 0.0, (height, width)).array

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _infer(self, spec: contract.ModelSpec, arrays: Arrays, wanted: list[str]) -> Arrays:
        inputs = [
            tritonclient.grpc.InferInput(
                tensor.name, arrays[tensor.name].shape, tensor.dtype
            ).set_data_from_numpy(arrays[tensor.name])
            for tensor in spec.inputs
        ]
        requested = [tritonclient.grpc.InferRequestedOutput(name) for name in wanted]
        result = self._client.infer(spec.name, inputs, outputs=requested)
        return {name: result.as_numpy(name) for name in wanted}


def matrix_product(precision: str) -> tuple[Callable[[], object], float]:
    """Return a function that multiplies two large matrices, and its floating-point operations."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    one, other = torch.rand(2, _SIDE, _SIDE).to(dtype)
    return lambda: one @ other, 2.0 * _SIDE**3


def operations(repository: Path, spec: contract.ModelSpec) -> float:
    """Count the floating-point operations of the matrix products and convolutions in a file.

    Args:
        repository: an exported model repository.
        spec: the model; the file computes one click if it is `prompt_decoder`.
    """
    file, inputs = _file_and_inputs(repository, spec)
    return operations_of(file.path, inputs)


def operations_of(path: Path, inputs: Arrays) -> float:
    """Count those of an ONNX file for these inputs."""
    graph = openvino.Core().read_model(path)
    graph.reshape({name: list(array.shape) for name, array in inputs.items()})
    # What depends on no input is computed once, when the file is loaded.
    manager = openvino.passes.Manager()
    manager.register_pass(openvino.passes.ConstantFolding())
    manager.run_passes(graph)
    return float(sum(_operations(node) for node in graph.get_ordered_ops()))


def _operations(node: Any) -> int:
    kind: str = node.get_type_name()
    if kind not in _PRODUCTS:
        return 0
    one, other = (list[int](node.input(index).get_shape()) for index in (0, 1))
    result = list[int](node.output(0).get_shape())
    if kind == "MatMul":
        return 2 * math.prod(result) * one[-2 if node.get_attributes()["transpose_a"] else -1]
    if kind == "Einsum":
        terms = node.get_attributes()["equation"].split("->")[0].split(",")
        return 2 * math.prod(dict(zip("".join(terms), one + other, strict=True)).values())
    if kind == "ConvolutionBackpropData":  # its filter: [in, out, height, width]
        return 2 * math.prod(one) * math.prod(other[1:])
    # The filter's last axes are channels in (of a group), height and width.
    return 2 * math.prod(result) * math.prod(other[-3:])
