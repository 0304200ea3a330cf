"""The mask decoder and the whole network."""

from __future__ import annotations

import dataclasses

import pytest

torch = pytest.importorskip("torch")

from anymask.errors import ModelError  # noqa: E402
from anymask.model.prompt_tensors import PromptTensors  # noqa: E402
from anymask.model.sam.mask_decoder import select_masks  # noqa: E402
from anymask.model.sam.network import Sam, build_sam  # noqa: E402
from anymask.model.sam.two_way_transformer import Attention  # noqa: E402
from anymask.model.variants import TINY_TEST  # noqa: E402


@pytest.fixture
def sam() -> Sam:
    torch.manual_seed(3)
    return build_sam(TINY_TEST).eval()


def _points(count: int, points: int = 2) -> PromptTensors:
    return PromptTensors.of(torch.rand(count, points, 2) * 128, torch.randint(0, 2, (count, points)))


@torch.no_grad()
def test_one_shared_embedding_equals_a_copy_for_each(sam):
    embedding, prompts = torch.randn(1, 32, 8, 8), _points(5)
    shared = sam.decode(embedding, prompts)
    copied = sam.decode(embedding.repeat(5, 1, 1, 1), prompts)
    for a, b in zip(shared, copied, strict=True):
        assert (a - b).abs().max() <= 1e-5  # measured 4.8e-7


@torch.no_grad()
def test_the_shared_embedding_is_projected_once(sam):
    """Before the prompts change it, the image is one map, whatever the number of prompts."""
    seen: dict[str, int] = {}
    first, second = sam.mask_decoder.transformer.layers
    for name, layer in (("first", first), ("second", second)):
        projection = layer.cross_attn_token_to_image.k_proj
        projection.register_forward_hook(
            lambda _, inputs, __, name=name: seen.update({name: inputs[0].shape[0]})
        )
    sam.decode(torch.randn(1, 32, 8, 8), _points(7))
    assert seen == {"first": 1, "second": 7}


@torch.no_grad()
def test_prompts_of_a_batch_do_not_meet(sam):
    embedding, prompts = torch.randn(1, 32, 8, 8), _points(4)
    logits, scores = sam.decode(embedding, prompts)
    order = torch.tensor([2, 0, 3, 1])
    moved = PromptTensors(prompts.coords[order], prompts.labels[order])
    moved_logits, moved_scores = sam.decode(embedding, moved)
    assert (moved_logits - logits[order]).abs().max() <= 1e-5
    assert (moved_scores - scores[order]).abs().max() <= 1e-5


@torch.no_grad()
def test_absent_tokens_change_nothing(sam):
    embedding, prompts = torch.randn(1, 32, 8, 8), _points(2, points=3)
    present = torch.ones(2, 4, dtype=torch.bool)
    present[:, 1] = False
    masked = dataclasses.replace(prompts, present=present)
    elsewhere = prompts.coords.clone()
    elsewhere[:, 1] = 77.0
    same = dataclasses.replace(masked, coords=elsewhere)
    assert torch.equal(sam.decode(embedding, masked)[0], sam.decode(embedding, same)[0])
    assert not torch.equal(sam.decode(embedding, masked)[0], sam.decode(embedding, prompts)[0])


@torch.no_grad()
def test_broadcast_attention_is_plain_attention():
    torch.manual_seed(0)
    attention = Attention(16, num_heads=2, downsample_rate=2).double()
    one, many = torch.randn(1, 6, 16, dtype=torch.float64), torch.randn(3, 4, 16, dtype=torch.float64)
    for q, k in ((one, many), (many, one)):
        out = attention(q, k, k)
        for b in range(3):
            qb, kb = (x[b if x.shape[0] == 3 else 0] for x in (q, k))
            heads = []
            for head in range(2):
                part = slice(4 * head, 4 * head + 4)
                logits = attention.q_proj(qb)[:, part] @ attention.k_proj(kb)[:, part].T / 2.0
                heads.append(logits.softmax(-1) @ attention.v_proj(kb)[:, part])
            assert torch.allclose(out[b], attention.out_proj(torch.cat(heads, -1)), atol=1e-12)


@torch.no_grad()
def test_the_figure_is_encode_then_decode(sam):
    pixels, prompts = torch.randint(0, 256, (1, 3, 96, 128)), _points(3)
    logits, scores = sam.decode(sam.encode(pixels), prompts)
    assert logits.shape == (3, 4, 32, 32)
    assert scores.shape == (3, 4)
    three, three_scores = sam(pixels, prompts)
    one, one_score = sam(pixels, prompts, multimask=False)
    assert torch.equal(three, logits[:, 1:])
    assert torch.equal(three_scores, scores[:, 1:])
    assert torch.equal(one, logits[:, :1])
    assert torch.equal(one_score, scores[:, :1])
    assert torch.equal(select_masks(logits, scores, False)[0], one)


def test_pixels_are_normalised_then_padded_with_zeros(sam):
    pixels = torch.full((1, 3, 64, 100), 255, dtype=torch.uint8)
    out = sam.preprocess(pixels)
    assert out.shape == (1, 3, 128, 128)
    for channel, (mean, std) in enumerate([(123.675, 58.395), (116.28, 57.12), (103.53, 57.375)]):
        assert out[0, channel, 63, 99].item() == pytest.approx((255 - mean) / std, rel=1e-6)
    assert not out[:, :, 64:].any()
    assert not out[:, :, :, 100:].any()


@pytest.mark.parametrize("shape", [(1, 3, 129, 128), (1, 3, 128, 200), (1, 4, 10, 10), (3, 10, 10)])
def test_pixels_of_a_wrong_shape_are_refused(sam, shape):
    with pytest.raises(ModelError):
        sam.encode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 32, 8, 8), (1, 32, 8, 7), (1, 16, 8, 8)])
def test_embeddings_of_a_wrong_shape_are_refused(sam, shape):
    with pytest.raises(ModelError, match="1 or 3 x \\(32, 8, 8\\)"):
        sam.decode(torch.zeros(shape), _points(3))


def test_every_parameter_learns(sam):
    """With points, padding, a box, and masks for some, no parameter of the network is left out."""
    prompts = PromptTensors.join(
        [
            PromptTensors.of(torch.tensor([[[9.0, 9], [80, 70]]]), torch.tensor([[1, 0]])),
            PromptTensors.of(boxes=torch.tensor([[5.0, 5, 60, 60]]), masks=torch.randn(1, 1, 32, 32)),
        ]
    )
    logits, scores = sam.decode(sam.encode(torch.rand(1, 3, 128, 128) * 255), prompts)
    (logits.square().mean() + scores.square().mean()).backward()
    silent = [n for n, p in sam.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert silent == []


def test_decoder_gradients_agree_with_finite_differences(sam):
    sam = sam.double()
    embedding = torch.randn(1, 32, 8, 8, dtype=torch.float64).requires_grad_()
    prompts = _points(2)
    assert torch.autograd.gradcheck(lambda e: sam.decode(e, prompts), (embedding,), fast_mode=True)
