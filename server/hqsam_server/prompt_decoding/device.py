"""A `Decoder` on ONNX Runtime with images in a device's memory: a GPU's, or in tests the CPU's."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import onnxruntime
from hqsam_client.contract import LABEL_PADDING, MASK_SIZE, PROMPT_DECODER
from numpy.typing import NDArray
from onnxruntime import IOBinding, OrtValue

from hqsam_server.prompt_decoding import stacking
from hqsam_server.prompt_decoding.decoder import Job, Lanes
from hqsam_server.runtime.config import Arrays, ModelFile
from hqsam_server.runtime.onnx_runtime import (
    CPU,
    ONLY_REQUESTED,
    gpu_providers,
    open_session,
    session_options,
)
from hqsam_server.store.entry import Embedding

TOGETHER = 32
"""Prompts in a batch, unless `max_open_dims` in the config says otherwise."""

_FEW_POINTS = 8
"""Prompts of up to so many points share a batch; longer ones would make it much more expensive."""

_USUAL_POINTS = (2, 4, _FEW_POINTS)
"""Numbers of points that clicks and boxes are padded to."""

_IMAGE = {spec.name: spec.shape for spec in PROMPT_DECODER.inputs[:2]}
_OUTPUTS = [spec.name for spec in PROMPT_DECODER.outputs]


class Device(NamedTuple):
    """Where a decoder computes.

    Attributes:
        kind: as ONNX Runtime names it, "cuda" or "cpu".
        number: which one of its kind.
    """

    kind: str
    number: int


@dataclass(frozen=True)
class _Placed:
    """An image on the device.

    Attributes:
        values: inputs of `prompt_decoder` by name.
    """

    values: Mapping[str, OrtValue]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return sum(value.tensor_size_in_bytes() for value in self.values.values())


class DeviceDecoder:
    """A `Decoder` for a GPU.

    Images are copied to the device once, when they are placed. A call copies points, and masks to
    refine, to the device and only the requested outputs back. It decodes its prompts as one batch,
    whatever their images, in a few sizes: powers of two. A smaller batch is filled up with copies
    of its first prompt, and a prompt of few points with padding. All sizes, and a prompt of each
    usual number of points, run once when the file is loaded: libraries load and choose their
    algorithms for each shape.
    """

    def __init__(self, file: ModelFile, device: Device) -> None:
        """Load a file and run it in each size.

        Args:
            file: of `prompt_decoder`.
            device: where to compute.

        Raises:
            StartError: the file cannot be loaded or contradicts its config, or the device cannot
                be used.
        """
        self._device = device
        together = file.max_open_dims[0] if file.max_open_dims else TOGETHER
        self.lanes = Lanes(wide=1, narrow=0, together=together)
        providers = CPU if device.kind == "cpu" else gpu_providers(file, device.number)
        self._session = open_session(file, file.intra_op_threads, providers)
        first = next(node for node in self._session.get_inputs() if node.name in _IMAGE)
        # Files of earlier exports take one image.
        self._takes_images = not isinstance(first.shape[0], int) and together > 1
        self._sizes = [2**n for n in range(together.bit_length()) if 2**n < together] + [together]
        self._no_masks = self._on_device(np.zeros((together, 1, MASK_SIZE, MASK_SIZE), np.float32))
        if self._takes_images:
            self._stack = onnxruntime.InferenceSession(
                stacking.model(_IMAGE, self._sizes[1:]), session_options(), list(providers)
            )
            self._stacked = {
                name: OrtValue.ortvalue_from_shape_and_type(
                    (together, *shape[1:]), np.float32, *device
                )
                for name, shape in _IMAGE.items()
            }
        self._lock = threading.Lock()  # of what is stacked
        self._warm_up()

    def place(self, embedding: Embedding) -> _Placed:
        """Copy an embedding to the device; see `Decoder`."""
        return _Placed({name: self._on_device(getattr(embedding, name)) for name in _IMAGE})

    def run(self, jobs: Sequence[Job], requested: Collection[str], *, narrow: bool) -> list[Arrays]:
        """Decode prompts; see `Decoder`."""
        outputs: dict[int, Arrays] = {}
        with self._lock:
            for numbers in self._batches(jobs):
                decoded = self._decode([jobs[number] for number in numbers], requested)
                outputs |= zip(numbers, decoded, strict=True)
        return [outputs[number] for number in range(len(jobs))]

    def _batches(self, jobs: Sequence[Job]) -> Iterator[list[int]]:
        """Divide jobs, by number, into those that can be decoded together."""
        batches: dict[tuple[int, int], list[int]] = {}
        for number, job in enumerate(jobs):
            points = max(_FEW_POINTS, job.point_labels.shape[1])
            image = 0 if self._takes_images else id(job.image)
            batches.setdefault((points, image), []).append(number)
        yield from batches.values()

    def _decode(self, jobs: Sequence[Job], requested: Collection[str]) -> list[Arrays]:
        size = next(size for size in self._sizes if size >= len(jobs))
        filled = [*jobs, *[jobs[0]] * (size - len(jobs))]
        binding = self._session.io_binding()
        self._bind_images(binding, [cast(_Placed, job.image) for job in filled])
        for name, array in _points(filled).items():
            binding.bind_cpu_input(name, array)
        self._bind_masks(binding, [job.mask_input for job in filled])
        names = list(requested)
        for name in names:
            binding.bind_output(name, *self._device)
        self._session.run_with_iobinding(binding, ONLY_REQUESTED)
        arrays = dict(zip(names, binding.copy_outputs_to_cpu(), strict=True))
        return [
            {name: array[number : number + 1] for name, array in arrays.items()}
            for number in range(len(jobs))
        ]

    def _bind_images(self, binding: IOBinding, images: Sequence[_Placed]) -> None:
        if all(image is images[0] for image in images):
            for name, value in images[0].values.items():
                binding.bind_ortvalue_input(name, value)
            return
        count = len(images)
        stack = self._stack.io_binding()
        for name, shape in _IMAGE.items():
            part = (*self._device, np.float32, (count, *shape[1:]), self._stacked[name].data_ptr())
            for number in range(self.lanes.together):
                # Inputs beyond the count are not read, but have to be there.
                value = images[min(number, count - 1)].values[name]
                stack.bind_ortvalue_input(stacking.input_name(name, number), value)
            stack.bind_output(stacking.output_name(name, count), *part)
            binding.bind_input(name, *part)
        self._stack.run_with_iobinding(stack, ONLY_REQUESTED)

    def _bind_masks(self, binding: IOBinding, masks: Sequence[NDArray[np.float32] | None]) -> None:
        has_mask = np.array([mask is not None for mask in masks], np.float32)
        binding.bind_cpu_input("has_mask_input", has_mask)
        shape = (len(masks), 1, MASK_SIZE, MASK_SIZE)
        if not has_mask.any():
            zeros = self._no_masks.data_ptr()
            binding.bind_input("mask_input", *self._device, np.float32, shape, zeros)
            return
        array = np.zeros(shape, np.float32)
        for number, mask in enumerate(masks):
            if mask is not None:
                array[number] = mask[0]
        binding.bind_cpu_input("mask_input", array)

    def _on_device(self, array: NDArray[np.float32]) -> OrtValue:
        return OrtValue.ortvalue_from_numpy(array, *self._device)

    def _warm_up(self) -> None:
        zeros = {name: np.zeros(shape, np.float32) for name, shape in _IMAGE.items()}
        images = [self.place(Embedding(**zeros, original_size=(1, 1))) for _ in range(2)]
        for size in self._sizes:
            for others in images if self._takes_images and size > 1 else images[:1]:
                placed = [images[0], *[others] * (size - 1)]
                self.run([_no_job(it, _USUAL_POINTS[0]) for it in placed], _OUTPUTS, narrow=False)
        for points in _USUAL_POINTS[1:]:
            self.run([_no_job(images[0], points)], _OUTPUTS, narrow=False)


def _no_job(image: _Placed, points: int) -> Job:
    coords, labels = np.zeros((1, points, 2), np.float32), np.zeros((1, points), np.float32)
    return Job(image, coords, labels, None)


def _points(jobs: Sequence[Job]) -> Arrays:
    """Return the points of P jobs, padded to the largest number N, as inputs by name."""
    most = max(job.point_labels.shape[1] for job in jobs)
    coords = np.zeros((len(jobs), most, 2), np.float32)
    labels = np.full((len(jobs), most), LABEL_PADDING, np.float32)
    for number, job in enumerate(jobs):
        points = job.point_labels.shape[1]
        coords[number, :points] = job.point_coords[0]
        labels[number, :points] = job.point_labels[0]
    return {"point_coords": coords, "point_labels": labels}
