"""EfficientSAM against its published code, from the picture to masks of its size, with seeded weights."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import golden_inputs as inputs  # noqa: E402

from anymask.errors import ModelError, ModelFormatError, PromptError, WeightsError  # noqa: E402
from anymask.model.checkpoints.convert import load_checkpoint  # noqa: E402
from anymask.model.efficient.network import (  # noqa: E402
    EFFICIENT_SAM_TI,
    EfficientSam,
    EfficientSamConfig,
    build_efficient_sam,
)
from anymask.model.families import (  # noqa: E402
    build_network,
    infer_config,
    load_network,
    published_config,
    save_network,
)
from anymask.model.prompt_tensors import PromptTensors  # noqa: E402
from anymask.model.weights import load_strict  # noqa: E402
from anymask.predict.segmenter import Segmenter  # noqa: E402
from anymask.runtime.torch_backend import TorchBackend  # noqa: E402

BLOCK_BOUND = 1e-5
EMBEDDING_BOUND = 1e-4
COSINE_BOUND = 0.999999
LOGITS_BOUND = 1e-3
SCORES_BOUND = 1e-4
IOU_BOUND = 0.999

SIZE, OBJECTS = 128, 2
CONFIG = dataclasses.replace(EFFICIENT_SAM_TI, image_size=SIZE)  # the published weights fit every image size
SMALL = EfficientSamConfig(
    "small_test",
    embed_dim=24,
    num_heads=2,
    depth=2,
    image_size=64,
    position_grid=3,
    prompt_dim=32,
    decoder_heads=4,
    decoder_mlp_dim=48,
    upscaling_dims=(8, 4),
    iou_head_hidden_dim=20,
)


@pytest.fixture(scope="module")
def network() -> EfficientSam:
    network = build_efficient_sam(CONFIG)
    load_strict(network, inputs.golden_weights(network.state_dict()))
    return network.eval()


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return inputs.golden("efficient_sam")


@pytest.fixture(scope="module")
def features(network: EfficientSam) -> dict[str, Any]:
    with torch.no_grad():
        return network.encode_features(inputs.golden_pixels(SIZE))


def _prompts(case: str) -> PromptTensors:
    count = {"points-1": 1, "points-6": 6, "points-9": 9, "points+box, too many": 9, "outside": 1}.get(
        case, 3
    )
    points, labels = inputs.golden_points(SIZE, OBJECTS, count)
    if case == "outside":
        points[:, 0, 0] = -7.5
    boxes = inputs.golden_boxes(SIZE, OBJECTS) if "box" in case else None
    return PromptTensors.of(boxes=boxes) if case == "box" else PromptTensors.of(points, labels, boxes)


def _largest(a: Any, b: Any) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


def _smallest_iou(ours: Any, theirs: Any) -> float:
    union = (ours | theirs).sum((-1, -2))
    return float(((ours & theirs).sum((-1, -2)) / union).min())


@torch.no_grad()
def test_blocks_and_embedding(
    network: EfficientSam, golden: dict[str, Any], features: dict[str, Any]
) -> None:
    encoder = network.image_encoder
    x = (encoder.patch_embed(inputs.golden_pixels(SIZE)) + encoder.positions(8, 8)).flatten(1, 2)
    x = encoder.blocks[0](x)
    assert _largest(x, golden["block0"]) <= BLOCK_BOUND  # measured 5.7e-7
    for block in encoder.blocks[1:]:
        x = block(x)
    assert _largest(x, golden["block11"]) <= BLOCK_BOUND  # measured 3.3e-6
    assert tuple(features) == network.feature_names
    assert _largest(features["embedding"], golden["embedding"]) <= EMBEDDING_BOUND  # measured 2.8e-6
    ours, theirs = features["embedding"].double(), golden["embedding"].double()
    assert float(torch.nn.functional.cosine_similarity(ours, theirs).min()) >= COSINE_BOUND


CASES = (
    "points-1",
    "points-3",
    "points-6",
    "points-9",
    "box",
    "points+box",
    "points+box, too many",
    "outside",
)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_masks_and_scores(
    network: EfficientSam, golden: dict[str, Any], features: dict[str, Any], case: str
) -> None:
    """Of more than six tokens the origin keeps the first six; with the corners listed first, those and four points."""
    logits, scores = network.decode_features(features, _prompts(case))
    expected = golden[f"{case}/logits"]
    assert _largest(logits, expected) <= LOGITS_BOUND  # measured 2.1e-5 on values to 12
    assert _largest(scores, golden[f"{case}/scores"]) <= SCORES_BOUND  # measured 3.5e-6
    share = (expected > 0).float().mean((-1, -2))
    assert 0.1 < float(share.min()) < float(share.max()) < 0.9
    assert _smallest_iou(logits > 0, expected > 0) >= IOU_BOUND


@torch.no_grad()
def test_from_the_picture_to_its_masks(network: EfficientSam, golden: dict[str, Any]) -> None:
    """`EfficientSam.forward` of the origin: stretching, normalisation, places of the points, bicubic enlargement."""
    segmenter = Segmenter(TorchBackend(network, CONFIG))
    assert segmenter.spec.preprocessing == "stretch-128/mean-123.675,116.28,103.53/std-58.395,57.12,57.375/v1"
    picture = inputs.golden_picture(90, 70).numpy()
    masks = segmenter.segment(picture, points=[(20, 30), (40, 75)])
    scores, order = golden["picture/scores"].sort(descending=True)
    frame = segmenter.frame((90, 70))
    for mask, score, index in zip(masks, scores.tolist(), order.tolist(), strict=True):
        expected = golden["picture/logits"][index].numpy()
        assert mask.low_res_logits is not None
        assert np.abs(frame.logits_to_image(mask.low_res_logits) - expected).max() <= LOGITS_BOUND
        assert abs(mask.score - score) <= SCORES_BOUND
        ours, theirs = mask.array, expected > 0
        assert (ours & theirs).sum() / (ours | theirs).sum() >= IOU_BOUND
        assert 0.05 < theirs.mean() < 0.95


@torch.no_grad()
def test_ragged_prompts_and_an_image_for_each(network: EfficientSam, features: dict[str, Any]) -> None:
    several = [_prompts(case) for case in CASES]
    together = PromptTensors.join(several)
    logits, scores = network.decode_features(features, together)
    own = {"embedding": features["embedding"].expand(len(together), -1, -1, -1)}
    assert _largest(network.decode_features(own, together)[0], logits) <= LOGITS_BOUND
    for index, prompts in enumerate(several):
        alone, alone_scores = network.decode_features(features, prompts)
        assert _largest(logits[OBJECTS * index :][:OBJECTS], alone) <= LOGITS_BOUND
        assert _largest(scores[OBJECTS * index :][:OBJECTS], alone_scores) <= SCORES_BOUND


def test_mask_prompts_are_refused(network: EfficientSam, features: dict[str, Any]) -> None:
    with pytest.raises(PromptError, match="takes no mask prompts"):
        network.decode_features(features, PromptTensors.of(masks=torch.zeros(1, 1, 32, 32)))
    segmenter = Segmenter(TorchBackend(network, CONFIG))
    with pytest.raises(PromptError, match="takes no mask prompts"):
        segmenter.segment(np.zeros((20, 30, 3), np.uint8), mask=np.ones((20, 30), dtype=bool))


@pytest.mark.parametrize("name", ["efficient_sam_ti", "efficient_sam_s"])
def test_names_and_shapes_are_the_published_ones(name: str) -> None:
    config = published_config(name)
    with torch.device("meta"):
        weights = build_network(config).state_dict()
    published = inputs.published_shapes("efficient_sam", name)
    assert {key: tuple(tensor.shape) for key, tensor in weights.items()} == published
    assert infer_config(weights) == config


def test_other_sizes_are_not_guessed() -> None:
    with pytest.raises(ModelFormatError, match=r"positions of \(1, 10, 24\)"):
        infer_config(build_efficient_sam(SMALL).state_dict())


def test_wrong_keys_are_named() -> None:
    weights = build_efficient_sam(SMALL).state_dict()
    del weights["prompt_encoder.invalid_points.weight"]
    weights["mask_decoder.iou_prediction_head.layers.2.0.bias"] = torch.zeros(1)
    weights["image_encoder.pos_embed"] = torch.zeros(1, 197, 24)
    with pytest.raises(WeightsError) as caught:
        load_strict(build_efficient_sam(SMALL), weights)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert lines == [
        "missing: prompt_encoder.invalid_points.weight",
        "unexpected: mask_decoder.iou_prediction_head.layers.2.0.bias",
        "misshapen: image_encoder.pos_embed is (1, 197, 24), should be (1, 10, 24)",
    ]


def test_files_come_back(tmp_path: Any) -> None:
    network = build_efficient_sam(SMALL)
    torch.save({"model": network.state_dict()}, tmp_path / "a.pt")  # as published
    again, config = load_checkpoint(tmp_path / "a.pt", SMALL)
    save_network(again, config, tmp_path / "b.safetensors")
    restored, config = load_network(tmp_path / "b.safetensors")
    assert config == SMALL
    assert EfficientSamConfig.from_dict(json.loads(json.dumps(SMALL.to_dict()))) == SMALL
    assert all(torch.equal(restored.state_dict()[name], t) for name, t in network.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 5}, "embed_dim"),
        ({"image_size": 100}, "patch_size"),
        ({"decoder_heads": 3}, "decoder_heads"),
        ({"upscaling_dims": (8,)}, "upscaling_dims"),
        ({"max_points": 1}, "max_points"),
        ({"pixel_std": (1.0, 0.0, 1.0)}, "pixel_std"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        dataclasses.replace(SMALL, **change)


@pytest.mark.parametrize("shape", [(1, 32, 4, 5), (3, 32, 4, 4)])
def test_features_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"1 or 2 x \(32, 4, 4\)"):
        build_efficient_sam(SMALL).decode_features({"embedding": torch.zeros(shape)}, _prompts("box"))


def test_every_parameter_learns() -> None:
    network = build_efficient_sam(SMALL)
    prompts = PromptTensors.join([_prompts("points-3"), _prompts("box")])
    logits, scores = network.decode_features(network.encode_features(torch.randn(1, 3, 64, 64)), prompts)
    (logits.square().mean() + scores.square().mean()).backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert silent == []
    assert network.image_encoder.pos_embed.grad is not None
    assert not network.image_encoder.pos_embed.grad[:, 0].any(), "the class token's place is not used"
