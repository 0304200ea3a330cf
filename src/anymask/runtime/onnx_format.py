"""The one thing that must be known of an ONNX file before a library opens it: where it keeps its weights.

ONNX allows a tensor to name another file ("external data"), anywhere in attributes, subgraphs, functions and
training graphs. Walking the protobuf wire format here keeps the `onnx` package out of the default install. A graph
may name one file only, in the weights of its outermost graph and nowhere else, and only the name its manifest
vouches for; the engines get those weights from memory and are never told a path.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from anymask.errors import ModelFormatError

_MAX_DEPTH: Final = 64
_EXTERNAL: Final = 1
_FLOAT: Final = 1
_MAX_AXES: Final = 8

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
_GRAPH, _INITIALIZER, _INPUT = 7, 5, 11


@dataclass(frozen=True)
class OutsideTensor:
    """One float32 weight that lies in the file beside the graph, at ``offset``."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Bytes."""
        count = 4
        for side in self.shape:
            count *= side
        return count


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


def outside_tensors(model: bytes, origin: str, location: str, size: int) -> tuple[OutsideTensor, ...]:
    """The weights that ``model`` keeps in the file called ``location``, of ``size`` bytes.

    Raises `ModelFormatError` when it is no protobuf, names another file, keeps anything but float32 weights of its
    outermost graph outside, or means bytes beyond the file's end.
    """
    refuse_external_data(_split(model, origin)[0], origin)
    tensors = []
    for body in _split(model, origin)[1]:
        try:
            tensor = _outside_tensor(body, location)
        except (IndexError, ValueError) as error:
            raise ModelFormatError(
                f"{origin!r} keeps a weight outside in a way that is refused: {error}"
            ) from error
        if tensor.offset + tensor.size > size:
            raise ModelFormatError(
                f"{origin!r} looks for the weight {tensor.name!r:.80} beyond the end of {location!r}"
            )
        tensors.append(tensor)
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise ModelFormatError(f"{origin!r} has two weights of one name")
    return tuple(tensors)


def with_inputs_for(model: bytes, origin: str, tensors: tuple[OutsideTensor, ...]) -> bytes:
    """The same graph, in which the weights of ``tensors`` are inputs: no trace of another file is left in it.

    For engines that follow external data by themselves, or not at all.
    """
    rest, _ = _split(model, origin)
    declared = b"".join(_field(_INPUT, _declaration(tensor)) for tensor in tensors)
    # A message that comes twice in protobuf is merged, its lists joined: the inputs need no place in the old graph.
    return rest + _field(_GRAPH, declared)


def _split(model: bytes, origin: str) -> tuple[bytes, list[memoryview]]:
    """The model without the weights of its outermost graph that lie outside, and those weights' messages."""
    kept, outside = bytearray(), []
    try:
        for field, start, body, end in _fields(memoryview(model)):
            if field != _GRAPH or body is None:
                kept += model[start:end]
                continue
            graph = bytearray()
            for inner, first, tensor, last in _fields(body):
                if inner == _INITIALIZER and tensor is not None and _has_external(tensor, "tensor", 0):
                    outside.append(tensor)
                else:
                    graph += body[first:last]
            kept += _field(_GRAPH, bytes(graph))
    except (IndexError, ValueError) as error:
        raise ModelFormatError(f"{origin!r} is not a whole ONNX file: {error}") from error
    return bytes(kept), outside


def _outside_tensor(body: memoryview, location: str) -> OutsideTensor:
    """Read a TensorProto: dims 1, data_type 2, name 8, external_data 13 (key 1, value 2), data_location 14."""
    shape: list[int] = []
    facts: dict[str, str] = {}
    name, kind, place = "", 0, 0
    for field, start, value, _ in _fields(body):
        if field == 1 and value is not None:  # packed
            position = 0
            while position < len(value):
                side, position = _varint(value, position)
                shape.append(side)
        elif field in (1, 2, 14):
            number, _ = _varint(body, _varint(body, start)[1])
            shape += [number] if field == 1 else []
            kind = number if field == 2 else kind
            place = number if field == 14 else place
        elif field == 8 and value is not None:
            name = bytes(value).decode("utf-8")
        elif field == 13 and value is not None:
            entry = {inner: bytes(text or b"").decode("utf-8") for inner, _, text, _ in _fields(value)}
            facts[entry.get(1, "")] = entry.get(2, "")
        elif field not in (12,):  # 12 is a text for people; anything else would be values of its own
            raise ValueError(f"its field {field} is not expected")
    if (kind, place) != (_FLOAT, _EXTERNAL) or not name or len(shape) > _MAX_AXES:
        raise ValueError("only named float32 weights may lie outside")
    if any(not 0 < side < 2**31 for side in shape):
        raise ValueError(f"its sides are {shape!r:.100}")
    if facts.get("location") != location:
        raise ValueError(f"it names the file {facts.get('location')!r:.100}, only {location!r} is allowed")
    offset, length = _whole(facts.get("offset", "0")), _whole(facts.get("length", ""))
    tensor = OutsideTensor(name, tuple(shape), offset)
    if tensor.size != length or offset % 4:
        raise ValueError(f"{length} bytes at {offset} do not fit the shape {shape!r:.100}")
    return tensor


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise ValueError(f"{text!r:.40} is no whole number")
    return int(text)


def _declaration(tensor: OutsideTensor) -> bytes:
    """A ValueInfoProto: name 1, type 2 (tensor_type 1: elem_type 1, shape 2: dim 1: dim_value 1)."""
    dims = b"".join(_field(1, b"\x08" + _number(side)) for side in tensor.shape)
    kind = b"\x08" + _number(_FLOAT) + _field(2, dims)
    return _field(1, tensor.name.encode("utf-8")) + _field(2, _field(1, kind))


def _field(number: int, body: bytes) -> bytes:
    return _number(number << 3 | 2) + _number(len(body)) + body


def _number(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


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


def _fields(message: memoryview) -> Iterator[tuple[int, int, memoryview | None, int]]:
    """(number, where it starts, its bytes or None for a plain number, where it ends) of each field."""
    position = 0
    while position < len(message):
        start = position
        tag, position = _varint(message, position)
        _, body, position = _value(message, tag & 7, position)
        yield tag >> 3, start, body if tag & 7 == 2 else None, position


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
