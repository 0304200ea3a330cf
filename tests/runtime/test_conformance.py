"""One suite for every backend: what the layers above rely on."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from anymask.errors import ModelError
from anymask.frame import Frame
from anymask.model.nano.network import Nano
from anymask.model.sam.network import Sam
from anymask.model.variants import TINY_TEST
from anymask.predict.prompts import prompt_arrays
from anymask.runtime.backend import NUM_MASKS, Backend, Features, Needed, PromptArrays, decode_promising
from anymask.runtime.checks import EMBEDDING_STRIDE, cells_of
from anymask.runtime.fake_backend import FakeBackend
from anymask.runtime.onnx_backend import OnnxBackend
from anymask.runtime.openvino_backend import OpenVinoBackend
from anymask.runtime.torch_backend import TorchBackend
from anymask.types import Prompt

LOGITS, SCORES = 1e-5, 1e-5  # the largest seen of 4 backends: 2e-6 and 2e-7
SIZE = (75, 120)


KINDS = (
    "fake",
    "torch nano",
    "torch sam",
    "torch sam as published",
    "onnx nano",
    "onnx sam",
    "onnx nano in shares",
    "onnx sam in shares",
    "openvino nano",
    "openvino sam",
    "openvino sam in shares",
    "openvino sam with outside weights",
)


@pytest.fixture(scope="module")
def sam_folders(random_sam: Sam, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """`random_sam` exported with its weights inside the graphs, and in files beside them."""
    from anymask.model.export.network import export_network

    inside, outside = tmp_path_factory.mktemp("inside") / "sam", tmp_path_factory.mktemp("outside") / "sam"
    export_network(random_sam, TINY_TEST, inside)
    export_network(random_sam, TINY_TEST, outside, inside_bytes=0)
    return inside, outside


@pytest.fixture(scope="module", params=KINDS)
def backend(
    request: pytest.FixtureRequest,
    random_nano: Nano,
    random_sam: Sam,
    nano_folder: Path,
    sam_folders: tuple[Path, Path],
) -> Backend:
    """Each backend in turn."""
    engine, _, model = request.param.partition(" ")
    if engine == "fake":
        return FakeBackend()
    if engine == "torch":
        if model == "nano":
            return TorchBackend(random_nano)
        return TorchBackend(random_sam, TINY_TEST, as_published="published" in model)
    folder = nano_folder if model.startswith("nano") else sam_folders["outside" in model]
    threads = 2 if "in shares" in model else 1
    if engine == "onnx":
        return OnnxBackend(folder, threads)
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    return OpenVinoBackend(folder, threads)


def frame_of(backend: Backend, size: tuple[int, int] = SIZE) -> Frame:
    return Frame(size, backend.spec.long_side, backend.spec.pad)


def pixels_of(backend: Backend, size: tuple[int, int] = SIZE) -> np.ndarray:
    blocks = np.random.default_rng(3).integers(0, 256, (5, 8, 3))
    image = np.kron(blocks, np.ones((15, 15, 1)))[: size[0], : size[1]].astype(np.uint8)
    return frame_of(backend, size).to_network(image, backend.spec.pixel_mean, backend.spec.pixel_std)


def low_res_of(backend: Backend, size: tuple[int, int] = SIZE) -> tuple[int, int]:
    height, width = frame_of(backend, size).network_size
    return height // backend.spec.low_res_stride, width // backend.spec.low_res_stride


def arrays(backend: Backend, *prompts: Prompt) -> PromptArrays:
    return prompt_arrays(prompts, frame_of(backend), low_res_of(backend))


@pytest.fixture(scope="module")
def features(backend: Backend) -> Features:
    return backend.encode(pixels_of(backend))


def mixed_prompts(backend: Backend) -> list[Prompt]:
    """Every kind and mix, of different lengths."""
    bar = np.zeros(SIZE, dtype=bool)
    bar[20:40, 10:70] = True
    logits = np.random.default_rng(5).normal(0, 4, low_res_of(backend)).astype(np.float32)
    return [
        Prompt(points=[(20, 30)]),
        Prompt(points=[(20, 30), (100, 60), (60, 10)], labels=[1, 0, 1]),
        Prompt(box=(10, 5, 60, 50)),
        Prompt(points=[(30, 30)], labels=[0], box=(10, 5, 60, 50)),
        Prompt(mask=bar),
        Prompt(mask=logits),
        Prompt(points=[(70, 30)], mask=logits),
        Prompt(points=[(70, 30)], labels=[0]),
        Prompt(points=[(5, 5), (50, 50)], labels=[1, 0], box=(0, 0, 120, 75), mask=bar),
    ]


def test_describes_itself(backend: Backend) -> None:
    spec = backend.spec
    assert len(spec.digest) == 64
    assert spec.name
    assert f"longest-side-{spec.long_side}/pad-{spec.pad}/" in spec.preprocessing
    assert spec == backend.spec


@pytest.mark.parametrize("size", [SIZE, (75, 15), (1, 120), (60, 60)])
def test_features_are_finite_float32_of_one_image(backend: Backend, size: tuple[int, int]) -> None:
    features = backend.encode(pixels_of(backend, size))
    assert "embedding" in features
    height, width = frame_of(backend, size).network_size
    assert features["embedding"].shape[2:] == (height // 16, width // 16)
    for array in features.values():
        assert array.dtype == np.float32
        assert array.shape[0] == 1
        assert np.isfinite(array).all()


def test_features_depend_on_the_image_only(backend: Backend, features: Features) -> None:
    again = backend.encode(pixels_of(backend))
    other = backend.encode(-pixels_of(backend))
    assert all(np.array_equal(features[name], again[name]) for name in features)
    assert np.abs(features["embedding"] - other["embedding"]).max() > 1e-3


@pytest.mark.parametrize("count", [1, 2, 8, 17])
def test_any_number_of_prompts(backend: Backend, features: Features, count: int) -> None:
    prompts = [Prompt(points=[(3 + 6 * index, 40)]) for index in range(count)]
    logits, scores = backend.decode(features, arrays(backend, *prompts))
    assert logits.shape == (count, NUM_MASKS, *low_res_of(backend))
    assert scores.shape == (count, NUM_MASKS)
    assert logits.dtype == scores.dtype == np.float32
    assert np.isfinite(logits).all()
    assert np.isfinite(scores).all()


def test_a_ragged_batch_equals_one_by_one(backend: Backend, features: Features) -> None:
    prompts = mixed_prompts(backend)
    logits, scores = backend.decode(features, arrays(backend, *prompts))
    for index, prompt in enumerate(prompts):
        alone_logits, alone_scores = backend.decode(features, arrays(backend, prompt))
        assert np.abs(logits[index] - alone_logits[0]).max() <= LOGITS, prompt
        assert np.abs(scores[index] - alone_scores[0]).max() <= SCORES, prompt


def test_every_prompt_makes_a_difference(backend: Backend, features: Features) -> None:
    logits, _ = backend.decode(features, arrays(backend, *mixed_prompts(backend)))
    flat = logits.reshape(len(logits), -1)
    for first in range(len(flat)):
        for second in range(first):
            assert np.abs(flat[first] - flat[second]).max() > 1e-4, (first, second)


@pytest.mark.parametrize("extra", [1, 6])
def test_further_padding_changes_nothing(backend: Backend, features: Features, extra: int) -> None:
    prompts = arrays(backend, *mixed_prompts(backend))
    noise = np.random.default_rng(1).uniform(0, 100, (len(prompts), extra, 2)).astype(np.float32)
    padded = PromptArrays(
        np.concatenate([prompts.points, noise], axis=1),
        np.concatenate([prompts.labels, np.full((len(prompts), extra), -1, np.float32)], axis=1),
        prompts.mask_input,
        prompts.has_mask,
    )
    logits, scores = backend.decode(features, prompts)
    padded_logits, padded_scores = backend.decode(features, padded)
    assert np.abs(logits - padded_logits).max() <= LOGITS
    assert np.abs(scores - padded_scores).max() <= SCORES


def test_the_order_of_points_does_not_matter(backend: Backend, features: Features) -> None:
    points, labels = [(20, 30), (100, 60), (60, 10)], [1, 0, 1]
    turned = Prompt(points=points[::-1], labels=labels[::-1])
    logits, scores = backend.decode(features, arrays(backend, Prompt(points=points, labels=labels), turned))
    assert np.abs(logits[0] - logits[1]).max() <= LOGITS
    assert np.abs(scores[0] - scores[1]).max() <= SCORES


def test_a_box_alone_and_its_corners(backend: Backend, features: Features) -> None:
    """A box moves the masks, each of its corners counts, and a batch of boxes is no special case."""
    boxes = [(10, 5, 60, 50), (10, 5, 60, 70), (30, 5, 60, 50)]
    batch = arrays(backend, *(Prompt(box=box) for box in boxes))
    assert batch.labels.tolist() == [[2, 3]] * 3
    logits, _ = backend.decode(features, batch)
    assert np.abs(logits[0] - logits[1]).max() > 1e-4
    assert np.abs(logits[0] - logits[2]).max() > 1e-4


def test_masks_fed_back_count_only_with_their_flag(backend: Backend, features: Features) -> None:
    plain = arrays(backend, Prompt(points=[(20, 30)]))
    logits, _ = backend.decode(features, plain)
    flags = {}
    for flag in (0.0, 1.0):
        fed = PromptArrays(
            plain.points, plain.labels, logits[:, :1] * 50 + 3, np.full(1, flag, dtype=np.float32)
        )
        flags[flag] = backend.decode(features, fed)[0]
    assert np.abs(flags[0.0] - logits).max() <= LOGITS
    assert np.abs(flags[1.0] - logits).max() > 1e-3


def test_inputs_are_not_changed_and_may_be_read_only(backend: Backend, features: Features) -> None:
    pixels, prompts = pixels_of(backend), arrays(backend, *mixed_prompts(backend))
    inputs = [pixels, *features.values(), *vars(prompts).values()]
    before = [array.copy() for array in inputs]
    for array in inputs:
        array.setflags(write=False)
    backend.encode(pixels)
    backend.decode(features, prompts)
    assert all(np.array_equal(array, kept) for array, kept in zip(inputs, before, strict=True))


def test_threads_share_a_backend(backend: Backend, features: Features) -> None:
    prompts = [arrays(backend, Prompt(points=[(5 + 9 * index, 40)])) for index in range(12)]
    expected = [backend.decode(features, prompt) for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        encoded = [pool.submit(backend.encode, pixels_of(backend)) for _ in range(4)]
        decoded = list(pool.map(lambda prompt: backend.decode(features, prompt), prompts * 3))
    for index, (logits, scores) in enumerate(decoded):
        assert np.abs(logits - expected[index % 12][0]).max() <= LOGITS
        assert np.abs(scores - expected[index % 12][1]).max() <= SCORES
    for future in encoded:
        assert np.abs(future.result()["embedding"] - features["embedding"]).max() <= LOGITS


def test_pixels_of_another_frame_are_refused(backend: Backend) -> None:
    good = pixels_of(backend)
    side = backend.spec.long_side + 32
    for bad in (
        good.astype(np.float64),
        good[0],
        good[:, :2],
        np.concatenate([good, good]),
        good[..., :-1],
        np.zeros((1, 3, side, side), dtype=np.float32),
        np.zeros((1, 3, 0, 0), dtype=np.float32),
        good.tolist(),
    ):
        with pytest.raises(ModelError):
            backend.encode(bad)


def test_arrays_that_break_the_contract_are_refused(backend: Backend, features: Features) -> None:
    good = vars(arrays(backend, Prompt(points=[(20, 30)]), Prompt(points=[(20, 40)])))
    nothing = {name: array[:0] for name, array in good.items()}
    changes = [
        {"points": good["points"].astype(np.float64)},
        {"points": good["points"][..., :1]},
        {"points": good["points"] * np.float32(np.nan)},
        {"points": good["points"][:, :0], "labels": good["labels"][:, :0]},
        {"labels": good["labels"][:, :1]},
        {"labels": good["labels"] + 3},
        {"labels": good["labels"] * np.float32(0.5)},
        {"mask_input": good["mask_input"][..., 1:]},
        {"mask_input": good["mask_input"][:1]},
        {"mask_input": good["mask_input"] + np.float32(np.inf)},
        {"has_mask": good["has_mask"][:1]},
        {"has_mask": good["has_mask"] + np.float32(0.5)},
        nothing,
    ]
    for change in changes:
        with pytest.raises(ModelError):
            backend.decode(features, PromptArrays(**{**good, **change}))


def test_features_of_another_model_are_refused(backend: Backend, features: Features) -> None:
    prompts = arrays(backend, Prompt(points=[(20, 30)]))
    embedding = features["embedding"]
    for bad in (
        {},
        {**features, "other": embedding},
        {**features, "embedding": embedding.astype(np.float64)},
        {**features, "embedding": np.concatenate([embedding, embedding])},
        {**features, "embedding": embedding[0]},
        {**features, "embedding": embedding[..., :-1]},
    ):
        with pytest.raises(ModelError):
            backend.decode(bad, prompts)


@pytest.mark.parametrize("name", ["embedding", "skip8", "skip4"])
def test_features_of_other_widths_are_refused(nano_folder: Path, random_nano: Nano, name: str) -> None:
    for backend in (OnnxBackend(nano_folder, threads=1), TorchBackend(random_nano)):
        features = dict(backend.encode(pixels_of(backend)))
        features[name] = features[name][:, 1:]
        with pytest.raises(ModelError):
            backend.decode(features, arrays(backend, Prompt(points=[(20, 30)])))


def test_digests_tell_models_apart(random_nano: Nano, random_sam: Sam, nano_folder: Path) -> None:
    import copy

    import torch

    changed = copy.deepcopy(random_nano)
    with torch.no_grad():
        changed.mask_decoder.mask_tokens.weight[0, 0] += 1e-3
    digests = [
        TorchBackend(random_nano).spec.digest,
        TorchBackend(changed).spec.digest,
        TorchBackend(random_sam, TINY_TEST).spec.digest,
        OnnxBackend(nano_folder).spec.digest,
        FakeBackend().spec.digest,
        FakeBackend(64).spec.digest,
    ]
    assert len(set(digests)) == len(digests)
    assert TorchBackend(random_nano).spec.digest == digests[0]
    assert json.loads((nano_folder / "manifest.json").read_text())["name"] == "small"


def test_promising_prompts_are_drawn_as_ever(backend: Backend, features: Features) -> None:
    """At the median of the scores, where half may be left out, and at the ends, where none or all but one may."""
    prompts = arrays(backend, *(Prompt(points=[(x, y)]) for x in (10, 40, 70, 110) for y in (8, 30, 60)))
    logits, scores = backend.decode(features, prompts)
    best = scores[:, 1:].max(axis=1)
    counts = []
    for least in (-np.inf, float(np.median(best)), float(best.max()) - 1e-6, 5.0):
        found = decode_promising(backend, features, prompts, Needed(least))
        np.testing.assert_allclose(found.scores, scores, atol=SCORES)
        assert (np.diff(found.drawn) > 0).all()
        assert set(np.flatnonzero(best > least + SCORES)) <= set(found.drawn.tolist())
        np.testing.assert_allclose(found.logits, logits[found.drawn], atol=LOGITS)
        assert found.logits.dtype == found.scores.dtype == np.float32
        counts.append(len(found.drawn))
    assert counts[0] == len(prompts)
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] >= 1


@pytest.mark.parametrize("size", [SIZE, (75, 40), (60, 60), (1, 120), (75, 14)])
def test_only_the_picture_need_be_drawn(backend: Backend, size: tuple[int, int]) -> None:
    """What becomes of the logits in the image's size is the same; a picture has padding below or to the right."""
    frame = frame_of(backend, size)
    features = backend.encode(pixels_of(backend, size))
    prompts = prompt_arrays(
        [Prompt(points=[(size[1] / 2, size[0] / 2)]), Prompt(points=[(0, 0)])],
        frame,
        low_res_of(backend, size),
    )
    logits, scores = backend.decode(features, prompts)
    found = decode_promising(backend, features, prompts, Needed(picture=frame.resized_size))
    assert found.logits.shape == logits.shape
    assert np.isfinite(found.logits).all()
    np.testing.assert_allclose(found.scores, scores, atol=SCORES)
    np.testing.assert_allclose(
        frame.logits_to_image(found.logits), frame.logits_to_image(logits), atol=10 * LOGITS
    )
    rows, columns = cells_of(frame.resized_size, backend.spec, features)
    together = EMBEDDING_STRIDE // backend.spec.low_res_stride
    drawn = logits[..., : rows * together, : columns * together]
    beyond = [(0, whole - part) for whole, part in zip(logits.shape, drawn.shape, strict=True)]
    at_the_edge = np.pad(drawn, beyond, mode="edge")
    as_ever, goes_on = (abs(found.logits - other) <= LOGITS for other in (logits, at_the_edge))
    assert (as_ever | goes_on).all()


