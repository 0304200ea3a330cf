"""Dynamic int8 for the encoder of an exported folder: onnxruntime quantises, the caller judges.

The weights of the products with constants are kept as signed 8-bit numbers, one scale per output channel; what they are
multiplied with is scaled to 8 bits when it is known. Products inside attention and the decoder stay in float32.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from anymask.errors import MissingExtraError


def quantise_encoder(source: Path, target: Path, weight_bits: int = 8) -> None:
    """Write the encoder ``source`` (with its weights beside it, if they lie there) to the one file ``target``.

    With 7 ``weight_bits`` sums of products fit in 16 bits, for processors that add pairs of them there.
    """
    try:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise MissingExtraError(
            "int8 needs the onnx package; install it with: pip install 'anymask[torch]'"
        ) from error
    graph = onnx.load(str(source), load_external_data=False).graph
    flat = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    others = [n.name for n in graph.node if n.op_type == "MatMul" and n.input[1] not in flat]
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # the quantiser's advice to preprocess, which the export has done
    try:
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            written = Path(folder, "encoder.onnx")
            quantize_dynamic(
                source,
                written,
                op_types_to_quantize=["MatMul"],  # which it makes of Gemm first
                nodes_to_exclude=others,
                per_channel=True,
                reduce_range=weight_bits < 8,
                weight_type=QuantType.QInt8,
                use_external_data_format=True,
            )
            model = onnx.load(str(written))
    finally:
        root.setLevel(level)
    target.write_bytes(model.SerializeToString())
