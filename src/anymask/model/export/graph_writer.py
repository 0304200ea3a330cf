"""A torch module -> an ONNX graph without its weights, and the weights one by one.

The exporter is told to leave the weights out: the graph stays small whatever the network's size (a protobuf may not
be over 2 GB), and no second copy of all weights is ever in memory. They then go inside the graph when they are few, or
into one file beside it, each at an offset that engines can use in place.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anymask.errors import MissingExtraError

OPSET = 17
INSIDE_BYTES = 64 * 1024**2
"""Weights of up to this many bytes in all lie inside the graph."""
_ALIGNMENT = 4096
_SMALL = 1024


@dataclass(frozen=True)
class Ports:
    """Names of a graph's inputs and outputs, and which of their axes are free."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: Mapping[str, Mapping[int, str]]


def write_graph(
    module: nn.Module,
    example: Sequence[Tensor],
    ports: Ports,
    path: Path,
    inside_bytes: int = INSIDE_BYTES,
) -> tuple[Path, ...]:
    """Write ``path`` and, when the weights are over ``inside_bytes``, the file of the same stem ending in .weights.

    Returns the files written. Raises `MissingExtraError` without the onnx package.
    """
    onnx = _onnx()
    model = onnx.load_from_string(_traced(module, example, ports))
    state = dict(module.state_dict())
    moved = _take_transposes(model.graph, set(state))
    used = {name for node in _all_nodes(model.graph) for name in node.input}
    weights = [value.name for value in model.graph.input if value.name not in ports.inputs]
    for value in [value for value in model.graph.input if value.name in weights]:
        model.graph.input.remove(value)
    wanted = [name for name in (*weights, *moved) if name in used]
    total = sum(state[moved.get(name, (name, ()))[0]].nbytes for name in wanted)
    if total <= inside_bytes:
        for name in wanted:
            model.graph.initializer.append(onnx.numpy_helper.from_array(_array(state, moved, name), name))
        path.write_bytes(model.SerializeToString())
        return (path,)
    outside = path.with_suffix(".weights")
    with outside.open("wb") as file:
        for name in wanted:
            array = _array(state, moved, name)
            if array.nbytes < _SMALL or str(array.dtype) != "float32":
                model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
                continue
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            model.graph.initializer.append(_pointer(onnx, name, array.shape, outside.name, file.tell()))
            file.write(array.data)
    path.write_bytes(model.SerializeToString())
    return path, outside


def _traced(module: nn.Module, example: Sequence[Tensor], ports: Ports) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter(
            "ignore"
        )  # the exporter's remarks about itself; the parity gate judges its work
        torch.onnx.export(
            module.eval(),
            tuple(example),
            buffer,  # type: ignore[arg-type] # the exporter that traces takes a file, though it does not say so
            export_params=False,
            do_constant_folding=False,
            input_names=list(ports.inputs),
            output_names=list(ports.outputs),
            dynamic_axes={name: dict(axes) for name, axes in ports.axes.items()},
            opset_version=OPSET,
            dynamo=False,
        )
    return buffer.getvalue()


def _take_transposes(graph: Any, names: set[str]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Transposed weights become weights of their own: new name -> (weight, order of axes)."""
    moved: dict[str, tuple[str, tuple[int, ...]]] = {}
    for node in list(graph.node):
        if node.op_type == "Transpose" and node.input[0] in names:
            order = next(tuple(a.ints) for a in node.attribute if a.name == "perm")
            moved[node.output[0]] = (node.input[0], order)
            graph.node.remove(node)
    return moved


def _all_nodes(graph: Any) -> list[Any]:
    nodes = list(graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                nodes += _all_nodes(inner)
    return nodes


def _array(state: Mapping[str, Tensor], moved: Mapping[str, tuple[str, tuple[int, ...]]], name: str) -> Any:
    source, order = moved.get(name, (name, ()))
    tensor = state[source].detach()
    return (tensor.permute(order) if order else tensor).contiguous().numpy()


def _pointer(onnx: Any, name: str, shape: tuple[int, ...], location: str, offset: int) -> Any:
    size = 4
    for side in shape:
        size *= side
    tensor = onnx.TensorProto(
        name=name, data_type=onnx.TensorProto.FLOAT, dims=shape, data_location=onnx.TensorProto.EXTERNAL
    )
    for key, value in (("location", location), ("offset", offset), ("length", size)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _onnx() -> Any:
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError as error:
        raise MissingExtraError(
            "export needs the onnx package; install it with: pip install 'anymask[torch]'"
        ) from error
    return onnx
