"""OpenVINO on the CPU: the same exported folders as onnxruntime's, in float32 or, where the processor has it, bfloat16,
and its own, which may have an encoder in int8 (`openvino_int8`); the rest then runs in bfloat16 where it can.

Graphs are verified against their manifest before OpenVINO sees a byte of them. It is never given a path: weights that
lie beside a graph are put into it as the bytes that were verified. A compiled graph is kept in the cache folder (see
`compiled_cache`), so that a later process need not compile it again.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from anymask.errors import MissingExtraError, ModelError, ModelFormatError
from anymask.runtime.backend import FloatArray, ModelSpec
from anymask.runtime.compiled_cache import MAX_GRAPH_BYTES, CompiledCache
from anymask.runtime.engine import Engine
from anymask.runtime.file_bytes import FileBytes
from anymask.runtime.graph_backend import (
    LARGE_BYTES,
    SHARES,
    GraphBackend,
    decoder_ports,
    threads_of_a_share,
)
from anymask.runtime.image_parts import ImageParts
from anymask.runtime.manifest import (
    FORMAT,
    GRAPHS,
    IMAGE_GRAPH,
    OPENVINO_GRAPHS,
    OPENVINO_IMAGE,
    OPENVINO_WEIGHTS,
    Manifest,
    digest_at,
    read_graph,
    read_manifest,
    read_outside_weights,
)
from anymask.runtime.onnx_backend import VerifiedGraph, first_line, verified_graphs, verified_image
from anymask.runtime.onnx_format import with_inputs_for

PRECISIONS: Final = ("fp32", "bf16", "int8")
_STATIC_PAD: Final = "square"


class OpenVinoBackend(GraphBackend):
    """A model of two verified graphs on OpenVINO. Safe to call from several threads."""

    _multiple = 4
    """OpenVINO makes kernels for every length of an axis that it meets, so 4 or 8 prompts are drawn and not 1 to 8."""

    def __init__(
        self,
        folder: Traversable,
        threads: int = 0,
        precision: str | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        """``threads`` for one inference, 0 for OpenVINO's choice; ``precision`` that of the export when not given.

        Compiled graphs are kept below ``cache_dir``, when given. Raises `MissingExtraError` without OpenVINO,
        `NotFoundError`, `ModelFormatError` or `WeightsError` for the folder, `ModelError` for a precision that cannot
        be run here.
        """
        super().__init__()
        manifest = read_manifest(folder)
        if manifest.precision == "int8" and manifest.format == FORMAT:
            raise ModelError(f"{str(folder)!r} was exported as int8 for onnxruntime; use backend='onnx'")
        precision = precision or manifest.precision
        core = open_core()
        if "int8" in (precision, manifest.precision) and precision != manifest.precision:
            raise ModelError(
                f"{str(folder)!r} was exported in {manifest.precision} and cannot be run in {precision}; "
                "int8 is made by the export"
            )
        if precision not in PRECISIONS:
            raise ModelError(f"openvino runs a model in {', '.join(PRECISIONS)}, not in {precision!r}")
        if precision == "bf16" and not runs_bf16(core):
            raise ModelError("this processor has no bfloat16 arithmetic; use precision='fp32'")
        self.manifest: Manifest = manifest
        self.engine = Engine("openvino", precision)
        digest = manifest.spec.digest if precision == manifest.precision else _digest(manifest, precision)
        self._spec = replace(manifest.spec, digest=digest)
        half = precision == "bf16" or (precision == "int8" and runs_bf16(core))
        config = {"INFERENCE_PRECISION_HINT": "bf16" if half else "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            config["INFERENCE_NUM_THREADS"] = str(threads)
        files = _file_digest(manifest)
        cache = None if cache_dir is None else CompiledCache(cache_dir, files, config)
        encoder, decoder = _sources(folder, manifest)
        static = (
            {"pixels": [1, 3, self._spec.long_side, self._spec.long_side]}
            if self._spec.pad == _STATIC_PAD
            else None
        )
        features = manifest.features
        frees = encoder.size >= LARGE_BYTES
        self._encoder = _Graph(core, encoder, "encoder", config, cache, ("pixels",), features, static, frees)
        if manifest.parts:
            image = _image_source(folder, manifest)
            graph = _Graph(core, image, "image", config, cache, features, manifest.parts, None)
            self._parts = ImageParts(graph.run)
        ports = decoder_ports(manifest)
        self._decoder = _Graph(core, decoder, "decoder", config, cache, *ports, None)
        if narrow := threads_of_a_share(threads):
            config = {**config, "NUM_STREAMS": str(SHARES), "INFERENCE_NUM_THREADS": str(SHARES * narrow)}
            cache = None if cache_dir is None else CompiledCache(cache_dir, files, config)
            self._share = _Graph(core, decoder, "decoder", config, cache, *ports, None)

    @property
    def spec(self) -> ModelSpec:
        """The model's description."""
        return self._spec


