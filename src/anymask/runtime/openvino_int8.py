"""The products of an encoder with its weights in int8, for OpenVINO; everything else stays in floating point.

Weights become signed 8-bit numbers with a scale for each output channel; they use 7 of the bits where the processor's
sums would overflow otherwise (see `int8_weight_bits`). What they are multiplied with is rounded to 8
bits as well, with scales that are fixed beforehand: pictures are run through the encoder in float32, and the largest
value of each channel is kept. Transformers have a few channels with values far beyond all others, which would take the
8 bits for themselves. So each channel is divided by the root of its largest value over that of its weights, and these
are multiplied by the same (Xiao et al., "SmoothQuant", 2023, with alpha 1/2); rounding does that division on the way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from anymask.errors import ModelError
from anymask.runtime.backend import FloatArray
from anymask.runtime.machine import int8_weight_bits

MARGIN: Final = 1.2
"""Other pictures may have values so many times larger than those that were looked at before they are cut off."""
_LEVELS: Final = 255
"""-127 to 127: zero stays zero."""
_WORTH: Final = 32 * 32
"""Products with fewer weights are left alone."""


@dataclass(frozen=True)
class _Product:
    """A node that multiplies rows of C channels with constant weights, its second input."""

    node: Any

    @property
    def transposed(self) -> bool:
        """Whether the weights lie as (outputs, C)."""
        return bool(self.node.get_attributes()["transpose_b"])

    @property
    def weights(self) -> FloatArray:
        """(C, outputs) float32, read anew each time: those of all products are gigabytes in a large network."""
        data = np.array(self.node.input_value(1).get_node().data, dtype=np.float32)
        return data.T if self.transposed else data

    @property
    def channels(self) -> int:
        """C."""
        return int(self.node.input_value(1).get_node().shape[1 if self.transposed else 0])


def quantise_products(core: Any, model: Any, pictures: Iterable[FloatArray], threads: int = 0) -> int:
    """Change an encoder's model in place and return how many of its products are in int8 then.

    Args:
        core: OpenVINO's entry.
        model: the encoder, with one input.
        pictures: (1, 3, h, w) each, as the encoder takes them, at least one.
        threads: for the runs that look at them; 0 leaves it to OpenVINO.

    Raises:
        ModelError: the encoder has no product with weights, or gives numbers that are not finite.
    """
    largest = _largest_values(core, model, pictures, threads)
    products = _products(model)
    for product, values in zip(products, largest, strict=True):
        _quantise(product, values * MARGIN)
    return len(products)


def _products(model: Any) -> list[_Product]:
    return [_Product(node) for node in model.get_ordered_ops() if _has_weights(node)]


def _has_weights(node: Any) -> bool:
    if node.get_type_name() != "MatMul" or node.get_attributes()["transpose_a"]:
        return False
    source = node.input_value(1).get_node()
    if source.get_type_name() != "Constant":
        return False
    shape = tuple(source.shape)
    return len(shape) == 2 and shape[0] * shape[1] >= _WORTH


def _largest_values(core: Any, model: Any, pictures: Iterable[FloatArray], threads: int) -> list[FloatArray]:
    """For each product the largest magnitude (C,) of every channel that goes into it."""
    from openvino import opset13 as ops

    probe = model.clone()
    before = len(probe.outputs)
    products, results = _products(probe), []
    for product in products:
        rows = product.node.input_value(0)
        axes = np.arange(len(rows.get_partial_shape()) - 1, dtype=np.int64)
        results.append(ops.result(ops.reduce_max(ops.absolute(rows), ops.constant(axes))))
    if not results:
        raise ModelError("the encoder has no product with weights that int8 could make faster")
    probe.add_results(results)
    config = {"INFERENCE_PRECISION_HINT": "f32"} | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
    request = core.compile_model(probe, "CPU", config).create_infer_request()
    found: list[FloatArray] = [np.zeros(product.channels, dtype=np.float32) for product in products]
    for pixels in pictures:
        request.infer([pixels])
        for index, values in enumerate(found):
            seen = request.get_output_tensor(before + index).data
            if not np.isfinite(seen).all():
                raise ModelError("the encoder gives NaN or infinity; its weights may be damaged")
            np.maximum(values, seen, out=values)
    return found


def _quantise(product: _Product, largest: FloatArray) -> None:
    """Round what goes into a product whose channels reach the values ``largest`` (C,), and its weights."""
    from openvino import opset13 as ops

    weights = product.weights
    reach = np.abs(weights).max(axis=1)
    silent = (largest == 0) | (reach == 0)
    divisors = np.where(silent, 1.0, np.sqrt(largest / np.where(silent, 1.0, reach))).astype(np.float32)
    top = max(float((largest / divisors).max()), float(np.finfo(np.float32).tiny))

    node, rank = product.node, len(product.node.input_value(0).get_partial_shape())
    ends = (top * divisors).reshape((1,) * (rank - 1) + (-1,)).astype(np.float32)
    rows = ops.fake_quantize(
        node.input_value(0),
        *(ops.constant(array) for array in (-ends, ends)),
        *(ops.constant(np.float32(value)) for value in (-top, top)),
        _LEVELS,
    )
    node.input(0).replace_source_output(rows.output(0))

    reach_of_weights = 2 ** (int8_weight_bits() - 1) - 1
    smoothed = weights * divisors[:, None]
    scales = np.abs(smoothed).max(axis=0, keepdims=True) / reach_of_weights
    scales[scales == 0] = 1
    whole = np.rint(smoothed / scales).astype(np.int8)
    if product.transposed:
        whole, scales = whole.T, scales.T
    kept = ops.constant(np.ascontiguousarray(whole))
    rounded = ops.multiply(ops.convert(kept, "f32"), ops.constant(np.ascontiguousarray(scales)))
    node.input(1).replace_source_output(rounded.output(0))
