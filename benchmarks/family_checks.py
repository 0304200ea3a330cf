"""The comparisons of `families.py` from pixels of the network's frame to its masks, one function for each family.

SAM is compared with transformers' `SamModel` with the same random weights, asked prompt by prompt; the others with
golden outputs of their origin's own code on seeded weights (tests/parity/golden, whose JSON files say how they were
made).
"""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import golden_inputs
import torch
import transformers
from golden_inputs import GOLDEN
from seeded_networks import seeded_picture, seeded_prompts, seeded_weights
from torch import Tensor

import sam_parity
from anymask.errors import PromptError
from anymask.model.efficient.network import EFFICIENT_SAM_S, EFFICIENT_SAM_TI
from anymask.model.families import build_network, infer_config, published_config
from anymask.model.hq.network import HqSamConfig
from anymask.model.network import NetworkConfig
from anymask.model.prompt_tensors import PromptTensors
from anymask.model.variants import TINY_TEST, VIT_B, VIT_H, VIT_L, SamConfig
from anymask.model.weights import load_strict
from family_rows import Answer, Ours, Row, disturb, errors, feature_errors, kind_of, largest, worst

PEER = f"transformers {transformers.__version__}"
ORIGIN = "origin's code"
OBJECTS = 2
Moved = Sequence[tuple[str, float]]


def provenance(family: str) -> dict[str, str]:
    """Repository and commit of a family's golden outputs."""
    path = GOLDEN / f"{family}.json"
    facts = json.loads((path if path.is_file() else GOLDEN / "light_sams.json").read_text())
    facts = facts.get("families", {}).get(family, facts)
    return {key: facts[key] for key in ("repository", "commit", "commit_date")}


def filled(config: NetworkConfig, moved: Moved) -> Ours:
    """A network with the golden weights, then with some of them moved."""
    network = build_network(config)
    load_strict(network, golden_inputs.golden_weights(network.state_dict()))
    disturb(network, moved)
    return Ours(network, config)


def check_sam(name: str, config: SamConfig, moved: Moved) -> Iterator[Row]:
    """Four objects a call by ours; every one of them asked alone of the peer, from the peer's own embedding."""
    sam = sam_parity.randomised_sam(config, seed=7)
    peer = sam_parity.transformers_peer(sam, config)
    disturb(sam, moved)
    ours = Ours(sam, config)
    generator = torch.Generator().manual_seed(8)
    shape = (1, 3, config.image_size * 3 // 4, config.image_size)
    pixels = sam.preprocess(torch.randint(0, 256, shape, generator=generator))
    with torch.no_grad():
        embedding = peer.get_image_embeddings(pixels)
    facts = {"family": name, "against": PEER, "network": f"{config.name}, {config.image_size} px"}
    found = worst(feature_errors(features, {"embedding": embedding}) for features in ours.look(pixels))
    yield Row(**facts, case="embedding", kind="embedding", **found)
    for case in sam_parity.PROMPT_CASES:
        prompts = sam_parity.make_prompts(case, config, 4, seed=11)
        expected = _ask_peer_for_all(peer, embedding, prompts)
        # labels of -1 are the published code's own padding: the running form keeps one and drops the rest
        answers = ours.ask(sam_parity.as_tensors(prompts), running=case != "padding points")
        yield Row(
            **facts, case=case, kind=kind_of(case), objects=4, **worst(errors(a, expected) for a in answers)
        )


@torch.no_grad()
def _ask_peer_for_all(peer: Any, embedding: Tensor, prompts: list[dict[str, Tensor]]) -> Answer:
    """Mask 0 and the three candidates of each prompt."""
    rows = []
    for prompt in prompts:
        one, three = (sam_parity.ask_peer(peer, embedding, prompt, many) for many in (False, True))
        rows.append([torch.cat([a, b]) for a, b in zip(one, three, strict=True)])
    return Answer(torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows]))


def check_tiny(moved: Moved) -> Iterator[Row]:
    """A SAM of few numbers."""
    return check_sam("SAM", TINY_TEST, moved)


def check_vit_b(moved: Moved) -> Iterator[Row]:
    """The published size."""
    return check_sam("SAM ViT-B", VIT_B, moved)


def check_vit_l(moved: Moved) -> Iterator[Row]:
    """The published size, asked for by --large."""
    return check_sam("SAM ViT-L", VIT_L, moved)


def check_vit_h(moved: Moved) -> Iterator[Row]:
    """The published size, asked for by --large."""
    return check_sam("SAM ViT-H", VIT_H, moved)


