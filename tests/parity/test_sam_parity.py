"""Our SAM against transformers' SAM with the same random weights (every parameter, positions included).

The comparison itself lives in benchmarks/sam_parity.py; benchmarks/families.py runs it on ViT-B at full size. Measured
here: torch 2.13.0 (CPU), transformers 5.23.0, one thread of an AMD EPYC.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from anymask.model.checkpoints.transformers_names import from_transformers, to_transformers  # noqa: E402
from anymask.model.prompt_tensors import PromptTensors  # noqa: E402
from anymask.model.sam.network import Sam  # noqa: E402
from anymask.model.variants import TINY_TEST  # noqa: E402

BLOCK_BOUND = 1e-5  # measured beside each use
EMBEDDING_BOUND = 1e-4  # measured 2.6e-6
COSINE_BOUND = 0.999999  # measured 1 - 2.4e-13
LOGITS_BOUND = 1e-3  # measured 1.2e-5 on values to 9.1
SCORES_BOUND = 1e-4  # measured 3.8e-6 on values to 7.9

# Square windows that fit the grid exactly, one mask token more, deeper heads: what TINY_TEST does not have.
OTHER_SIZES = dataclasses.replace(
    TINY_TEST,
    name="other",
    depth=3,
    global_attn_indexes=(0, 2),
    window_size=4,
    decoder_depth=3,
    iou_head_depth=4,
)


def _benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "sam_parity.py"
    spec = importlib.util.spec_from_file_location("sam_parity", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["sam_parity"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


parity = _benchmark()


@pytest.fixture(scope="module", params=[TINY_TEST, OTHER_SIZES], ids=["tiny", "other"])
def pair(request: pytest.FixtureRequest) -> tuple[Sam, Any, Any]:
    sam = parity.randomised_sam(request.param, seed=7)
    return sam, parity.transformers_peer(sam, request.param), request.param


def _pixels(config: Any, images: int = 1) -> Any:
    size = (images, 3, config.image_size * 3 // 4, config.image_size)
    return torch.randint(0, 256, size, generator=torch.Generator().manual_seed(8))


def _largest(a: Any, b: Any) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


def test_image_embeddings(pair):
    sam, peer, config = pair
    embedding, error, cosine = parity.compare_embeddings(sam, peer, _pixels(config, images=2))
    assert embedding.shape == (2, config.prompt_dim, config.grid_size, config.grid_size)
    assert error <= EMBEDDING_BOUND
    assert cosine >= COSINE_BOUND


@pytest.mark.parametrize("multimask", [True, False], ids=["three", "one"])
@pytest.mark.parametrize("case", parity.PROMPT_CASES)
def test_masks_and_scores_of_several_objects(pair, case, multimask):
    sam, peer, config = pair
    with torch.no_grad():
        embedding = sam.encode(_pixels(config))
    difference = parity.compare(sam, peer, embedding, config, case, multimask, objects=4)
    assert difference.logits <= LOGITS_BOUND
    assert difference.scores <= SCORES_BOUND
    assert difference.logits_range > 0.5, "the comparison would not see a fault in masks this flat"
    assert difference.scores_range > 0.1


@torch.no_grad()
def test_two_images_with_three_objects_each(pair):
    """The peer's own batching (images x objects) against one call of ours per image, and one for all."""
    sam, peer, config = pair
    embeddings = sam.encode(_pixels(config, images=2))
    points = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(3)) * config.image_size
    labels = torch.tensor([[[1, 0], [1, 1], [0, 1]]]).expand(2, 3, 2)
    theirs = peer(
        image_embeddings=embeddings, input_points=points, input_labels=labels, multimask_output=True
    )
    for image in range(2):
        logits, scores = sam.decode(
            embeddings[image : image + 1], PromptTensors.of(points[image], labels[image])
        )
        assert _largest(logits[:, 1:], theirs.pred_masks[image]) <= LOGITS_BOUND
        assert _largest(scores[:, 1:], theirs.iou_scores[image]) <= SCORES_BOUND
    one_each = embeddings.repeat_interleave(3, dim=0)
    logits, _ = sam.decode(one_each, PromptTensors.of(points.flatten(0, 1), labels.flatten(0, 1)))
    assert _largest(logits[:, 1:].unflatten(0, (2, 3)), theirs.pred_masks) <= LOGITS_BOUND


