"""Parts of an image are computed once, and never handed out for another."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from anymask.errors import ModelFormatError
from anymask.model.folders import write_manifest
from anymask.runtime.backend import Needed
from anymask.runtime.image_parts import IMAGES_KEPT, ImageParts
from anymask.runtime.manifest import read_manifest


class Counting:
    """Doubles the embedding and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, features):
        self.calls += 1
        return {"double": features["embedding"] * 2}


def _features(value: float, writeable: bool = False):
    array = np.full((1, 2, 3, 3), value, np.float32)
    array.flags.writeable = writeable
    return {"embedding": array}


def test_an_image_is_computed_once_while_it_is_kept():
    compute = Counting()
    parts, images = ImageParts(compute), [_features(i) for i in range(IMAGES_KEPT + 1)]
    for image in images[:IMAGES_KEPT] * 3:
        assert np.array_equal(parts.of(image)["double"], image["embedding"] * 2)
    assert compute.calls == IMAGES_KEPT
    parts.of(images[-1])  # the one not asked for longest goes
    parts.of(images[IMAGES_KEPT - 1])
    assert compute.calls == IMAGES_KEPT + 1
    parts.of(images[0])
    assert compute.calls == IMAGES_KEPT + 2


def test_equal_values_elsewhere_and_arrays_that_change_are_not_taken_for_the_image():
    compute = Counting()
    parts, changing = ImageParts(compute), _features(1, writeable=True)
    parts.of(_features(1))
    parts.of(_features(1))
    assert compute.calls == 2
    assert parts.of(changing)["double"][0, 0, 0, 0] == 2
    changing["embedding"][:] = 5
    assert parts.of(changing)["double"][0, 0, 0, 0] == 10


def test_threads_that_ask_at_once_share_one_computation():
    compute, image = Counting(), _features(3)
    parts, start = ImageParts(compute), threading.Barrier(4)

    def ask():
        start.wait()
        parts.of(image)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert compute.calls == 1


def test_a_decoder_cut_in_two_runs_its_image_once_and_answers_like_torch(random_sam, tmp_path: Path):
    from anymask.model.export.network import export_network
    from anymask.model.variants import TINY_TEST
    from anymask.runtime.agreement import agreement, ask, trial_prompts
    from anymask.runtime.checks import low_res_size
    from anymask.runtime.onnx_backend import OnnxBackend
    from anymask.runtime.torch_backend import TorchBackend

    export_network(random_sam, TINY_TEST, tmp_path / "sam")
    backend = OnnxBackend(tmp_path / "sam", 1)
    assert backend._parts is not None
    calls, compute = [], backend._parts._compute
    backend._parts._compute = lambda features: calls.append(1) or compute(features)
    answers = ask(backend)
    assert agreement(ask(TorchBackend(random_sam, TINY_TEST)), answers).faults() == []
    calls.clear()
    embedding = answers.features["embedding"]
    embedding.flags.writeable = False
    for prompts in trial_prompts(backend.spec, (128, 128), low_res_size(backend.spec, answers.features)):
        backend.decode(answers.features, prompts)
    assert len(calls) == 1

    manifest = json.loads((tmp_path / "sam" / "manifest.json").read_text())
    del manifest["sha256"]
    for broken in ({"parts": []}, {"parts": ["keys0", "keys0"]}, {"parts": [3]}, {"parts": ["x"] * 65}):
        write_manifest(tmp_path / "sam", manifest | broken)
        with pytest.raises(ModelFormatError, match="parts"):
            read_manifest(tmp_path / "sam")
    write_manifest(tmp_path / "sam", manifest | {"screens": "yes"})
    with pytest.raises(ModelFormatError, match="screens must be true or false"):
        read_manifest(tmp_path / "sam")


def test_torch_looks_at_an_image_once_too(random_sam):
    from anymask.model.variants import TINY_TEST
    from anymask.runtime.agreement import trial_pixels, trial_prompts
    from anymask.runtime.checks import low_res_size
    from anymask.runtime.torch_backend import TorchBackend

    backend = TorchBackend(random_sam, TINY_TEST)
    looks = []
    backend._look.register_forward_hook(lambda *_: looks.append(1))
    features = backend.encode(trial_pixels(backend.spec))
    other = {"embedding": features["embedding"] + 1}
    prompts = next(trial_prompts(backend.spec, (128, 128), low_res_size(backend.spec, features)))
    changing = backend.decode(features, prompts)
    assert len(looks) == 1
    for image in (features, other):
        image["embedding"].flags.writeable = False
    for _ in range(3):
        assert np.array_equal(backend.decode(features, prompts)[0], changing[0])
        assert not np.array_equal(backend.decode(other, prompts)[0], changing[0])
        backend.decode_promising(features, prompts, Needed(0.0))
    assert len(looks) == 3
