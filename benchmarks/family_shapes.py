"""Pictures of every shape, from their pixels to masks of their own size: `Segmenter` beside ways that share none of it.

- SAM: transformers' `SamProcessor`, `SamModel` and `post_process_masks`; and `PlainPredictor`, the published predictor
  written down plainly, around the same `SamModel`'s encoder.
- MobileSAM, EdgeSAM, RepViT-SAM, HQ-SAM: `PlainPredictor` around the network's encoder as published (HQ-SAM's decoder
  too), which `family_checks` holds against the origins.
- MedSAM: the published steps written down with scikit-image and torch, and golden outputs of them.
- EfficientSAM: golden outputs of the origin's code from picture to masks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import golden_inputs
import numpy as np
import torch
import transformers
from PIL import Image as PillowImage
from plain_predictor import MEAN, STD, PlainPredictor
from seeded_networks import seeded_picture, seeded_weights
from torch import Tensor
from torch.nn import functional as F

import family_checks as checks
import sam_parity
from anymask.model.efficient.network import EFFICIENT_SAM_S, EFFICIENT_SAM_TI
from anymask.model.families import build_network, published_config
from anymask.model.hq.network import HqSamConfig
from anymask.model.network import NetworkConfig
from anymask.model.variants import MEDSAM, TINY_TEST, SamConfig
from anymask.predict.segmenter import Segmenter
from anymask.types import Mask, Prompt
from family_rows import Ours, Row, disturb, feature_errors, mask_errors, worst

SHAPES = ((96, 96), (60, 180), (180, 60), (5, 7), (1, 500), (500, 1), (1, 5000))
"""(height, width): square, wide, tall, tiny, thin, and so thin that the published frame has no row."""
GOLDEN_SHAPES = ((48, 48), (24, 96), (96, 24), (5, 7), (1, 500), (500, 1))
SIDE = 256
"""Of the networks here, but SAM's 1024: at both the published rule leaves 1 x 500 a row and 1 x 5000 none."""


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What another way answers: logits over the picture M x H x W, scores M, and the network's logits M x h x w."""

    full: Tensor
    scores: Tensor
    low_res: Tensor | None = None


def stability(low_res: Tensor) -> Tensor:
    """What orders EdgeSAM's masks, as `calculate_stability_score` has it: M of logits M x h x w, cut at 1 and -1."""
    inner, outer = ((low_res > cut).sum((-2, -1)) for cut in (1.0, -1.0))
    return inner / outer.clamp(min=1)


class Way(PlainPredictor):
    """`PlainPredictor` that keeps a row where the published rule leaves none, and says what the rule would do."""

    fault = ""

    def set_image(self, rgb: np.ndarray) -> None:
        self.fault = ""
        try:
            super().set_image(rgb)
        except ValueError as error:
            self.fault = f"the published rule fails ({str(error).lower()}); one row or column is kept instead"
            self._with_a_row(rgb)

    @torch.no_grad()
    def _with_a_row(self, rgb: np.ndarray) -> None:
        self.inside = (max(1, self.inside[0]), max(1, self.inside[1]))
        resized = PillowImage.fromarray(rgb).resize(self.inside[::-1], PillowImage.Resampling.BILINEAR)
        pixels = (torch.tensor(np.array(resized)).float() - torch.tensor(MEAN)) / torch.tensor(STD)
        below, right = (self.side - length for length in self.inside)
        self.embedding = self.encoder(F.pad(pixels.permute(2, 0, 1)[None], (0, right, 0, below)))

    def answer(self, prompt: Prompt, multimask: bool) -> Drawn:
        mask = None if prompt.mask is None else torch.tensor(prompt.mask)[None]
        full, scores, low_res = self.predict(prompt.points, prompt.labels, prompt.box, mask, multimask)
        return Drawn(torch.tensor(full), torch.tensor(scores), torch.tensor(low_res))


