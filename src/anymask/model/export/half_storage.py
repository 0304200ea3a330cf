"""Weights of an ONNX graph stored in half precision: half the file, the same arithmetic.

Large float32 initialisers become float16 followed by a cast, which every runtime folds when it loads the graph; all
operators go on in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anymask.errors import MissingExtraError

LEAST_VALUES = 256
"""Smaller tensors (biases, constants of shapes) stay as they are: they cost nothing and may need all their digits."""

__all__ = ["LEAST_VALUES", "store_half"]


def store_half(model: bytes) -> bytes:
    """The same graph with its large float32 weights stored as float16.

    Each value is rounded to the nearest half (relative error at most 2^-11; below 6e-5 in size, absolute error at most
    3e-8). A tensor with values beyond the range of float16 (65,504) stays in float32.

    Args:
        model: a serialised ONNX graph whose weights lie in its initialisers.

    Raises:
        MissingExtraError: the onnx package is not installed.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise MissingExtraError("Export needs the onnx package: pip install 'anymask[torch]'.") from None
    document: Any = onnx.load_from_string(model)
    casts = []
    for tensor in document.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < LEAST_VALUES or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(
            onnx.helper.make_node(
                "Cast", [f"{name}.half"], [name], name=f"{name}.half.cast", to=onnx.TensorProto.FLOAT
            )
        )
    nodes = [*casts, *document.graph.node]
    del document.graph.node[:]
    document.graph.node.extend(nodes)
    data: bytes = document.SerializeToString()
    return data