@torch.no_grad()
def test_encoder_blocks(pair):
    sam, peer, config = pair
    x = sam.image_encoder.patch_embed(sam.preprocess(_pixels(config)))
    assert (
        _largest(x, peer.vision_encoder.patch_embed(sam.preprocess(_pixels(config)))) <= BLOCK_BOUND
    )  # measured 0
    for ours, theirs in zip(sam.image_encoder.blocks, peer.vision_encoder.layers, strict=True):
        assert _largest(ours(x), theirs(x)) <= BLOCK_BOUND  # measured 2.6e-6
        x = ours(x)
    neck = sam.image_encoder.neck(x.permute(0, 3, 1, 2))
    assert _largest(neck, peer.vision_encoder.neck(x)) <= BLOCK_BOUND  # measured 0


@torch.no_grad()
def test_prompt_encoder(pair):
    sam, peer, config = pair
    place = peer.get_image_wide_positional_embeddings()
    assert _largest(sam.prompt_encoder.dense_pe(), place) <= BLOCK_BOUND  # measured 0
    points = torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(1)) * config.image_size
    labels = torch.tensor([[1, 0], [-1, 1], [0, -1]])
    boxes = torch.tensor([[1.0, 2, 30, 40], [0, 0, 127, 127], [5.5, 6.5, 7, 8]])
    for ours, theirs in (
        (PromptTensors.of(points, labels), (points[None], labels[None], None, None)),
        (PromptTensors.of(boxes=boxes), (None, None, boxes[None], None)),
        (PromptTensors.of(points, labels, boxes), (points[None], labels[None], boxes[None], None)),
    ):
        sparse, _ = sam.prompt_encoder(ours.coords, ours.labels)
        assert _largest(sparse, peer.prompt_encoder(*theirs)[0][0]) <= BLOCK_BOUND  # measured 0
    masks = 4 * torch.randn(
        2, 1, config.mask_input_size, config.mask_input_size, generator=torch.Generator().manual_seed(2)
    )
    dense = sam.prompt_encoder.embed_masks(masks)
    assert _largest(dense, peer.prompt_encoder.mask_embed(masks)) <= BLOCK_BOUND  # measured 0


@torch.no_grad()
def test_two_way_blocks(pair):
    sam, peer, config = pair
    generator = torch.Generator().manual_seed(4)
    tokens, image, pe = (torch.randn(3, n, config.prompt_dim, generator=generator) for n in (7, 16, 16))
    layers = zip(sam.mask_decoder.transformer.layers, peer.mask_decoder.transformer.layers, strict=True)
    for ours, theirs in layers:
        out = ours(tokens, image, tokens, pe, None)
        expected = theirs(tokens[:, None], image[:, None], tokens[:, None], pe[:, None], None)
        assert _largest(out[0], expected[0][:, 0]) <= BLOCK_BOUND  # measured 3.0e-6
        assert _largest(out[1], expected[1][:, 0]) <= BLOCK_BOUND  # measured 3.5e-6


@torch.no_grad()
def test_the_peers_padding_label_is_not_exact(pair):
    """Why ragged batches are padded with `present`: the peer's -10 leaves a zero token that is looked at."""
    sam, peer, config = pair
    embedding = sam.encode(_pixels(config))
    points = torch.tensor([[40.0, 50.0], [0.0, 0.0], [0.0, 0.0]])
    alone, _ = parity.ask_peer(peer, embedding, {"points": points[:1], "labels": torch.tensor([1])}, True)
    padded, _ = parity.ask_peer(
        peer, embedding, {"points": points, "labels": torch.tensor([1, -10, -10])}, True
    )
    assert _largest(alone, padded) > 10 * LOGITS_BOUND  # measured 0.68
    short = PromptTensors.of(points[None, :1], torch.tensor([[1]]))
    long = PromptTensors.of(points[None], torch.tensor([[1, 1, 0]]))
    ours, _ = sam.decode(embedding, PromptTensors.join([short, long]))
    assert _largest(ours[0, 1:], alone) <= LOGITS_BOUND


def test_names_go_there_and_back(pair):
    sam, peer, _ = pair
    theirs = peer.state_dict()
    ours = from_transformers(theirs)
    assert ours.keys() == sam.state_dict().keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in sam.state_dict().items())
    back = to_transformers(ours)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.items())
