"""Subjects: every kind is opened from its word, here and in a process of its own."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anymask
from anymask.errors import ModelFormatError, NotFoundError
from anymask.evaluation.peers.baselines import BASELINES
from anymask.evaluation.subjects import KINDS, card_sources, open_subject

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def answer_of(spec: str) -> tuple[str, str]:
    """Digest and mask of a subject; run in other processes too."""
    subject = open_subject(spec, threads=1)
    mask = subject.model.segment(subject.model.embed(PICTURE), box=(5, 5, 40, 30), multimask=False)[0]
    return subject.digest, mask.rle["counts"]


def with_training(folder: Path, copy: Path, training: dict[str, Any]) -> Path:
    """A copy of an exported model whose manifest tells another training."""
    shutil.copytree(folder, copy)
    facts = json.loads((copy / "manifest.json").read_text())
    del facts["sha256"]
    facts["training"] = training
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    facts["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (copy / "manifest.json").write_text(json.dumps(facts))
    return copy


def test_the_embedded_model_by_its_name() -> None:
    subject = open_subject("nano", threads=1)
    files = Path(anymask.__file__).parent / "assets/nano"
    assert subject.spec == subject.name == "nano"
    assert subject.digest == anymask.load("nano", threads=1).spec.digest
    assert subject.file_bytes == sum(file.stat().st_size for file in files.glob("*.onnx"))


def test_a_folder_tells_its_sources_and_parameters_or_not(nano_folder: Path, tmp_path: Path) -> None:
    plain = open_subject(str(nano_folder), threads=1)
    assert (plain.name, plain.sources, plain.parameters) == ("small", None, None)
    told = with_training(nano_folder, tmp_path / "told", {"sources": ["shapes", "SA-1B"], "parameters": 4321})
    subject = open_subject(str(told), threads=1)
    assert subject.sources == {"shapes", "SA-1B"}
    assert subject.parameters == 4321
    assert subject.digest == plain.digest  # the same graphs
    untaught = with_training(nano_folder, tmp_path / "untaught", {"sources": []})
    assert open_subject(str(untaught), threads=1).sources == frozenset()


def test_a_closer_look_is_the_model_with_other_answers(nano_folder: Path) -> None:
    plain, closer = (
        open_subject(str(nano_folder), threads=1),
        open_subject(f"closer:{nano_folder}", threads=1),
    )
    assert isinstance(closer.model, anymask.CloserLook)
    assert (closer.spec, closer.name) == (f"closer:{nano_folder}", "closer:small")
    assert (closer.file_bytes, closer.parameters) == (plain.file_bytes, plain.parameters)
    assert closer.digest == closer.model.digest != plain.digest
    embedding = closer.model.embed(PICTURE)
    mask = closer.model.segment(embedding, box=(5, 5, 15, 12), multimask=False)[0]
    assert mask.size == PICTURE.shape[:2]


@pytest.mark.parametrize("spec", ["closer:nonesuch", "closer:baseline:ellipse", "closer:closer:nano"])
def test_a_closer_look_is_for_models_only(spec: str) -> None:
    with pytest.raises(NotFoundError, match="closer:MODEL"):
        open_subject(spec)


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"training": None},
        {"training": []},
        {"training": {}},
        {"training": {"sources": "SA-1B"}},
        {"training": {"sources": [1]}},
    ],
)
def test_sources_that_are_not_a_list_of_names_are_not_stated(facts: dict[str, Any]) -> None:
    assert card_sources(facts) is None


@pytest.mark.torch
def test_weights_for_torch_by_their_path(tmp_path: Path, random_sam: Any) -> None:
    from anymask.model.families import save_network
    from anymask.model.variants import TINY_TEST

    save_network(random_sam, TINY_TEST, tmp_path / "tiny.safetensors")
    subject = open_subject(str(tmp_path / "tiny.safetensors"), threads=1)
    assert subject.file_bytes == (tmp_path / "tiny.safetensors").stat().st_size
    assert subject.parameters == sum(tensor.numel() for tensor in random_sam.state_dict().values())
    assert subject.sources is None


@pytest.mark.parametrize("kind", BASELINES)
def test_a_baseline_has_learned_nothing(kind: Any) -> None:
    subject = open_subject(f"baseline:{kind.name}")
    assert isinstance(subject.model, kind)
    assert (subject.name, subject.digest, subject.sources) == (kind.name, kind().digest, frozenset())
    assert subject.file_bytes is None


@pytest.mark.torch
def test_models_of_transformers_from_their_folders(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from small_peers import save_detector, save_sam2

    save_sam2(tmp_path / "peer")
    save_detector(tmp_path / "seer")
    (tmp_path / "seer/README.md").write_text("---\ndatasets:\n- coco\n---\n")
    peer, seer = (
        open_subject(spec, threads=1) for spec in (f"hf:{tmp_path}/peer", f"detector:{tmp_path}/seer")
    )
    assert (peer.name, peer.sources, seer.name, seer.sources) == ("peer", None, "seer", {"coco"})
    assert seer.file_bytes == (tmp_path / "seer/model.safetensors").stat().st_size
    for subject in (peer, seer):
        masks = subject.model.segment(subject.model.embed(PICTURE), box=(5, 5, 40, 30))
        assert masks.image_size == (40, 60)


def test_a_process_of_its_own_opens_the_same(nano_folder: Path) -> None:
    specs = [str(nano_folder), f"closer:{nano_folder}", "baseline:ellipse"]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(answer_of, specs) == [answer_of(spec) for spec in specs]


@pytest.mark.parametrize("spec", ["nonesuch", "", "baseline:", "closer:", "mystery:thing", "./nowhere"])
def test_unknown_words_are_answered_with_what_is_known(spec: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        open_subject(spec)
    for known in ("nano", *(f"baseline:{kind.name}" for kind in BASELINES), *(f"{kind}:" for kind in KINDS)):
        assert known in str(caught.value)


def test_unknown_kinds_of_each_sort(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="filled_box, ellipse, grabcut"):
        open_subject("baseline:magic")
    with pytest.raises(NotFoundError, match="nothing is downloaded"):
        open_subject("hf:facebook/sam-vit-base")
    with pytest.raises(NotFoundError, match="nothing is downloaded"):
        open_subject(f"detector:{tmp_path}/none")
    with pytest.raises(ModelFormatError):
        open_subject(str(tmp_path))
