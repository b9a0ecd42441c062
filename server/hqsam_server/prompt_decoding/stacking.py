"""A small ONNX model that stacks tensors of several images where they are.

It is written here, byte by byte in the format of protobuf, because the library that writes ONNX
files is not part of a server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_IR_VERSION, _OPSET = 9, 18
_FLOAT = 1
_INT_ATTRIBUTE = 2


def input_name(tensor: str, number: int) -> str:
    """Return the name of the input for the image of that number."""
    return f"{tensor}_{number}"


def output_name(tensor: str, count: int) -> str:
    """Return the name of the output that stacks the first `count` images."""
    return f"{tensor}_of_{count}"


def model(tensors: Mapping[str, Sequence[int]], counts: Sequence[int]) -> bytes:
    """Return the model.

    Args:
        tensors: shape of each float32 tensor of an image by name, [1, ...].
        counts: numbers of images that it can stack.

    Returns:
        An ONNX model with inputs `input_name(tensor, number)` [1, ...] for as many images as the
        largest count, and outputs `output_name(tensor, count)` [count, ...].
    """
    nodes, inputs, outputs = b"", b"", b""
    for name, shape in tensors.items():
        images = [input_name(name, number) for number in range(max(counts))]
        inputs += b"".join(_message(11, _value(image, shape)) for image in images)
        for count in counts:
            output = output_name(name, count)
            nodes += _message(1, _concat(images[:count], output))
            outputs += _message(12, _value(output, [count, *shape[1:]]))
    graph = nodes + _text(2, "stack") + inputs + outputs
    return _number(1, _IR_VERSION) + _message(7, graph) + _message(8, _number(2, _OPSET))


def _concat(inputs: Sequence[str], output: str) -> bytes:
    axis = _text(1, "axis") + _number(3, 0) + _number(20, _INT_ATTRIBUTE)
    names = b"".join(_text(1, name) for name in inputs) + _text(2, output)
    return names + _text(4, "Concat") + _message(5, axis)


def _value(name: str, shape: Sequence[int]) -> bytes:
    dims = b"".join(_message(1, _number(1, size)) for size in shape)
    tensor = _number(1, _FLOAT) + _message(2, dims)
    return _text(1, name) + _message(2, _message(1, tensor))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = b""
    while value > 127:
        encoded += bytes([value & 127 | 128])
        value >>= 7
    return encoded + bytes([value])
