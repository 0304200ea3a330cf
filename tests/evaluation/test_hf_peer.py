"""Peers of transformers against transformers itself, called without us, on small models with random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from PIL import Image  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from small_peers import SIDE, STRETCHED, save_sam, save_sam2  # noqa: E402

from anymask.errors import (  # noqa: E402
    EmbeddingMismatchError,
    ModelError,
    ModelFormatError,
    NotFoundError,
    PromptError,
    WeightsError,
)
from anymask.evaluation.peers.hf_folder import HfFolder  # noqa: E402
from anymask.evaluation.peers.hf_peer import HfPeer, ImageRule  # noqa: E402
from anymask.types import Embedding  # noqa: E402

PIXELS_BOUND = 1e-5
LOGITS_BOUND = 1e-4
SURE = 1e-5
"""Logits nearer to the threshold may fall on either side."""
SCORES_BOUND = 1e-4

SIZE = (45, 90)
POINTS, LABELS, BOX = [[30.5, 12.0], [80.0, 40.0]], [1, 0], [10.0, 5.0, 70.0, 40.5]


def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (9, 18, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((5, 5, 1), dtype=np.uint8))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """More than one only wait for each other on models this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Models as transformers built them, and the folders they were saved to."""
    folder = tmp_path_factory.mktemp("peers")
    models = {kind: (folder / kind, save_sam(folder / kind, kind)) for kind in ("sam", "sam_hq")}
    return models | {"sam2": (folder / "sam2", save_sam2(folder / "sam2"))}


@pytest.fixture(scope="module")
def folders(built: dict[str, tuple[Path, Any]]) -> Path:
    return built["sam"][0].parent


@pytest.fixture(scope="module")
def peers(folders: Path) -> dict[str, HfPeer]:
    return {kind: HfPeer(folders / kind) for kind in ("sam", "sam_hq", "sam2")}


def padded_inputs(folder: Path) -> dict[str, Any]:
    """What transformers' own processor makes of the picture and the prompts."""
    from transformers import SamProcessor
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    processor = SamProcessor(SamImageProcessorPil.from_pretrained(folder))
    made = processor(
        images=picture(),
        input_points=[[POINTS]],
        input_labels=[[LABELS]],
        input_boxes=[[BOX]],
        return_tensors="pt",
    )
    made["finish"] = lambda logits: processor.post_process_masks(
        [logits], made["original_sizes"], made["reshaped_input_sizes"], binarize=False
    )[0]
    return dict(made)


def stretched_inputs(_: Path) -> dict[str, Any]:
    """The published way of SAM 2."""
    small = np.asarray(Image.fromarray(picture()).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    by = torch.tensor([SIDE / SIZE[1], SIDE / SIZE[0]])
    return {
        "pixel_values": normalised(torch.from_numpy(small.copy()).permute(2, 0, 1)[None]),
        "input_points": (torch.tensor(POINTS) * by)[None, None],
        "input_labels": torch.tensor(LABELS)[None, None],
        "input_boxes": (torch.tensor(BOX) * by.repeat(2))[None, None],
        "finish": lambda logits: torch.nn.functional.interpolate(logits, SIZE, mode="bilinear"),
    }


def normalised(pixels: Any) -> Any:
    mean, std = (torch.tensor(STRETCHED[name]).view(1, 3, 1, 1) for name in ("image_mean", "image_std"))
    return (pixels / 255 - mean) / std


INPUTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "sam": padded_inputs,
    "sam_hq": padded_inputs,
    "sam2": stretched_inputs,
}
CASES = {
    "points": (["input_points", "input_labels"], {"points": POINTS, "labels": LABELS}),
    "box": (["input_boxes"], {"box": BOX}),
    "both": (
        ["input_points", "input_labels", "input_boxes"],
        {"points": POINTS, "labels": LABELS, "box": BOX},
    ),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_the_picture_reaches_the_network_as_the_models_own_processor_brings_it(
    folders: Path, peers: dict[str, HfPeer], kind: str
) -> None:
    theirs = INPUTS[kind](folders / kind)["pixel_values"].numpy()
    ours = peers[kind].rule.to_network(picture())
    assert ours.shape == theirs.shape == (1, 3, SIDE, SIDE)
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs).max() <= PIXELS_BOUND


def test_stretching_is_torchs_antialiased_resize_of_bytes_up_to_one_level(peers: dict[str, HfPeer]) -> None:
    """Which is what the processor of SAM 2 calls through torchvision."""
    pixels = torch.from_numpy(picture()).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)
    levels = (peers["sam2"].rule.to_network(picture()) - normalised(small).numpy()) * 255
    levels *= np.array(STRETCHED["image_std"]).reshape(1, 3, 1, 1)
    assert np.abs(levels).max() < 1.01
    assert (np.abs(levels) > 0.01).mean() < 0.01