def test_promising_prompts_with_masks_are_drawn_as_ever(backend: Backend, features: Features) -> None:
    prompts = arrays(backend, *mixed_prompts(backend))
    logits, scores = backend.decode(features, prompts)
    found = decode_promising(backend, features, prompts, Needed(float(np.median(scores[:, 1:].max(axis=1)))))
    np.testing.assert_allclose(found.scores, scores, atol=SCORES)
    np.testing.assert_allclose(found.logits, logits[found.drawn], atol=LOGITS)


def test_masks_of_nothing_are_not_drawn_by_exported_sams(
    sam_folders: tuple[Path, Path], random_sam: Sam
) -> None:
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    for backend, multiple in (
        (OnnxBackend(sam_folders[0], threads=1), 1),
        (OpenVinoBackend(sam_folders[0], threads=1), 4),
        (TorchBackend(random_sam, TINY_TEST), 1),
    ):
        features = backend.encode(pixels_of(backend))
        prompts = arrays(backend, *(Prompt(points=[(x, y)]) for x in (10, 60, 110) for y in (8, 60)))
        _, scores = backend.decode(features, prompts)
        best = scores[:, 1:].max(axis=1)
        for least in np.sort(best):
            wanted = best > least - 1e-4
            drawn = backend.decode_promising(features, prompts, Needed(float(least))).drawn
            assert len(drawn) <= -(-(wanted.sum() + 1) // multiple) * multiple
            assert set(np.flatnonzero(best > least + 1e-5)) <= set(drawn.tolist())
        assert len(backend.decode_promising(features, prompts, Needed(50.0)).drawn) == multiple


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_what_is_left_over_of_many_prompts_opens_no_second_decoder(
    engine: str, sam_folders: tuple[Path, Path]
) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino", reason="the openvino extra is not installed")
    backend = (OnnxBackend if engine == "onnx" else OpenVinoBackend)(sam_folders[0], threads=2)
    features = backend.encode(pixels_of(backend))
    prompts = arrays(backend, *(Prompt(points=[(x, 30)]) for x in range(10, 120, 10)))
    wanted, _ = OnnxBackend(sam_folders[0], threads=1).decode(features, prompts)
    for count in (len(prompts), 3):
        found = backend.decode_promising(features, prompts.some(slice(0, count)), Needed())
        assert np.abs(found.logits - wanted[:count]).max() < 1e-3
    single = backend._decoder._session if engine == "onnx" else backend._decoder._compiled
    assert single is None


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_memory_is_given_back_while_nobody_encodes(
    engine: str, sam_folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As large networks do it, and with several threads: the features stay those of a network that keeps it."""
    if engine == "openvino":
        pytest.importorskip("openvino", reason="the openvino extra is not installed")
    kind = OnnxBackend if engine == "onnx" else OpenVinoBackend
    pixels = [pixels_of(kind(sam_folders[1], 1)) * factor for factor in (1.0, 0.5, -1.0)]
    wanted = [kind(sam_folders[1], 1).encode(each)["embedding"] for each in pixels]
    module = "onnx_backend" if engine == "onnx" else "openvino_backend"
    monkeypatch.setattr(f"anymask.runtime.{module}.LARGE_BYTES", 0)
    backend = kind(sam_folders[1], 1)
    assert backend._encoder._frees
    assert not backend._decoder._frees
    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(lambda each: backend.encode(each)["embedding"], pixels * 6))
    for index, embedding in enumerate(seen):
        assert np.array_equal(embedding, wanted[index % 3])
    with pytest.raises(ModelError):
        backend._encoder.run({"pixels": np.zeros((1, 3, 7), np.float32)})
    assert np.array_equal(backend.encode(pixels[0])["embedding"], wanted[0])
