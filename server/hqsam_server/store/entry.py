"""The file of one embedding, in the safetensors format.

The tensors are those of `Embedding`, in fp32 or fp16. The metadata holds height and width, the key
that reader and writer agree on, and a check that finds damage, not forgery: height and width
again, and the sum of the data's 64-bit words. The sum takes a tenth of the time of a CRC-32.

    8 bytes   length of the header, little-endian
    header    JSON: {"__metadata__": {…}, name: {"dtype", "shape", "data_offsets"}, …}
    data      the tensors; offsets count from here

Files are read and not mapped: truncating a mapped file kills the process that reads it. So the
library writes them and this module reads them: the library's reader from memory drops the metadata
and copies the tensors.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from hqsam_client.contract import FEATURES
from numpy.typing import NDArray
from safetensors.numpy import save

_SHAPES = {spec.name: spec.shape for spec in (FEATURES.inputs[0], FEATURES.outputs[0])}
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
_MAX_HEADER_BYTES = 4096  # its length included


@dataclass(frozen=True)
class Embedding:
    """What a click needs of an image.

    Attributes:
        image_embeddings: output of the encoder, float32 [1, 256, 64, 64].
        hq_features: output of `features`, float32 [1, 32, 256, 256].
        original_size: (height, width) of the upright image in original pixels.
    """

    image_embeddings: NDArray[np.float32]
    hq_features: NDArray[np.float32]
    original_size: tuple[int, int]


def max_file_bytes(half_precision: bool) -> int:
    """Return the largest size of a file."""
    values = sum(int(np.prod(shape)) for shape in _SHAPES.values())
    return values * (2 if half_precision else 4) + _MAX_HEADER_BYTES


def dump(embedding: Embedding, key: Mapping[str, str], half_precision: bool) -> bytes:
    """Return the content of a file."""
    dtype = np.float16 if half_precision else np.float32
    height, width = embedding.original_size
    tensors = {
        name: getattr(embedding, name).astype(dtype, order="C", copy=False) for name in _SHAPES
    }
    check = f"{height}x{width}:{_sum(tensors.values())}"
    return save(tensors, {**key, "height": str(height), "width": str(width), "check": check})


def load(file: BinaryIO, key: Mapping[str, str]) -> Embedding:
    """Read an open file from its start; the arrays are read-only.

    Raises:
        ValueError: it is damaged, or is not the embedding of this key.
        OSError: it cannot be read.
    """
    content = file.read()
    layout = _layout(content[:_MAX_HEADER_BYTES], len(content), key)
    stored = {
        name: np.frombuffer(content, dtype, int(np.prod(_SHAPES[name])), offset)
        for name, (dtype, offset) in layout.tensors.items()
    }
    if _sum(stored.values()) != layout.words:
        raise ValueError("the check does not match the data")
    arrays = {
        name: array.reshape(_SHAPES[name]).astype(np.float32, copy=False)
        for name, array in stored.items()
    }
    return Embedding(**arrays, original_size=layout.size)


def load_size(file: BinaryIO, key: Mapping[str, str]) -> tuple[int, int]:
    """Read `original_size` of a file and check its header; see `load`."""
    head = file.read(_MAX_HEADER_BYTES)
    return _layout(head, os.fstat(file.fileno()).st_size, key).size


def _sum(arrays: Iterable[NDArray[Any]]) -> str:
    """Return the sum of the arrays' 64-bit words in memory, as 16 hex digits."""
    total = sum(int(array.reshape(-1).view("<u8").sum(dtype=np.uint64)) for array in arrays)
    return f"{total % 2**64:016x}"


class _Layout(NamedTuple):
    """A file's header: dtype and offset of each tensor, (height, width), and the sum."""

    tensors: dict[str, tuple[np.dtype[Any], int]]
    size: tuple[int, int]
    words: str


def _layout(head: bytes, file_bytes: int, key: Mapping[str, str]) -> _Layout:
    """Read the header from the first bytes of a file; raises `ValueError`."""
    header_bytes = int.from_bytes(head[:8], "little")
    if 8 + header_bytes > _MAX_HEADER_BYTES:
        raise ValueError("the header is too long")
    try:
        header = json.loads(head[8 : 8 + header_bytes])
        metadata = header.pop("__metadata__")
        size = int(metadata.pop("height")), int(metadata.pop("width"))
        size_again, _, words = metadata.pop("check").partition(":")
        tensors, end = {}, 0
        for name, tensor in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            dtype, shape = _DTYPES[tensor["dtype"]], _SHAPES[name]
            begin, end = end, end + int(np.prod(shape)) * dtype.itemsize
            if (tensor["shape"], tensor["data_offsets"]) != (list(shape), [begin, end]):
                raise ValueError(f"{name} has another shape or place")
            tensors[name] = (dtype, 8 + header_bytes + begin)
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("the header is not that of an embedding") from error
    if metadata != dict(key) or min(size) < 1 or tensors.keys() != _SHAPES.keys():
        raise ValueError("it is the embedding of another key")
    if size_again != f"{size[0]}x{size[1]}":
        raise ValueError("height or width is damaged")
    if file_bytes != 8 + header_bytes + end:
        raise ValueError("it is truncated, or too long")
    return _Layout(tensors, size, words)
