"""Subjects: whatever stands in a table of results, opened from a word on the command line.

``nano`` or a path is a model of the registry, ``closer:MODEL`` the same with a closer look at every answer;
``baseline:NAME`` a method without learning; ``hf:PATH`` a promptable model of transformers in a local folder;
``detector:PATH`` an instance-segmentation model, whose detections answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from anymask.errors import NotFoundError, WeightsError
from anymask.evaluation.peers.baselines import BASELINES, baseline
from anymask.predict.closer import CloserLook
from anymask.predict.promptable import Promptable
from anymask.predict.segmenter import Segmenter
from anymask.runtime.onnx_backend import OnnxBackend
from anymask.runtime.openvino_backend import OpenVinoBackend
from anymask.runtime.registry import known_models, load_backend, resolve
from anymask.settings import Settings, load_settings

if TYPE_CHECKING:
    from anymask.evaluation.peers.detector import Detector
    from anymask.evaluation.peers.hf_peer import HfPeer

__all__ = ["KINDS", "Subject", "card_sources", "open_subject"]

KINDS: Final = ("closer", "baseline", "hf", "detector")
"""Words before a colon."""


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        spec: opens it again, in this process or another.
        name: in tables.
        digest: SHA-256 of all that decides its answers.
        model: answers prompts.
        file_bytes: size of its files; None where there are none or it is not known.
        parameters: numbers that training set; None where not stated.
        sources: names of training sources; empty when nothing was learned, None when not stated.
    """

    spec: str
    name: str
    digest: str
    model: Promptable
    file_bytes: int | None = None
    parameters: int | None = None
    sources: frozenset[str] | None = None


def open_subject(spec: str, threads: int = 0) -> Subject:
    """Open what a word names; ``threads`` for one answer, 0 leaves the choice to the engine.

    Raises:
        NotFoundError: there is no such model or baseline; the sentence names those there are.
        ModelError: it cannot be used.
        MissingExtraError: it needs a package that is not installed.
    """
    kind, colon, rest = spec.partition(":")
    if colon and kind in KINDS and not rest.strip():
        raise NotFoundError(f"{spec!r} names nothing after the colon; {_known()}")
    if colon and kind == "baseline":
        method = baseline(rest)
        return Subject(spec, method.name, method.digest, method, sources=frozenset())
    if colon and kind in ("hf", "detector"):
        return _of_transformers(spec, kind, rest, threads)
    settings = load_settings()
    settings = replace(settings, threads=threads) if threads else settings
    if colon and kind == "closer":
        return _looking_closer(spec, rest, settings)
    return _of_registry(spec, settings)


def card_sources(facts: Mapping[str, Any]) -> frozenset[str] | None:
    """Names of training sources, from a manifest's facts (``training.sources``); None where they are not stated."""
    training = facts.get("training")
    sources = training.get("sources") if isinstance(training, Mapping) else None
    if not isinstance(sources, list) or not all(isinstance(name, str) for name in sources):
        return None
    return frozenset(sources)


def _looking_closer(spec: str, model: str, settings: Settings) -> Subject:
    plain = _of_registry(model, settings)
    assert isinstance(plain.model, Segmenter)
    closer = CloserLook(plain.model)
    return replace(plain, spec=spec, name=f"closer:{plain.name}", digest=closer.digest, model=closer)


def _of_registry(spec: str, settings: Settings) -> Subject:
    try:
        entry = resolve(spec, settings)
    except NotFoundError as error:
        raise NotFoundError(f"there is no subject {spec!r:.200}; {_known(settings)}") from error
    backend = load_backend(spec, settings)
    segmenter = Segmenter(backend)
    name, digest = segmenter.spec.name, segmenter.spec.digest
    if entry.engine == "torch" or not isinstance(backend, OnnxBackend | OpenVinoBackend):
        weights = Path(str(entry.location))
        return Subject(spec, name, digest, segmenter, weights.stat().st_size, _numbers_in(weights))
    manifest = backend.manifest
    training = manifest.facts.get("training")
    parameters = training.get("parameters") if isinstance(training, Mapping) else None
    return Subject(
        spec,
        name,
        digest,
        segmenter,
        file_bytes=sum(size for size, _ in manifest.files.values()),
        parameters=parameters if isinstance(parameters, int) else None,
        sources=card_sources(manifest.facts),
    )


def _of_transformers(spec: str, kind: str, path: str, threads: int) -> Subject:
    peer: HfPeer | Detector
    if kind == "hf":
        from anymask.evaluation.peers.hf_peer import HfPeer

        peer = HfPeer(path, threads=threads)
    else:
        from anymask.evaluation.peers.detector import Detector

        peer = Detector(path, threads=threads)
    folder = peer.folder
    return Subject(spec, folder.name, peer.digest, peer, folder.file_bytes, peer.parameters, folder.sources())


def _numbers_in(weights: Path) -> int | None:
    """Numbers in a safetensors file, from its header alone; None for another kind of file."""
    if weights.suffix != ".safetensors":
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="numpy") as file:
            return sum(int(prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"cannot read the weights {str(weights)!r:.200}: {error}") from error


def _known(settings: Settings | None = None) -> str:
    models = ", ".join(entry.name for entry in known_models(settings)) or "none"
    methods = ", ".join(f"baseline:{method.name}" for method in BASELINES)
    return (
        f"there are the models {models}, a model's path, closer:MODEL of either, {methods}, "
        "hf:FOLDER of a promptable model and detector:FOLDER of a detector"
    )