def _golden_prompts(case: str, size: int) -> PromptTensors:
    """The prompts that the golden outputs of HQ-SAM and EfficientSAM were made with."""
    count = {"points-1": 1, "points-6": 6, "points-9": 9, "points+box, too many": 9}.get(case, 3)
    points, labels = golden_inputs.golden_points(size, OBJECTS, count) if "point" in case else (None, None)
    boxes = golden_inputs.golden_boxes(size, OBJECTS) if "box" in case else None
    masks = golden_inputs.golden_masks(size, OBJECTS) if "mask" in case else None
    return PromptTensors.of(points, labels, boxes, masks)


def _golden_rows(
    ours: Ours, facts: Mapping[str, str], expected: Mapping[str, Answer], cells: Any = lambda logits: logits
) -> Iterator[Row]:
    """Every case by itself, and all in one call."""
    size, joined = ours.config.image_size, []
    for case, answer in expected.items():
        joined.append(_golden_prompts(case, size))
        found = worst(errors(a.picked(cells), answer) for a in ours.ask(joined[-1]))
        yield Row(**facts, case=case, kind=kind_of(case), objects=OBJECTS, **found)
    together = Answer(*(torch.cat([getattr(a, f) for a in expected.values()]) for f in ("logits", "scores")))
    found = worst(errors(a.picked(cells), together) for a in ours.ask(PromptTensors.join(joined)))
    yield Row(
        **facts,
        case=f"all {len(together.scores)} in one call",
        kind="many objects",
        objects=len(together.scores),
        **found,
    )


def check_efficient_ti(moved: Moved) -> Iterator[Row]:
    """EfficientSAM-Ti."""
    cases = ("points-1", "points-3", "points-6", "points-9", "box", "points+box", "points+box, too many")
    return _check_efficient("EfficientSAM-Ti", "efficient_sam", EFFICIENT_SAM_TI, cases, moved)


def check_efficient_s(moved: Moved) -> Iterator[Row]:
    """EfficientSAM-S."""
    cases = ("points-1", "points-3", "box", "points+box", "points+box, too many")
    return _check_efficient("EfficientSAM-S", "efficient_sam_s", EFFICIENT_SAM_S, cases, moved)


def _check_efficient(
    name: str, family: str, config: NetworkConfig, cases: Sequence[str], moved: Moved
) -> Iterator[Row]:
    golden = golden_inputs.golden(family)
    small: Any = dataclasses.replace(config, image_size=128)  # type: ignore[type-var]
    ours = filled(small, moved)
    facts = {"family": name, "against": ORIGIN, "network": f"{config.name}, 128 px"}
    features = ours.look(golden_inputs.golden_pixels(128))
    found = worst(feature_errors(f, {"embedding": golden["embedding"]}) for f in features)
    yield Row(**facts, case="embedding", kind="embedding", **found)
    yield from _golden_rows(
        ours, facts, {case: Answer(golden[f"{case}/logits"], golden[f"{case}/scores"]) for case in cases}
    )
    try:
        ours.ask(_golden_prompts("mask", 128))
    except PromptError:
        yield Row(**facts, case="mask", kind="masks", objects=OBJECTS, note="refused")


def check_hq_b(moved: Moved) -> Iterator[Row]:
    """HQ-SAM over a small plain ViT: every kind of layer of HQ-SAM ViT-B."""
    sizes = {"name": "hq_small", "depth": 3, "global_attn_indexes": (1, 2), "window_size": 3}
    ours, golden = (
        filled(HqSamConfig(**{**TINY_TEST.to_dict(), **sizes}), moved),
        golden_inputs.golden("hq_sam"),
    )
    facts = {"family": "HQ-SAM ViT", "against": ORIGIN, "network": "3 blocks of 24, 128 px"}
    yield _hq_embedding(ours, golden, facts, dict.fromkeys(("embedding", "hq"), (...,)))
    cases = ("points", "box", "points+box", "mask", "points+mask")
    yield from _golden_rows(ours, facts, {case: _five(golden, case) for case in cases})


def check_hq_tiny(moved: Moved) -> Iterator[Row]:
    """HQ-SAM over TinyViT, the whole network; every fourth or ninth value was kept."""
    ours, golden = filled(published_config("hq_vit_tiny"), moved), golden_inputs.golden("hq_sam_tiny")
    facts = {"family": "HQ-SAM tiny", "against": ORIGIN, "network": "hq_vit_tiny, 1024 px"}
    fine = (..., slice(1, None, 9), slice(2, None, 9))
    coarse = (slice(None), slice(None, None, 4), slice(1, None, 4), slice(2, None, 4))
    yield _hq_embedding(ours, golden, facts, {"embedding": coarse, "hq": fine})
    expected = {case: _five(golden, case) for case in ("points", "box")}
    yield from _golden_rows(ours, facts, expected, lambda logits: logits[fine])


