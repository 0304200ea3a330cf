"""A look at an ONNX file's bytes before onnxruntime sees them: nothing in it may point outside.

ONNX lets a tensor keep its values in another file, named by a path of the model's choosing (CVE-2024-27318,
CVE-2025-51480 were ways out of the folder). Ours never do, so such tensors are refused wherever they hide:
initialisers, sparse ones, attributes of nodes, subgraphs, functions and training graphs. Walking the protobuf
wire format here keeps the `onnx` package out of the default install.
"""

from __future__ import annotations

from typing import Final

from anymask.errors import ModelFormatError

_MAX_DEPTH: Final = 64
_EXTERNAL: Final = 1

# Which fields of which message hold which message (onnx.proto3).
_CHILDREN: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "tensor": {},
}


def refuse_external_data(model: bytes, origin: str) -> None:
    """Raise `ModelFormatError` when the ONNX ``model`` is no protobuf or keeps tensors in other files."""
    try:
        external = _has_external(memoryview(model), "model", 0)
    except (IndexError, ValueError) as error:
        raise ModelFormatError(f"{origin!r} is not a whole ONNX file: {error}") from error
    if external:
        raise ModelFormatError(
            f"{origin!r} keeps weights in other files, which is refused; export it as one file"
        )


def _has_external(message: memoryview, kind: str, depth: int) -> bool:
    if depth > _MAX_DEPTH:
        raise ValueError("its graphs are nested too deeply")
    children, position = _CHILDREN[kind], 0
    while position < len(message):
        tag, position = _varint(message, position)
        field, wire = tag >> 3, tag & 7
        value, body, position = _value(message, wire, position)
        # TensorProto: field 13 is external_data, field 14 data_location.
        if kind == "tensor" and (field == 13 or (field == 14 and value == _EXTERNAL)):
            return True
        if field in children and wire == 2 and _has_external(body, children[field], depth + 1):
            return True
    return False


def _value(message: memoryview, wire: int, position: int) -> tuple[int, memoryview, int]:
    """One field's value: its number, or its bytes, and where the next field starts."""
    if wire == 0:
        value, end = _varint(message, position)
        return value, message[:0], end
    if wire == 2:
        length, position = _varint(message, position)
    elif wire in (1, 5):
        length = 8 if wire == 1 else 4
    else:
        raise ValueError(f"unknown wire type {wire}")
    end = position + length
    if end > len(message):
        raise ValueError("a field is longer than the file")
    return 0, message[position:end], end


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number is longer than ten bytes")
