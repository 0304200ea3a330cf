"""MobileSAM, EdgeSAM and RepViT-SAM against outputs of their published codes on the same seeded weights.

`golden/light_sams.json` says where the outputs come from; weights, pictures and prompts are made here anew
(`seeded_networks`). MobileSAM is run at 1024 pixels, the only size its published code takes; the other two at 512.
Measured here: torch 2.13.0 (CPU) on both sides. The seeded networks are well conditioned: their float32 embeddings
are within 1.2e-5 of those computed in float64, so that another machine's order of sums stays within the bounds.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from seeded_networks import seeded_picture, seeded_prompts, seeded_weights, uniform  # noqa: E402

from anymask.errors import WeightsError  # noqa: E402
from anymask.model.families import build_network, infer_config, published_config  # noqa: E402
from anymask.model.light.conv_norm import fuse  # noqa: E402
from anymask.model.network import NetworkConfig  # noqa: E402
from anymask.model.prompt_tensors import PromptTensors  # noqa: E402
from anymask.model.sam.network import Sam  # noqa: E402
from anymask.model.weights import load_strict  # noqa: E402

GOLDEN = Path(__file__).parent / "golden"
FAMILIES: dict[str, Any] = json.loads((GOLDEN / "light_sams.json").read_text())["families"]
BLOCKS = [(family, block) for family, facts in FAMILIES.items() for block in facts["blocks"]]

BLOCK_BOUND = 1e-5  # absolute, on values to 14; ours in double, whose rounding no processor changes
EMBEDDING_BOUND = 1e-4  # measured 7.0e-6 on values to 5.3
COSINE_BOUND = 0.999999  # measured 1 - 5.1e-13
LOGITS_BOUND = 1e-3  # measured 1.8e-5 on values to 26
SCORES_BOUND = 1e-4  # measured 3.3e-6 on values to 2.6


@dataclass(frozen=True)
class Pair:
    """Our network with the seeded weights, its fused encoder, and what the published network gave."""

    sam: Sam
    fused_encoder: torch.nn.Module
    config: NetworkConfig
    golden: dict[str, Any]
    seed: int


def published_state(family: str) -> dict[str, Any]:
    """The state dict of the published network without values: names, shapes and types."""
    listed = json.loads(gzip.decompress((GOLDEN / f"{family}.keys.json.gz").read_bytes()))
    return {
        name: torch.empty(shape, dtype=getattr(torch, kind), device="meta") for name, kind, shape in listed
    }


@functools.cache
def pair_of(family: str) -> Pair:
    facts, state = FAMILIES[family], published_state(family)
    config: Any = dataclasses.replace(infer_config(state), image_size=facts["image_size"])  # type: ignore[type-var]
    sam = build_network(config)
    load_strict(sam, seeded_weights(state, facts["seed"]))
    golden = load_file(GOLDEN / f"{family}.safetensors")
    return Pair(sam.eval(), fuse(sam.image_encoder), config, golden, facts["seed"])


def largest(a: Any, b: Any) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_names_shapes_and_types_are_the_published_ones(family):
    """Strictly: all that a published file holds, and nothing else."""
    listed = published_state(family)
    config = infer_config(listed)
    assert config == published_config(family)
    with torch.device("meta"):
        network = build_network(config)
    ours = {name: (tuple(t.shape), t.dtype) for name, t in network.state_dict().items()}
    assert ours == {name: (tuple(t.shape), t.dtype) for name, t in listed.items()}
    assert len(ours) == FAMILIES[family]["keys"]
    assert sum(p.numel() for p in network.parameters()) == FAMILIES[family]["parameters"]


def test_a_key_too_many_or_too_few_is_named():
    """Batch counters are part of a published file, the places of the biases are not."""
    sam = pair_of("mobile_sam").sam
    state = dict(sam.state_dict())
    lost = next(name for name in state if name.endswith("num_batches_tracked"))
    del state[lost]
    state["image_encoder.attention_bias_idxs"] = torch.zeros(2, 2, dtype=torch.long)
    with pytest.raises(WeightsError) as error:
        load_strict(sam, state)
    assert f"missing: {lost}" in str(error.value)
    assert "unexpected: image_encoder.attention_bias_idxs" in str(error.value)
    assert "2 keys" in str(error.value)


@pytest.mark.parametrize("form", ["plain", "fused"])
@pytest.mark.parametrize(("family", "block"), BLOCKS)
@torch.no_grad()
def test_blocks(family, block, form):
    """Every kind of block on maps that windows and strides do not divide, as published and fused."""
    pair = pair_of(family)
    encoder = pair.sam.image_encoder if form == "plain" else pair.fused_encoder
    x = uniform(pair.seed, f"input.{block}", FAMILIES[family]["blocks"][block])
    exact = copy.deepcopy(encoder.get_submodule(block)).double()
    ours, expected = exact(x.double())[:, ::4], pair.golden[f"block.{block}"]
    assert largest(ours, expected) <= BLOCK_BOUND
    assert float(expected.abs().max()) > 1, "the comparison would not see a fault in values this small"


@pytest.fixture(scope="module", params=list(FAMILIES))
def embedded(request: pytest.FixtureRequest) -> tuple[Pair, Any]:
    """A pair and our embedding of its picture, which is wider than high and so padded."""
    pair = pair_of(request.param)
    size = pair.config.image_size
    with torch.no_grad():
        return pair, pair.sam.encode(seeded_picture(pair.seed, size * 3 // 4, size))


def test_embedding(embedded):
    pair, embedding = embedded
    grid = pair.config.image_size // 16
    assert embedding.shape == (1, 256, grid, grid)
    ours, golden = embedding[:, ::4, ::4, ::4], pair.golden
    flat = (x.double().flatten() for x in (ours, golden["embedding"]))
    cosine = float(torch.nn.functional.cosine_similarity(*flat, dim=0))
    assert largest(ours, golden["embedding"]) <= EMBEDDING_BOUND
    assert cosine >= COSINE_BOUND
    whole = embedding.double()
    assert largest(whole.sum((0, 1)), golden["embedding.cell_sums"]) <= EMBEDDING_BOUND * 256
    assert largest(whole.sum((0, 2, 3)), golden["embedding.channel_sums"]) <= EMBEDDING_BOUND * grid**2


@torch.no_grad()
def test_masks_and_scores(embedded):
    pair, embedding = embedded
    balanced = []
    for case, prompt in seeded_prompts(pair.seed, pair.config.image_size).items():
        logits, scores = pair.sam.decode_features({"embedding": embedding}, PromptTensors.of(**prompt))
        expected, cells = pair.golden[f"logits.{case}"], logits.shape[2] * logits.shape[3]
        assert largest(logits[..., ::8, ::8], expected) <= LOGITS_BOUND, case
        sums, expected_sums = logits.double().sum((2, 3)), pair.golden[f"logits.{case}.sums"]
        assert largest(sums, expected_sums) <= LOGITS_BOUND * cells, case
        assert largest(scores, pair.golden[f"scores.{case}"]) <= SCORES_BOUND, case
        positive = (logits > 0).sum((2, 3))
        assert largest(positive, pair.golden[f"positive.{case}"]) <= 1e-4 * cells, case
        assert float(scores.abs().max()) > 0.3, "the comparison would not see a fault in scores this small"
        balanced.append(int(((positive > 0.02 * cells) & (positive < 0.98 * cells)).sum()))
    assert min(balanced) >= 2, "the comparison would not see a fault in masks this full or this empty"


@torch.no_grad()
def test_the_comparison_would_see_a_fault():
    """Biases left at zero (as the published MobileSAM runs when it is not put into evaluation mode twice)."""
    pair = pair_of("mobile_sam")
    block = pair.sam.image_encoder.get_submodule("layers.2.blocks.3")
    x = uniform(pair.seed, "input.layers.2.blocks.3", FAMILIES["mobile_sam"]["blocks"]["layers.2.blocks.3"])
    kept = block.attn.attention_biases.clone()
    try:
        block.attn.attention_biases.zero_()
        error = largest(block(x)[:, ::4], pair.golden["block.layers.2.blocks.3"])
    finally:
        block.attn.attention_biases.copy_(kept)
    assert error > 1000 * BLOCK_BOUND