def _hq_embedding(
    ours: Ours, golden: Mapping[str, Tensor], facts: Mapping[str, str], kept: Mapping[str, Any]
) -> Row:
    features = ours.look(golden_inputs.golden_pixels(ours.config.image_size))
    found = [
        feature_errors(
            {name: f[name][cells] for name, cells in kept.items()}, {name: golden[name] for name in kept}
        )
        for f in features
    ]
    return Row(**facts, case="embedding, hq map", kind="embedding", **worst(found))


def _five(golden: Mapping[str, Tensor], case: str) -> Answer:
    """Masks as the origin answers them: SAM's four, each with the high-quality one added."""
    five = golden[f"{case}/five"]
    return Answer(five[:, :4] + five[:, 4:], golden[f"{case}/scores"])


def check_light(name: str, family: str, moved: Moved) -> Iterator[Row]:
    """MobileSAM, EdgeSAM and RepViT-SAM: kept are every eighth cell, sums over all cells and counts above 0."""
    golden = golden_inputs.golden(family)
    made = json.loads((GOLDEN / "light_sams.json").read_text())["families"][family]
    seed, size = made["seed"], made["image_size"]
    state = published_state(family)
    config: Any = dataclasses.replace(infer_config(state), image_size=size)  # type: ignore[type-var]
    network = build_network(config)
    load_strict(network, seeded_weights(state, seed))
    disturb(network, moved)
    ours = Ours(network, config)
    facts = {"family": name, "against": ORIGIN, "network": f"{config.name}, {size} px"}
    pixels = network.preprocess(seeded_picture(seed, size * 3 // 4, size))
    found = worst(_light_embedding(features["embedding"], golden) for features in ours.look(pixels))
    yield Row(**facts, case="embedding", kind="embedding", **found)
    prompts = {case: PromptTensors.of(**p) for case, p in seeded_prompts(seed, size).items()}
    for case, prompt in prompts.items():
        found = worst(_light_masks(answer, golden, [case]) for answer in ours.ask(prompt))
        yield Row(**facts, case=case, kind=kind_of(case), **found)
    joined = PromptTensors.join(list(prompts.values()))
    found = worst(_light_masks(answer, golden, list(prompts)) for answer in ours.ask(joined))
    yield Row(
        **facts, case=f"all {len(joined)} in one call", kind="many objects", objects=len(joined), **found
    )


def published_state(family: str) -> dict[str, Tensor]:
    """The state dict of the published network without values: names, shapes and types."""
    listed = json.loads(gzip.decompress((GOLDEN / f"{family}.keys.json.gz").read_bytes()))
    return {
        name: torch.empty(shape, dtype=getattr(torch, kind), device="meta") for name, kind, shape in listed
    }


def _light_embedding(embedding: Tensor, golden: Mapping[str, Tensor]) -> dict[str, float]:
    """Errors of the values that were kept, and of the means over channels and over cells."""
    found = feature_errors({"e": embedding[:, ::4, ::4, ::4]}, {"e": golden["embedding"]})
    whole = embedding.double()
    cells, channels = whole[0, 0].numel(), whole.shape[1]
    means = (
        largest(whole.sum((0, 1)), golden["embedding.cell_sums"]) / channels,
        largest(whole.sum((0, 2, 3)), golden["embedding.channel_sums"]) / cells,
    )
    return worst([found, {"embedding": max(means)}])


def _light_masks(answer: Answer, golden: Mapping[str, Tensor], cases: list[str]) -> dict[str, float]:
    """Errors of the cells that were kept, of the means over all cells, and the IoU that the counts leave possible."""
    expected = Answer(
        *(torch.cat([golden[f"{part}.{case}"] for case in cases]) for part in ("logits", "scores"))
    )
    sums = torch.cat([golden[f"logits.{case}.sums"] for case in cases])
    counts = torch.cat([golden[f"positive.{case}"] for case in cases]).double()
    found = errors(answer.picked(lambda logits: logits[..., ::8, ::8]), expected)
    mean = largest(answer.logits.double().sum((2, 3)), sums) / answer.logits[0, 0].numel()
    positive = (answer.logits > 0).sum((2, 3)).double()
    possible = torch.minimum(positive, counts) / torch.maximum(positive, counts).clamp(min=1)
    possible = torch.where(positive == counts, 1.0, possible)
    return worst([found, {"logits": mean, "iou": float(possible.min())}])