class HqWay(Way):
    """The same with HQ-SAM's own encoder and decoder in their published form."""

    def __init__(self, network: Any, side: int) -> None:
        super().__init__(network.state_dict(), self._encode, side, heads=8)
        self.network = network

    def _encode(self, pixels: Tensor) -> Tensor:
        features = self.network.encode_features(pixels)
        self.hq = features["hq"]
        embedding: Tensor = features["embedding"]
        return embedding

    def decode(self, prompt: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        places = self.network.prompt_encoder.dense_pe()
        dense = dense.expand_as(self.embedding)
        logits, scores = self.network.mask_decoder.decode(
            self.embedding, self.hq, places, prompt[None], dense, None
        )
        return logits[0], scores[0]


class MedWay(PlainPredictor):
    """The steps of `MedSAM_Inference.py`."""

    fault = ""

    @torch.no_grad()
    def set_image(self, rgb: np.ndarray) -> None:
        from skimage.transform import resize

        self.original, self.inside = rgb.shape[:2], (self.side, self.side)
        size = (self.side, self.side)
        levels = resize(rgb, size, order=3, preserve_range=True, anti_aliasing=True).astype(np.uint8)
        spread = max(float(levels.max()) - float(levels.min()), 1e-8)
        pixels = torch.tensor((levels.astype(np.float64) - levels.min()) / spread).float()
        self.embedding = self.encoder(pixels.permute(2, 0, 1)[None])

    @torch.no_grad()
    def answer(self, prompt: Prompt, multimask: bool) -> Drawn:
        low_res, scores = self.decode(
            self.tokens(prompt.points, prompt.labels, prompt.box), self.dense(prompt.mask)
        )
        chosen = slice(1, 4) if multimask else slice(0, 1)
        shares = torch.sigmoid(low_res[chosen])[None]
        full = F.interpolate(shares, self.original, mode="bilinear", align_corners=False)[0]
        return Drawn(torch.logit(full), scores[chosen], low_res[chosen])


class TransformersWay:
    """`SamProcessor`, `SamModel`, `post_process_masks`."""

    def __init__(self, peer: Any, side: int) -> None:
        self.peer, self.side, low = peer, side, side // 4
        self.processor = transformers.SamProcessor(
            transformers.SamImageProcessorPil(
                size={"longest_edge": side},
                pad_size={"height": side, "width": side},
                mask_size={"longest_edge": low},
                mask_pad_size={"height": low, "width": low},
            )
        )
        self.fault = ""

    @torch.no_grad()
    def set_image(self, rgb: np.ndarray) -> None:
        self.picture = PillowImage.fromarray(rgb)
        inputs = self.processor(images=self.picture, return_tensors="pt")
        self.embedding = self.peer.get_image_embeddings(inputs["pixel_values"])

    @torch.no_grad()
    def answer(self, prompt: Prompt, multimask: bool) -> Drawn:
        given: dict[str, Any] = {}
        if prompt.points is not None and prompt.labels is not None:
            given["input_points"] = [[prompt.points.tolist()]]
            given["input_labels"] = [[prompt.labels.astype(int).tolist()]]
        if prompt.box is not None:
            given["input_boxes"] = [[prompt.box.tolist()]]
        inputs = self.processor(images=self.picture, return_tensors="pt", **given)
        sizes = [inputs.pop(name) for name in ("original_sizes", "reshaped_input_sizes")]
        del inputs["pixel_values"]
        inputs = {
            name: t.float() if t.is_floating_point() and "labels" not in name else t
            for name, t in inputs.items()
        }
        if prompt.mask is not None:
            inputs["input_masks"] = torch.tensor(prompt.mask)[None, None]
        out = self.peer(image_embeddings=self.embedding, multimask_output=multimask, **inputs)
        full = self.processor.post_process_masks(out.pred_masks, *sizes, binarize=False)[0]
        return Drawn(full[0], out.iou_scores[0, 0], out.pred_masks[0, 0])


def picture(size: tuple[int, int]) -> np.ndarray:
    """H x W x 3 uint8: blocks with noise on them."""
    return seeded_picture(5, *size)[0].permute(1, 2, 0).to(torch.uint8).numpy()


def prompts_for(size: tuple[int, int], mask_side: int | None) -> list[Prompt]:
    """Points, a box, both, and with ``mask_side`` a mask: four objects of one call."""
    height, width = size
    points, labels = np.array([[0.3, 0.4], [0.8, 0.7]]) * (width, height), [1, 0]
    box = np.array([0.1, 0.1, 0.9, 0.8]) * (width, height, width, height)
    prompts = [Prompt(points=points, labels=labels), Prompt(box=box), Prompt(points, labels, box)]
    if mask_side is not None:
        coarse = 5 * golden_inputs.uniform(5, "mask of a shape", (8, 8)).numpy()
        prompts.append(Prompt(mask=np.kron(coarse, np.ones((mask_side // 8, mask_side // 8), np.float32))))
    return prompts


def held(mask: Mask, expected: Tensor, score: Tensor, low_res: Tensor | None) -> dict[str, float]:
    """The errors of one mask of ours."""
    found = {
        "scores": abs(mask.score - float(score)),
        "reach": float(expected.abs().max()),
        **mask_errors(torch.tensor(mask.array), expected > 0, expected),
    }
    if low_res is not None and mask.low_res_logits is not None:
        found["logits"] = float((torch.tensor(mask.low_res_logits) - low_res).abs().max())
    return found


def compare_picture(
    segmenter: Segmenter,
    way: Any,
    facts: Mapping[str, str],
    size: tuple[int, int],
    prompts: Sequence[Prompt],
    modes: Sequence[bool] = (False, True),
) -> Row:
    """One picture through both ways; ours in one call for all prompts."""
    rgb = picture(size)
    embedding = segmenter.embed(rgb)
    named = {"case": f"{size[1]} x {size[0]}", "kind": "picture", "objects": len(prompts)}
    try:
        way.set_image(rgb)
    except ValueError as error:
        rows, columns = (int(length * way.side / max(size) + 0.5) for length in size)
        note = (
            f"it fails ({type(error).__name__}), since the frame of the published rule is {columns} x {rows}"
        )
        return Row(**facts, **named, note=note)
    ours = {name: torch.tensor(map_) for name, map_ in embedding.features.items()}
    found = [feature_errors(ours, {"embedding": way.embedding})]
    for multimask in modes:
        for masks, prompt in zip(segmenter.segment_many(embedding, prompts, multimask), prompts, strict=True):
            drawn = way.answer(prompt, multimask)
            if segmenter.spec.ranking == "stability":
                assert drawn.low_res is not None
                drawn = dataclasses.replace(drawn, scores=stability(drawn.low_res))
            order = torch.argsort(-drawn.scores, stable=True).tolist()
            for mask, index in zip(masks, order, strict=True):
                low_res = None if drawn.low_res is None else drawn.low_res[index]
                found.append(held(mask, drawn.full[index], drawn.scores[index], low_res))
    return Row(**facts, **named, **worst(found), note=way.fault)


def sam_shapes(moved: checks.Moved, side: int = 1024) -> Iterator[Row]:
    """A small SAM on a frame of full size, two ways."""
    config = dataclasses.replace(TINY_TEST, image_size=side)
    sam = sam_parity.randomised_sam(config, seed=11)
    peer = sam_parity.transformers_peer(sam, config)
    weights = {name: tensor.clone() for name, tensor in sam.state_dict().items()}
    disturb(sam, moved)
    segmenter = Segmenter(Ours(sam, config).backend)
    ways = {
        f"{checks.PEER}, its processor": TransformersWay(peer, side),
        "published predictor, written down": Way(
            weights, peer.get_image_embeddings, side, config.decoder_heads
        ),
    }
    for against, way in ways.items():
        facts = {"family": "SAM", "against": against, "network": f"{config.name}, {side} px"}
        for size in SHAPES:
            yield compare_picture(segmenter, way, facts, size, prompts_for(size, side // 4))


def sam_shapes_quick(moved: checks.Moved) -> Iterator[Row]:
    """The same on a small frame."""
    return sam_shapes(moved, SIDE)


def light_shapes(name: str, family: str, moved: checks.Moved) -> Iterator[Row]:
    """MobileSAM, EdgeSAM and RepViT-SAM of published widths."""
    config: Any = dataclasses.replace(published_config(family), image_size=SIDE)  # type: ignore[type-var]
    network = build_network(config)
    network.load_state_dict(seeded_weights(network.state_dict(), 5), strict=True)
    return _beside_plain(name, network, config, moved)


def hq_b_shapes(moved: checks.Moved) -> Iterator[Row]:
    """HQ-SAM over a small plain ViT."""
    sizes = {"name": "hq_small", "depth": 3, "global_attn_indexes": (1, 2), "image_size": SIDE}
    return _golden_beside_plain("HQ-SAM ViT", HqSamConfig(**{**TINY_TEST.to_dict(), **sizes}), moved)


def hq_tiny_shapes(moved: checks.Moved) -> Iterator[Row]:
    """HQ-SAM over TinyViT."""
    config: Any = dataclasses.replace(published_config("hq_vit_tiny"), image_size=SIDE)  # type: ignore[type-var]
    return _golden_beside_plain("HQ-SAM tiny", config, moved)


def _golden_beside_plain(name: str, config: NetworkConfig, moved: checks.Moved) -> Iterator[Row]:
    network = build_network(config)
    network.load_state_dict(golden_inputs.golden_weights(network.state_dict()), strict=True)
    return _beside_plain(name, network, config, moved)


def _beside_plain(name: str, network: Any, config: Any, moved: checks.Moved) -> Iterator[Row]:
    network.eval()
    undisturbed = build_network(config).eval()
    undisturbed.load_state_dict(network.state_dict())
    disturb(network, moved)
    segmenter = Segmenter(Ours(network, config).backend)
    if hasattr(undisturbed.mask_decoder, "hf_token"):
        way: Way = HqWay(undisturbed, config.image_size)
    else:
        way = Way(
            undisturbed.state_dict(), undisturbed.image_encoder, config.image_size, config.decoder_heads
        )
    against = "published predictor, written down"
    facts = {"family": name, "against": against, "network": f"{config.name}, {config.image_size} px"}
    for size in SHAPES:
        yield compare_picture(segmenter, way, facts, size, prompts_for(size, config.image_size // 4))


def medsam_config() -> SamConfig:
    """MedSAM's way with pictures, and the sizes of a small SAM."""
    own = ("name", "pixel_mean", "pixel_std", "resize", "normalisation")
    return dataclasses.replace(TINY_TEST, **{field: getattr(MEDSAM, field) for field in own})


def medsam_shapes(moved: checks.Moved) -> Iterator[Row]:
    """Boxes, as published: golden outputs for two pictures; the steps written down for every shape."""
    config = medsam_config()
    network = checks.filled(config, ()).network
    undisturbed = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    peer = sam_parity.transformers_peer(network, config)
    disturb(network, moved)
    segmenter, golden = Segmenter(Ours(network, config).backend), golden_inputs.golden("medsam")
    facts = {"family": "MedSAM", "against": checks.ORIGIN, "network": f"small SAM, {config.image_size} px"}
    for name, (height, width) in {"small": (90, 70), "large": (300, 200)}.items():
        embedding = segmenter.embed(golden_inputs.golden_picture(height, width).numpy())
        ours = {name: torch.tensor(map_) for name, map_ in embedding.features.items()}
        found = feature_errors(ours, {"embedding": golden[f"{name}/embedding"]})
        mask = segmenter.segment(embedding, box=(5, 10, width - 20, height - 30), multimask=False)[0]
        low_res = golden[f"{name}/logits"]
        full = F.interpolate(torch.sigmoid(low_res)[None, None], (height, width), mode="bilinear")[0, 0]
        assert torch.equal(full > 0.5, golden[f"{name}/mask"].bool()), "the golden mask comes from its logits"
        found |= held(mask, torch.logit(full), golden[f"{name}/score"], low_res)
        yield Row(**facts, case=f"box, {width} x {height}", kind="boxes", **found)
    way = MedWay(undisturbed, peer.get_image_embeddings, config.image_size, config.decoder_heads)
    facts |= {"against": "published steps, written down"}
    for size in SHAPES:
        yield compare_picture(segmenter, way, facts, size, prompts_for(size, None)[1:2], [False])


def efficient_ti_shapes(moved: checks.Moved) -> Iterator[Row]:
    """The origin's `forward` on one picture."""
    config = dataclasses.replace(EFFICIENT_SAM_TI, image_size=128)
    golden = golden_inputs.golden("efficient_sam")
    segmenter = Segmenter(checks.filled(config, moved).backend)
    facts = {"family": "EfficientSAM-Ti", "against": checks.ORIGIN, "network": f"{config.name}, 128 px"}
    masks = segmenter.segment(golden_inputs.golden_picture(90, 70).numpy(), points=[(20, 30), (40, 75)])
    yield Row(
        **facts,
        case="70 x 90",
        kind="picture",
        **_full_size(segmenter, masks, golden, "picture", slice(0, 3)),
    )


def efficient_s_shapes(moved: checks.Moved) -> Iterator[Row]:
    """The origin's code on pictures of every shape."""
    config = dataclasses.replace(EFFICIENT_SAM_S, image_size=128)
    golden = golden_inputs.golden("efficient_sam_s")
    segmenter = Segmenter(checks.filled(config, moved).backend)
    facts = {"family": "EfficientSAM-S", "against": checks.ORIGIN, "network": f"{config.name}, 128 px"}
    for size in GOLDEN_SHAPES:
        case = f"{size[1]} x {size[0]}"
        embedding = segmenter.embed(picture(size))
        found = []
        for multimask, chosen in ((False, slice(0, 1)), (True, slice(1, 4))):
            answers = segmenter.segment_many(embedding, prompts_for(size, None)[:2], multimask)
            for masks, prompt in zip(answers, ("points", "box"), strict=True):
                found.append(_full_size(segmenter, masks, golden, f"{case}/{prompt}", chosen))
        yield Row(**facts, case=case, kind="picture", objects=2, **worst(found))


def _full_size(
    segmenter: Segmenter, masks: Sequence[Mask], golden: Mapping[str, Tensor], name: str, chosen: slice
) -> dict[str, float]:
    """Masks beside logits that the origin gave at the picture's size; the errors of logits are over the picture."""
    logits, scores = golden[f"{name}/logits"][chosen], golden[f"{name}/scores"][chosen]
    order = torch.argsort(-scores, stable=True).tolist()
    found = []
    for mask, index in zip(masks, order, strict=True):
        assert mask.low_res_logits is not None
        full = torch.tensor(segmenter.frame(mask.size).logits_to_image(mask.low_res_logits))
        error = {"logits": float((full - logits[index]).abs().max())}
        found.append(held(mask, logits[index], scores[index], None) | error)
    return worst(found)