@pytest.mark.parametrize("multimask", [True, False], ids=["three", "one"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", INPUTS)
def test_answers_are_those_of_transformers(
    built: dict[str, tuple[Path, Any]], peers: dict[str, HfPeer], kind: str, case: str, multimask: bool
) -> None:
    folder, model = built[kind]
    inputs, (names, prompt) = INPUTS[kind](folder), CASES[case]
    given = {name: inputs[name] for name in ("pixel_values", *names)}
    given = {name: value.float() if value.is_floating_point() else value for name, value in given.items()}
    with torch.no_grad():
        theirs = model(**given, multimask_output=multimask)
        planes = inputs["finish"](theirs.pred_masks[0, 0][None])[0].numpy()
    scores = theirs.iou_scores[0, 0].numpy()
    order = np.argsort(-scores, kind="stable")
    peer = peers[kind]
    masks = peer.segment(peer.embed(picture()), **prompt, multimask=multimask)
    assert len(masks) == len(scores) == (3 if multimask else 1)
    np.testing.assert_allclose(masks.scores, scores[order], atol=SCORES_BOUND)
    for mask, index in zip(masks, order, strict=True):
        logits = theirs.pred_masks[0, 0, index].numpy()
        np.testing.assert_allclose(mask.low_res_logits, logits, atol=LOGITS_BOUND)
        sure = np.abs(planes[index]) > SURE
        np.testing.assert_array_equal(mask.array[sure], planes[index][sure] > 0)
        assert sure.mean() > 0.99
    assert np.ptp(theirs.pred_masks.numpy()) > 0.1, "the comparison would not see a fault in masks this flat"


@pytest.mark.parametrize("kind", INPUTS)
def test_logits_fed_back_reach_the_model(
    built: dict[str, tuple[Path, Any]], peers: dict[str, HfPeer], kind: str
) -> None:
    folder, model = built[kind]
    peer, inputs = peers[kind], INPUTS[kind](folder)
    embedding = peer.embed(picture())
    first = peer.segment(embedding, points=POINTS, labels=LABELS)[0]
    again = peer.segment(embedding, box=BOX, mask=first.low_res_logits, multimask=False)[0]
    logits = torch.from_numpy(np.array(first.low_res_logits))[None, None]
    with torch.no_grad():
        theirs = model(
            pixel_values=inputs["pixel_values"].float(),
            input_boxes=inputs["input_boxes"].float(),
            input_masks=logits,
            multimask_output=False,
        )
    assert again.low_res_logits is not None
    np.testing.assert_allclose(again.low_res_logits, theirs.pred_masks[0, 0, 0].numpy(), atol=LOGITS_BOUND)
    without = peer.segment(embedding, box=BOX, multimask=False)[0]
    assert np.abs(np.asarray(without.low_res_logits) - again.low_res_logits).max() > LOGITS_BOUND


@pytest.mark.parametrize("kind", INPUTS)
def test_a_drawn_mask_alone_is_a_prompt(peers: dict[str, HfPeer], kind: str) -> None:
    embedding = peers[kind].embed(picture())
    drawn = np.zeros(SIZE, dtype=bool)
    left, right = drawn.copy(), drawn.copy()
    left[:, :45], right[:, 45:] = True, True
    answers = [peers[kind].segment(embedding, mask=mask, multimask=False)[0] for mask in (left, right)]
    assert np.abs(answers[0].low_res_logits - answers[1].low_res_logits).max() > LOGITS_BOUND
    with pytest.raises(PromptError, match="mask logits for this model are"):
        peers[kind].segment(embedding, mask=np.zeros((5, 7), dtype=np.float32))


def test_a_drawn_mask_covers_the_same_cells_in_both_ways_to_the_network() -> None:
    mask = np.zeros(SIZE, dtype=bool)
    mask[:, :45] = True
    padded = ImageRule((64, 64), True).mask_to_logits(mask, (32, 32))
    stretched = ImageRule((64, 64), False).mask_to_logits(mask, (32, 32))
    left = np.arange(32) < 16
    np.testing.assert_allclose(padded[:16], np.where(left, 8.0, -8.0)[None].repeat(16, 0))
    np.testing.assert_allclose(padded[16:], -8.0)  # the padding
    np.testing.assert_allclose(stretched, np.where(left, 8.0, -8.0)[None].repeat(32, 0), atol=1e-5)


@pytest.mark.parametrize("kind", INPUTS)
def test_embeddings_can_be_kept_and_are_bound_to_model_and_preparation(
    folders: Path, peers: dict[str, HfPeer], kind: str, tmp_path: Path
) -> None:
    peer = peers[kind]
    embedding = peer.embed(picture())
    kept = Embedding.load(embedding.save(tmp_path / "kept.safetensors"))
    fresh, loaded = (peer.segment(one, points=POINTS, labels=LABELS) for one in (embedding, kept))
    assert [mask.rle for mask in fresh] == [mask.rle for mask in loaded]
    other = peers["sam2" if kind == "sam" else "sam"]
    with pytest.raises(EmbeddingMismatchError):
        other.segment(embedding, points=POINTS)

    shutil.copytree(folders / kind, tmp_path / "other")
    assert HfFolder.open(tmp_path / "other").digest == peer.folder.digest  # wherever it lies
    name = next(
        n for n in ("processor_config.json", "preprocessor_config.json") if (tmp_path / "other" / n).exists()
    )
    text = (tmp_path / "other" / name).read_text()
    (tmp_path / "other" / name).write_text(text.replace("0.485", "0.5"))
    assert HfPeer(tmp_path / "other").digest != peer.digest
    (tmp_path / "other" / name).write_text(text)
    weights = load_file(tmp_path / "other/model.safetensors")
    weights[min(weights)] += 1
    save_file(weights, tmp_path / "other/model.safetensors", {"format": "pt"})
    assert HfPeer(tmp_path / "other").digest != peer.digest


def test_what_a_model_weighs(peers: dict[str, HfPeer], folders: Path) -> None:
    for kind, peer in peers.items():
        stored = load_file(folders / kind / "model.safetensors")
        buffers = {name for name, _ in peer._model.named_buffers()}
        assert peer.parameters == sum(t.numel() for name, t in stored.items() if name not in buffers)
        assert peer.folder.file_bytes == (folders / kind / "model.safetensors").stat().st_size


def test_only_whole_local_folders_are_opened(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing is downloaded"):
        HfPeer("facebook/sam-vit-base")
    with pytest.raises(ModelFormatError, match="model_type"):
        HfPeer(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(folders / "sam", broken)
    weights = load_file(broken / "model.safetensors")
    lost = "mask_decoder.iou_token.weight"
    save_file({n: t for n, t in weights.items() if n != lost}, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=lost):
        HfPeer(broken)
    (broken / "model.safetensors").unlink()
    torch.save(weights, broken / "pytorch_model.bin")
    with pytest.raises(ModelFormatError, match="safetensors only"):
        HfPeer(broken)
    with pytest.raises(ModelError, match="no device"):
        HfPeer(folders / "sam", device="cuda:77")


def test_a_model_of_another_kind_is_refused(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "sam", tmp_path / "bert")
    (tmp_path / "bert/config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelFormatError, match="bert"):
        HfPeer(tmp_path / "bert")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"size": None}, "states the network's size"),
        ({"size": {"shortest_edge": 64}}, "malformed"),
        ({"size": {"height": 64, "width": 64.5}}, "malformed"),
        ({"image_mean": [0.5]}, "malformed"),
        ({"image_std": [0.1, 0.0, 0.1]}, "above 0"),
        ({"do_normalize": False}, "do_normalize"),
        ({"resample": 3}, "resample"),
        ({"rescale_factor": 1.0}, "rescale_factor"),
        ({"size": {"longest_edge": 64}, "pad_size": {"height": 32, "width": 32}}, "pad_size"),
    ],
)
def test_a_preparation_that_is_not_understood_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ModelFormatError, match=complaint):
        ImageRule.of(STRETCHED | change)


def test_shards_count_as_one_model(folders: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(folders / "sam", shards)
    weights = load_file(shards / "model.safetensors")
    (shards / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, shards / file, {"format": "pt"})
    index = {name: file for file, part in parts.items() for name in part}
    (shards / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    whole, parted = HfPeer(folders / "sam"), HfPeer(shards)
    assert parted.parameters == whole.parameters
    answers = [peer.segment(peer.embed(picture()), box=BOX)[0].rle for peer in (whole, parted)]
    assert answers[0] == answers[1]
    (shards / "model-2.safetensors").unlink()
    with pytest.raises(ModelFormatError, match="lacks some of the shards"):
        HfPeer(shards)


def test_a_card_may_name_the_training_sources(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "sam", tmp_path / "sam")
    assert HfFolder.open(tmp_path / "sam").sources() is None
    (tmp_path / "sam/README.md").write_text("---\nlicense: mit\ndatasets:\n- SA-1B\n- coco\n---\nText.\n")
    assert HfFolder.open(tmp_path / "sam").sources() == {"SA-1B", "coco"}
    (tmp_path / "sam/README.md").write_text("No head.\n")
    assert HfFolder.open(tmp_path / "sam").sources() is None
