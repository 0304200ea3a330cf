"""The default engine: onnxruntime on the CPU, for folders written by `anymask.model.export.nano`."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any

import numpy as np

from anymask.errors import ModelError, ModelFormatError
from anymask.runtime.backend import FloatArray
from anymask.runtime.engine import Engine
from anymask.runtime.file_bytes import FileBytes
from anymask.runtime.graph_backend import LARGE_BYTES, GraphBackend, decoder_ports, threads_of_a_share
from anymask.runtime.image_parts import ImageParts
from anymask.runtime.manifest import (
    FORMAT,
    GRAPHS,
    IMAGE_GRAPH,
    WEIGHTS,
    Manifest,
    read_graph,
    read_manifest,
    read_outside_weights,
)
from anymask.runtime.onnx_format import OutsideTensor, outside_tensors, refuse_external_data


class OnnxBackend(GraphBackend):
    """A model of two verified graphs (three where the decoder is cut in two) and the weights that lie beside them.

    All files are read and checked when the model is loaded; a graph becomes a session when it is first needed,
    so that working with a saved embedding costs no encoder. Sessions are made from bytes, never from a path.
    Safe to call from several threads.
    """

    def __init__(self, folder: Traversable, threads: int = 0) -> None:
        """``threads`` for one inference, 0 for onnxruntime's choice.

        Raises `NotFoundError`, `ModelFormatError` or `WeightsError` with one sentence.
        """
        super().__init__()
        manifest = read_manifest(folder)
        if manifest.format != FORMAT:
            raise ModelFormatError(
                f"{str(folder)!r} was exported for another engine ({manifest.format}); use backend='openvino'"
            )
        self.manifest: Manifest = manifest
        self.engine = Engine("onnxruntime", manifest.precision)
        encoder, decoder = verified_graphs(folder, manifest)
        frees = encoder.size >= LARGE_BYTES
        self._encoder = _Graph(encoder, GRAPHS[0], threads, ("pixels",), manifest.features, frees)
        if manifest.parts:
            image = verified_image(folder, manifest)
            graph = _Graph(image, IMAGE_GRAPH, threads, manifest.features, manifest.parts)
            self._parts = ImageParts(graph.run)
        ports = decoder_ports(manifest)
        self._decoder = _Graph(decoder, GRAPHS[1], threads, *ports)
        if narrow := threads_of_a_share(threads):
            self._share = _Graph(decoder, GRAPHS[1], narrow, *ports)


class _Graph:
    """One ONNX graph: bytes until first used, then a session."""

    def __init__(
        self,
        verified: VerifiedGraph,
        name: str,
        threads: int,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        frees: bool = False,
    ) -> None:
        """``frees``: the memory of a run is given back after it."""
        self._source: VerifiedGraph | None = verified
        self._frees = frees
        self._name, self._threads, self._inputs, self._outputs = name, threads, inputs, outputs
        self._lock = threading.Lock()
        self._session: Any = None

    def run(self, inputs: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Outputs by name; raises `ModelError` when onnxruntime refuses."""
        session = self._open()
        try:
            outputs = session.run(list(self._outputs), dict(inputs), self._run_options())
        except Exception as error:  # onnxruntime has a class per status, all outside its public names
            raise ModelError(f"{self._name} could not be run: {first_line(error)}") from error
        return dict(zip(self._outputs, outputs, strict=True))

    def _run_options(self) -> Any:
        if not self._frees:
            return None
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return options

    def _open(self) -> Any:
        with self._lock:
            if self._session is None:
                assert self._source is not None
                self._session = self._make_session(self._source)
                self._source = None  # the session has copies of all it needs
            return self._session

    def _make_session(self, source: VerifiedGraph) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3  # errors; they come back as exceptions too
        options.enable_mem_pattern = False  # it keeps a plan per input shape, and shapes vary without end
        if weights := source.arrays():
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
            options.add_external_initializers(list(weights), values)
        try:
            session = onnxruntime.InferenceSession(source.model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelFormatError(f"onnxruntime cannot load {self._name}: {first_line(error)}") from error
        seen_inputs = {node.name for node in session.get_inputs()}
        seen_outputs = {node.name for node in session.get_outputs()}
        if seen_inputs != set(self._inputs) or not set(self._outputs) <= seen_outputs:
            raise ModelFormatError(
                f"{self._name} must take {self._inputs} and give {self._outputs}, "
                f"it takes {sorted(seen_inputs)!r:.300} and gives {sorted(seen_outputs)!r:.300}"
            )
        return session


@dataclass(frozen=True)
class VerifiedGraph:
    """A graph's bytes, and those of the weights that it keeps in a file of its own."""

    model: bytes
    outside: tuple[OutsideTensor, ...] = ()
    data: FileBytes | None = None

    @property
    def size(self) -> int:
        """Bytes of graph and weights."""
        return len(self.model) + (0 if self.data is None else self.data.array.nbytes)

    def arrays(self) -> dict[str, FloatArray]:
        """The outside weights by name, as views of one buffer."""
        if self.data is None:
            return {}
        return {
            tensor.name: self.data.array[tensor.offset : tensor.offset + tensor.size]
            .view(np.float32)
            .reshape(tensor.shape)
            for tensor in self.outside
        }


def verified_graphs(folder: Traversable, manifest: Manifest) -> tuple[VerifiedGraph, VerifiedGraph]:
    """Encoder and decoder of a folder, every byte of them vouched for by its manifest.

    Raises `NotFoundError`, `ModelFormatError` or `WeightsError`.
    """
    encoder, decoder = (
        _verified(folder, graph, weights, manifest) for graph, weights in zip(GRAPHS, WEIGHTS, strict=True)
    )
    return encoder, decoder


def verified_image(folder: Traversable, manifest: Manifest) -> VerifiedGraph:
    """The graph that makes the manifest's parts of the features; raises as `verified_graphs`."""
    model = read_graph(folder, IMAGE_GRAPH, manifest)
    refuse_external_data(model, f"{folder}/{IMAGE_GRAPH}")
    return VerifiedGraph(model)


def _verified(folder: Traversable, name: str, weights: str, manifest: Manifest) -> VerifiedGraph:
    model = read_graph(folder, name, manifest)
    if weights not in manifest.files:
        refuse_external_data(model, f"{folder}/{name}")
        return VerifiedGraph(model)
    outside = outside_tensors(model, f"{folder}/{name}", weights, manifest.files[weights][0])
    return VerifiedGraph(model, outside, read_outside_weights(folder, weights, manifest))


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