class _Graph:
    """One graph: its source until first used, then a compiled model and as many requests as threads ask at once."""

    def __init__(
        self,
        core: Any,
        source: Source,
        name: str,
        config: Mapping[str, str],
        cache: CompiledCache | None,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        static: Mapping[str, list[int]] | None,
        frees: bool = False,
    ) -> None:
        """``static``: shapes of inputs, where they are fixed; ``frees``: the memory of a run is given back after it."""
        self._core, self._name, self._config = core, name, dict(config)
        self._cache = cache if source.size <= MAX_GRAPH_BYTES else None
        self._source: Source | None = source
        self._inputs, self._outputs, self._static = inputs, outputs, static
        self._lock = threading.Lock()
        self._compiled: Any = None
        self._idle: list[Any] = []
        self._frees, self._running = frees, 0
        self._weights: FileBytes | None = None

    def run(self, inputs: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Outputs by name; raises `ModelError` when OpenVINO refuses."""
        request = self._take()
        try:
            contiguous = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
            answer = request.infer(contiguous, share_inputs=True)
            return {name: np.array(answer[name], dtype=np.float32) for name in self._outputs}
        except Exception as error:  # OpenVINO raises RuntimeError and its children
            raise ModelError(f"{self._name} could not be run: {first_line(error)}") from error
        finally:
            self._put_back(request)

    def _take(self) -> Any:
        with self._lock:
            if self._compiled is None:
                self._compiled = self._open()
            request = self._idle.pop() if self._idle else self._compiled.create_infer_request()
            self._running += 1
            return request

    def _put_back(self, request: Any) -> None:
        with self._lock:
            self._idle.append(request)
            self._running -= 1
            if self._frees and not self._running:  # it may not be done while one runs
                self._compiled.release_memory()

    def _open(self) -> Any:
        compiled = None if self._cache is None else self._cache.get(self._core, self._name)
        if compiled is None:
            assert self._source is not None
            compiled = self._compile(self._source)
            if self._cache is not None:
                self._cache.put(compiled, self._name)
        self._source = None
        return compiled

    def _compile(self, source: Source) -> Any:
        try:
            model, self._weights = source.read(self._core)
            if self._static is not None:
                model.reshape(dict(self._static))
            compiled = self._core.compile_model(model, "CPU", self._config)
        except Exception as error:
            raise ModelFormatError(f"openvino cannot load the {self._name}: {first_line(error)}") from error
        if self._weights is not None:
            self._weights.rest()
        seen_inputs = {port.get_any_name() for port in compiled.inputs}
        seen_outputs = {name for port in compiled.outputs for name in port.get_names()}
        if seen_inputs != set(self._inputs) or not set(self._outputs) <= seen_outputs:
            raise ModelFormatError(
                f"the {self._name} must take {self._inputs} and give {self._outputs}, "
                f"it takes {sorted(seen_inputs)!r:.300} and gives {sorted(seen_outputs)!r:.300}"
            )
        return compiled


class Source(Protocol):
    """Where a graph comes from: verified bytes in one of the two formats."""

    size: int
    """Bytes of graph and weights."""

    def read(self, core: Any) -> tuple[Any, FileBytes | None]:
        """The graph as OpenVINO's model, and what must not be closed as long as it is used."""
        ...


class OnnxSource(Source):
    """An ONNX graph, its outside weights in memory."""

    def __init__(self, verified: VerifiedGraph, name: str) -> None:
        self._verified, self._name = verified, name
        self.size = verified.size

    def read(self, core: Any) -> tuple[Any, FileBytes | None]:
        """See `Source`. Outside weights are inputs to OpenVINO at first, which then become constants."""
        import openvino

        verified = self._verified
        if verified.data is None:
            return core.read_model(verified.model), None
        arrays = verified.arrays()
        model = core.read_model(with_inputs_for(verified.model, self._name, verified.outside))
        for parameter in list(model.get_parameters()):
            array = arrays.get(parameter.get_friendly_name())
            if array is not None:
                constant = openvino.op.Constant(openvino.Tensor(array, shared_memory=True))
                parameter.output(0).replace(constant.output(0))
                model.remove_parameter(parameter)
        return model, verified.data


class IrSource(Source):
    """A graph in OpenVINO's own format."""

    def __init__(self, graph: bytes, weights: FileBytes) -> None:
        self._graph, self._weights = graph, weights
        self.size = len(graph) + weights.array.nbytes

    def read(self, core: Any) -> tuple[Any, FileBytes | None]:
        """See `Source`."""
        import openvino

        tensor = openvino.Tensor(self._weights.array, shared_memory=True)
        return core.read_model(model=self._graph, weights=tensor), self._weights


def _sources(folder: Traversable, manifest: Manifest) -> tuple[Source, Source]:
    if manifest.format == FORMAT:
        encoder, decoder = verified_graphs(folder, manifest)
        return OnnxSource(encoder, GRAPHS[0]), OnnxSource(decoder, GRAPHS[1])
    first, second = (
        IrSource(read_graph(folder, graph, manifest), read_outside_weights(folder, weights, manifest))
        for graph, weights in zip(OPENVINO_GRAPHS, OPENVINO_WEIGHTS, strict=True)
    )
    return first, second


def _image_source(folder: Traversable, manifest: Manifest) -> Source:
    if manifest.format == FORMAT:
        return OnnxSource(verified_image(folder, manifest), IMAGE_GRAPH)
    graph, weights = OPENVINO_IMAGE
    return IrSource(read_graph(folder, graph, manifest), read_outside_weights(folder, weights, manifest))


def open_core() -> Any:
    """OpenVINO's entry, without any of its own caches; raises `MissingExtraError` when it is not installed."""
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError(
            "the openvino backend needs openvino; install it with: pip install 'anymask[openvino]'"
        ) from error
    return openvino.Core()


def runs_bf16(core: Any) -> bool:
    """Whether the processor multiplies bfloat16 (avx512_bf16 or AMX)."""
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _digest(manifest: Manifest, precision: str) -> str:
    if manifest.network_sha256 is not None:
        return digest_at(manifest.network_sha256, precision)
    return digest_at(manifest.spec.digest, precision)


def _file_digest(manifest: Manifest) -> str:
    """Over the files themselves, since two exports of one network share the model's digest."""
    return hashlib.sha256(repr(sorted(manifest.files.items())).encode()).hexdigest()
