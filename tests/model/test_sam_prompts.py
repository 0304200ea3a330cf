"""The prompt encoder: closed forms, gradients, and ragged batches that equal their parts."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from anymask.errors import ModelError  # noqa: E402
from anymask.model.prompt_tensors import PromptTensors  # noqa: E402
from anymask.model.sam.network import build_sam  # noqa: E402
from anymask.model.sam.prompt_encoder import PositionEmbeddingRandom, PromptEncoder  # noqa: E402
from anymask.model.variants import TINY_TEST  # noqa: E402


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(9)


@pytest.fixture
def encoder() -> PromptEncoder:
    """Embedding 6 x 8 cells of an image 48 high and 64 wide: rows and columns cannot be exchanged unseen."""
    return PromptEncoder(dim=8, grid_size=(6, 8), image_size=(48, 64), mask_channels=8)


def test_position_features_are_sines_and_cosines_of_random_waves():
    layer = PositionEmbeddingRandom(6)
    waves = layer.positional_encoding_gaussian_matrix
    x, y = 0.25, 0.7
    angles = [
        2 * math.pi * ((2 * x - 1) * waves[0, i].item() + (2 * y - 1) * waves[1, i].item()) for i in range(3)
    ]
    expected = torch.tensor([*map(math.sin, angles), *map(math.cos, angles)])
    assert torch.allclose(layer(torch.tensor([x, y])), expected, atol=1e-5)


def test_dense_positions_are_those_of_points_at_cell_centres(encoder):
    dense = encoder.dense_pe()
    assert dense.shape == (1, 8, 6, 8)
    for row, column in [(0, 0), (5, 7), (2, 6)]:
        centre = torch.tensor([(column + 0.5) / 8, (row + 0.5) / 6])
        assert torch.allclose(dense[0, :, row, column], encoder.pe_layer(centre), atol=1e-5)


def test_a_point_is_its_pixel_centre_plus_its_label(encoder):
    point = encoder.embed_points(torch.tensor([[[10.0, 20.0]]]), torch.tensor([[1]]))
    place = encoder.pe_layer(torch.tensor([10.5 / 64, 20.5 / 48]))
    assert torch.allclose(point[0, 0], place + encoder.point_embeddings[1].weight[0], atol=1e-6)


def test_not_a_point_has_no_place(encoder):
    tokens = encoder.embed_points(torch.tensor([[[3.0, 4.0], [60.0, 1.0]]]), torch.tensor([[-1, -1]]))
    assert torch.equal(tokens[0, 0], encoder.not_a_point_embed.weight[0])
    assert torch.equal(tokens[0, 0], tokens[0, 1])


def test_published_rules_for_points_and_boxes():
    points, labels = torch.rand(2, 3, 2) * 100, torch.tensor([[1, 0, 1], [0, 0, 1]])
    boxes = torch.tensor([[1.0, 2, 30, 40], [5, 6, 7, 8]])
    alone = PromptTensors.of(points, labels)
    assert alone.labels.tolist() == [[1, 0, 1, -1], [0, 0, 1, -1]]
    assert torch.equal(alone.coords[:, :3], points)
    boxed = PromptTensors.of(points, labels, boxes)
    assert boxed.labels.tolist() == [[1, 0, 1, 2, 3], [0, 0, 1, 2, 3]]
    assert boxed.coords[1, 3:].tolist() == [[5, 6], [7, 8]]
    mask_only = PromptTensors.of(masks=torch.zeros(2, 1, 32, 32))
    assert mask_only.labels.shape == (2, 0)


def test_mask_flags_choose_per_prompt(encoder):
    masks = torch.randn(3, 1, 24, 32)
    embedded = encoder.embed_masks(masks)
    chosen = encoder.embed_masks(masks, torch.tensor([1.0, 0.0, 1.0]))
    assert embedded.shape == (3, 8, 6, 8)
    assert torch.equal(chosen[[0, 2]], embedded[[0, 2]])
    assert torch.equal(chosen[1], encoder.no_mask_embed.weight.reshape(8, 1, 1).expand(8, 6, 8))
    assert torch.equal(encoder.embed_masks(None)[0], chosen[1])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PromptTensors.of(), "needs points"),
        (lambda: PromptTensors.of(points=torch.zeros(1, 1, 2)), "labels"),
        (lambda: PromptTensors.of(torch.zeros(1, 1, 2), torch.tensor([[4]])), "4"),
        (lambda: PromptTensors.of(torch.zeros(1, 1, 2), torch.tensor([[-10]])), "-10"),
        (lambda: PromptTensors.of(torch.full((1, 1, 2), math.nan), torch.tensor([[1]])), "finite"),
        (lambda: PromptTensors.of(torch.zeros(1, 2, 2), torch.tensor([[1]])), "B x N"),
        (lambda: PromptTensors.of(torch.zeros(2, 1, 2), torch.ones(2, 1), torch.zeros(3, 4)), "same number"),
        (lambda: PromptTensors.of(boxes=torch.zeros(2, 4), masks=torch.zeros(1, 1, 8, 8)), "same number"),
        (lambda: PromptTensors.of(masks=torch.zeros(2, 3, 8, 8)), "2 x 1 x H x W"),
        (lambda: PromptTensors.of(boxes=torch.zeros(2, 2, 2)), "B x 4"),
        (lambda: PromptTensors.join([]), "no prompts"),
    ],
)
def test_faulty_prompts_are_refused(build, message):
    with pytest.raises(ModelError, match=message):
        build()


def test_mask_prompt_of_another_size_is_refused(encoder):
    with pytest.raises(ModelError, match="24 x 32"):
        encoder.embed_masks(torch.zeros(1, 1, 32, 24))


def test_gradients_agree_with_finite_differences(encoder):
    encoder = encoder.double()
    coords = (torch.rand(2, 3, 2, dtype=torch.float64) * 40).requires_grad_()
    labels = torch.tensor([[1, 0, -1], [2, 3, 1]])
    masks = torch.randn(2, 1, 24, 32, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: encoder.embed_points(c, labels), (coords,))
    assert torch.autograd.gradcheck(encoder.embed_masks, (masks,), fast_mode=True)
    parameters = dict(encoder.named_parameters())

    def as_function(*values: torch.Tensor) -> torch.Tensor:
        inputs = (coords.detach(), labels, masks.detach(), torch.tensor([True, False]))
        sparse, dense = torch.func.functional_call(
            encoder, dict(zip(parameters, values, strict=True)), inputs
        )
        return torch.cat([sparse.flatten(), dense.flatten()])

    assert torch.autograd.gradcheck(as_function, tuple(parameters.values()), fast_mode=True)


def test_every_parameter_receives_a_gradient(encoder):
    labels = torch.tensor([[-1, 0, 1], [2, 3, 1]])
    sparse, dense = encoder(
        torch.rand(2, 3, 2) * 40, labels, torch.randn(2, 1, 24, 32), torch.tensor([True, False])
    )
    (sparse.square().sum() + dense.square().sum()).backward()
    silent = [n for n, p in encoder.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert silent == []


@torch.no_grad()
def test_ragged_batches_equal_one_by_one():
    """In double precision, so that the bound leaves no room for a padding point that is looked at."""
    sam = build_sam(TINY_TEST).double().eval()
    embedding = torch.randn(1, 32, 8, 8, dtype=torch.float64)
    mask = torch.randn(1, 1, 32, 32, dtype=torch.float64)
    prompts = [
        PromptTensors.of(torch.tensor([[[10.0, 20.0]]]), torch.tensor([[1]])),
        PromptTensors.of(torch.rand(1, 5, 2) * 128, torch.tensor([[1, 0, 1, -1, 0]])),
        PromptTensors.of(boxes=torch.tensor([[3.0, 4, 90, 100]])),
        PromptTensors.of(masks=mask),
        PromptTensors.of(
            torch.rand(1, 2, 2) * 128, torch.tensor([[1, 0]]), torch.tensor([[0.0, 0, 9, 9]]), mask
        ),
    ]
    joined = PromptTensors.join(prompts)
    assert joined.labels.shape == (5, 6)
    logits, scores = sam.decode(embedding, joined)
    for index, prompt in enumerate(prompts):
        alone_logits, alone_scores = sam.decode(embedding, prompt)
        assert (logits[index] - alone_logits[0]).abs().max() <= 1e-12  # measured 2.2e-16
        assert (scores[index] - alone_scores[0]).abs().max() <= 1e-12  # measured 8.3e-17
    again, _ = sam.decode(embedding, PromptTensors.join([joined, prompts[0]]))
    assert (again[:5] - logits).abs().max() <= 1e-12


@torch.no_grad()
def test_a_batch_padded_by_others_equals_one_by_one():
    """Points, points to the last column, a box with a point, a mask alone: as `of` would make each."""
    sam = build_sam(TINY_TEST).double().eval()
    embedding = torch.randn(1, 32, 8, 8, dtype=torch.float64)
    coords, masks = torch.rand(4, 3, 2) * 128, torch.randn(4, 1, 32, 32, dtype=torch.float64)
    labels = torch.tensor([[1.0, -1, -1], [1, 0, 1], [0, 2, 3], [-1, -1, -1]])
    padded = PromptTensors.from_padded(coords, labels, masks, torch.tensor([0.0, 0, 0, 1]))
    logits, _ = sam.decode(embedding, padded)
    alone = [
        PromptTensors.of(coords[:1, :1], labels[:1, :1]),
        PromptTensors.of(coords[1:2], labels[1:2]),
        PromptTensors.of(coords[2:3, :1], labels[2:3, :1], coords[2, 1:].reshape(1, 4)),
        PromptTensors.of(masks=masks[3:]),
    ]
    for index, prompt in enumerate(alone):
        assert (logits[index] - sam.decode(embedding, prompt)[0][0]).abs().max() <= 1e-12
    assert PromptTensors.from_padded(coords, labels, masks, torch.zeros(4)).masks is None


def test_joining_what_is_not_ragged_adds_nothing():
    one = PromptTensors.of(torch.ones(1, 1, 2), torch.tensor([[1]]), masks=torch.ones(1, 1, 8, 8))
    joined = PromptTensors.join([one, one])
    assert joined.present is None
    assert joined.has_mask is None
    assert len(joined) == 2
    bare = PromptTensors.of(torch.ones(1, 1, 2), torch.tensor([[1]]))
    mixed = PromptTensors.join([one, bare])
    assert mixed.has_mask is not None
    assert mixed.has_mask.tolist() == [True, False]
