"""The file of one embedding: safetensors, written by the library and mapped on reading.

The tensors are those of `Embedding`, in fp32 or fp16. The metadata says height and
width, and whose embedding it is: the key that reader and writer agree on.

    8 bytes   length of the header, little-endian
    header    JSON: {"__metadata__": {…}, name: {"dtype", "shape", "data_offsets"}, …}
    data      the tensors; offsets count from here

The library's own reader copies the tensors, 2 ms for each click. Here they are the
pages of the file, which on tmpfs is memory already.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hqsam_client.contract import FEATURES
from numpy.typing import NDArray
from safetensors.numpy import save

_SHAPES = {spec.name: spec.shape for spec in (FEATURES.inputs[0], FEATURES.outputs[0])}
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
_MAX_HEADER_BYTES = 4096  # its length included


@dataclass(frozen=True)
class Embedding:
    """What is kept of a picture.

    Attributes:
        image_embeddings: the encoder's, float32 [1, 256, 64, 64].
        hq_features: what `features` makes of the encoder's outputs, float32 [1, 32, 256, 256].
        original_size: (height, width) of the upright picture in original pixels.
    """

    image_embeddings: NDArray[np.float32]
    hq_features: NDArray[np.float32]
    original_size: tuple[int, int]


def max_file_bytes(half_precision: bool) -> int:
    """Return what a file takes at most."""
    values = sum(int(np.prod(shape)) for shape in _SHAPES.values())
    return values * (2 if half_precision else 4) + _MAX_HEADER_BYTES


def dump(embedding: Embedding, key: Mapping[str, str], half_precision: bool) -> bytes:
    """Return the content of a file."""
    dtype = np.float16 if half_precision else np.float32
    height, width = embedding.original_size
    tensors = {name: getattr(embedding, name).astype(dtype, copy=False) for name in _SHAPES}
    return save(tensors, {**key, "height": str(height), "width": str(width)})


def load(path: Path, key: Mapping[str, str]) -> Embedding:
    """Read a file; its arrays cannot be written to.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or no embedding of this key.
        OSError: it cannot be read.
    """
    mapped, tensors, size = _mapped(path, key)
    arrays = {}
    for name, (dtype, offset) in tensors.items():
        shape = _SHAPES[name]
        array = np.frombuffer(mapped, dtype, int(np.prod(shape)), offset).reshape(shape)
        arrays[name] = array.astype(np.float32, copy=False)
    return Embedding(**arrays, original_size=size)


def load_size(path: Path, key: Mapping[str, str]) -> tuple[int, int]:
    """Read only `original_size` of a file, but check all of it; errors as of `load`."""
    return _mapped(path, key)[2]


def _mapped(
    path: Path, key: Mapping[str, str]
) -> tuple[mmap.mmap, dict[str, tuple[np.dtype[Any], int]], tuple[int, int]]:
    """Return the mapped file, each tensor's dtype and offset in it, and (height, width)."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header_bytes = int.from_bytes(mapped[:8], "little")
    if 8 + header_bytes > _MAX_HEADER_BYTES:
        raise ValueError("the header is too long")
    try:
        header = json.loads(mapped[8 : 8 + header_bytes])
        metadata = header.pop("__metadata__")
        size = int(metadata.pop("height")), int(metadata.pop("width"))
        tensors, end = {}, 0
        for name, tensor in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            dtype, shape = _DTYPES[tensor["dtype"]], _SHAPES[name]
            begin, end = end, end + int(np.prod(shape)) * dtype.itemsize
            if (tensor["shape"], tensor["data_offsets"]) != (list(shape), [begin, end]):
                raise ValueError(f"{name} is not where or what it should be")
            tensors[name] = (dtype, 8 + header_bytes + begin)
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("the header is not an embedding's") from error
    if metadata != dict(key) or min(size) < 1 or tensors.keys() != _SHAPES.keys():
        raise ValueError("it is another file under this name")
    if len(mapped) != 8 + header_bytes + end:
        raise ValueError("it is truncated, or too long")
    return mapped, tensors, size
