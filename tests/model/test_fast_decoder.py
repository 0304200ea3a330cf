"""The fast decoder against the network it is made from, in torch and as graphs in onnxruntime and OpenVINO.

Bounds are the ladder's (logits 1e-3, scores 1e-4); measured beside them, torch 2.13.0 on an AMD EPYC.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from anymask.model.layers import LayerNorm2d  # noqa: E402
from anymask.model.prompt_tensors import PromptTensors  # noqa: E402
from anymask.model.sam.fast_decoder import FastDecoder  # noqa: E402
from anymask.model.sam.network import Sam, build_sam  # noqa: E402
from anymask.model.variants import TINY_TEST, VIT_B, SamConfig  # noqa: E402

LOGITS_BOUND = 1e-3  # measured 8e-6 on values of spread 1.2 (tiny), 4e-5 of spread 4.7 (full size)
SCORES_BOUND = 1e-4  # measured 3e-6
THRESHOLD_MARGIN = 1e-2

DEEP = dataclasses.replace(TINY_TEST, name="deep", decoder_depth=3, num_multimask_outputs=4, iou_head_depth=4)
# The full decoder; the encoder is not run, so it is as small as can be.
FULL = dataclasses.replace(VIT_B, embed_dim=48, depth=1, num_heads=2, global_attn_indexes=(0,))

ONE = torch.tensor(1)
Prompts = tuple[Tensor, Tensor, Tensor, Tensor]


def randomised(config: SamConfig, seed: int = 5) -> Sam:
    """Every parameter random, norms and biases included, and no activation dies or explodes."""
    generator = torch.Generator().manual_seed(seed)
    sam = build_sam(config)
    with torch.no_grad():
        for module in sam.modules():
            for name, parameter in module.named_parameters(recurse=False):
                noise = torch.randn(parameter.shape, generator=generator)
                if isinstance(module, torch.nn.LayerNorm | LayerNorm2d) and name == "weight":
                    parameter.copy_(1 + 0.2 * noise)
                elif isinstance(module, torch.nn.Embedding):
                    parameter.copy_(noise)
                elif name == "weight":
                    parameter.copy_(noise * (2 / parameter[0].numel()) ** 0.5)
                else:
                    parameter.copy_(0.3 * noise)
    return sam.eval()


@pytest.fixture(scope="module", params=[TINY_TEST, DEEP], ids=["tiny", "deep"])
def pair(request: pytest.FixtureRequest) -> tuple[Sam, FastDecoder]:
    sam = randomised(request.param)
    return sam, FastDecoder(sam)


def embedding_of(config: SamConfig, seed: int = 2) -> Tensor:
    shape = (1, config.prompt_dim, config.grid_size, config.grid_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def prompts_of(config: SamConfig, rows: list[list[int]], masked: list[int], seed: int = 3) -> Prompts:
    """One prompt per row of labels, padded with -1 to the longest; places and masks are random."""
    generator = torch.Generator().manual_seed(seed)
    longest, size = max(map(len, rows)), config.mask_input_size
    labels = torch.tensor([row + [-1] * (longest - len(row)) for row in rows], dtype=torch.float32)
    points = torch.rand(len(rows), longest, 2, generator=generator) * config.image_size
    has_mask = torch.tensor([float(index in masked) for index in range(len(rows))])
    return points, labels, 4 * torch.randn(len(rows), 1, size, size, generator=generator), has_mask


def published(sam: Sam, embedding: Tensor, prompts: Prompts) -> tuple[Tensor, Tensor]:
    return sam.decode_features({"embedding": embedding}, PromptTensors.from_padded(*prompts))


def assert_same(seen: Any, expected: tuple[Tensor, Tensor]) -> None:
    logits, scores = (torch.as_tensor(np.asarray(part)) for part in seen)
    assert logits.shape == expected[0].shape
    assert scores.shape == expected[1].shape
    assert expected[0].std() > 0.3, "masks this flat would not show a fault"
    assert (logits - expected[0]).abs().max() <= LOGITS_BOUND
    assert (scores - expected[1]).abs().max() <= SCORES_BOUND
    flipped = (logits > 0) != (expected[0] > 0)
    assert not flipped.any() or expected[0][flipped].abs().max() <= THRESHOLD_MARGIN


CASES: dict[str, tuple[list[list[int]], list[int]]] = {
    "one click": ([[1, -1]], []),
    "clicks": ([[1, 0, 1, -1], [0, 1, 1, -1]], []),
    "the padding point is missing": ([[1], [1]], []),
    "missing for one prompt only": ([[1, 0], [1, -1]], []),
    "boxes": ([[2, 3], [2, 3], [2, 3]], []),
    "a box and clicks": ([[1, 0, 2, 3], [1, 1, 2, 3]], []),
    "more padding than wanted": ([[1, -1, -1, -1], [2, 3, -1, -1]], []),
    "a mask alone": ([[-1]], [0]),
    "masks and clicks": ([[1, -1], [1, -1]], [0, 1]),
    "nothing at all": ([[-1, -1]], []),
    "every kind at once": ([[1], [1, 0, 0, 1, -1], [2, 3], [1, 2, 3], [-1], [2, 3], [0, 1]], [1, 4, 5]),
    "sixty-four": ([[1, -1], [2, 3]] * 32, [7, 8]),
    "more tokens than channels": ([[1, 0] * 9, [1] * 5], [0]),
}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_same_answer_as_the_network(pair: tuple[Sam, FastDecoder], case: str) -> None:
    sam, fast = pair
    config = TINY_TEST  # both have its sizes outside the decoder
    embedding, prompts = embedding_of(config), prompts_of(config, *CASES[case])
    assert_same(fast(embedding, *prompts), published(sam, embedding, prompts))
    if not CASES[case][1]:
        assert_same(fast(embedding, *prompts[:2]), published(sam, embedding, prompts))


@torch.no_grad()
def test_same_answer_at_full_size() -> None:
    sam = randomised(FULL)
    embedding = embedding_of(FULL)
    prompts = prompts_of(FULL, [[1, -1], [2, 3], [1, 0, 2, 3]], [2])
    assert_same(FastDecoder(sam)(embedding, *prompts), published(sam, embedding, prompts))


@pytest.mark.parametrize(
    "change",
    [
        lambda e: 0 * e,
        lambda e: 0.01 * e,
        lambda e: 30 * e,
        lambda e: e + 100,
        lambda e: e.mean(1, True) + 0 * e,
    ],
    ids=["zero", "faint", "strong", "far from zero", "the same in all channels"],
)
@torch.no_grad()
def test_the_norms_variance_holds_for_unusual_embeddings(
    pair: tuple[Sam, FastDecoder], change: Callable[[Tensor], Tensor]
) -> None:
    """It is a difference of large numbers when the image nearly cancels what attention adds."""
    sam, fast = pair
    embedding = change(embedding_of(TINY_TEST))
    prompts = prompts_of(TINY_TEST, [[1, -1], [2, 3], [0, 1]], [1])
    assert_same(fast(embedding, *prompts), published(sam, embedding, prompts))


@torch.no_grad()
def test_the_norms_epsilon_is_not_scaled_with_the_image() -> None:
    """It is too small to be seen in published networks, so it is made large here."""
    sam = randomised(DEEP)
    for layer in sam.mask_decoder.transformer.layers:
        layer.norm4.eps = 0.5
    embedding, prompts = embedding_of(DEEP), prompts_of(DEEP, [[1, -1], [2, 3]], [1])
    assert_same(FastDecoder(sam)(embedding, *prompts), published(sam, embedding, prompts))


@torch.no_grad()
def test_a_prompt_answers_alone_as_in_company(pair: tuple[Sam, FastDecoder]) -> None:
    _, fast = pair
    embedding = embedding_of(TINY_TEST)
    rows, masked = CASES["every kind at once"]
    points, labels, masks, has_mask = prompts_of(TINY_TEST, rows, masked)
    together, scores = fast(embedding, points, labels, masks, has_mask)
    for index, row in enumerate(rows):
        mine = slice(index, index + 1)
        alone = fast(
            embedding, points[mine, : len(row)], labels[mine, : len(row)], masks[mine], has_mask[mine]
        )
        assert (alone[0] - together[mine]).abs().max() <= 1e-4  # measured 5e-6
        assert (alone[1] - scores[mine]).abs().max() <= 1e-5


@torch.no_grad()
def test_a_mask_that_does_not_count_changes_nothing(pair: tuple[Sam, FastDecoder]) -> None:
    _, fast = pair
    embedding = embedding_of(TINY_TEST)
    points, labels, masks, has_mask = prompts_of(TINY_TEST, [[1, -1], [1, -1]], [1])
    changed = masks.clone()
    changed[0] = 1e4
    for a, b in zip(
        fast(embedding, points, labels, masks, has_mask),
        fast(embedding, points, labels, changed, has_mask),
        strict=True,
    ):
        assert torch.equal(a, b)


@torch.no_grad()
def test_the_image_part_serves_any_prompts(pair: tuple[Sam, FastDecoder]) -> None:
    sam, fast = pair
    embedding = embedding_of(TINY_TEST)
    parts = fast.image_part(embedding)
    assert len(parts) == len(fast.image_part.names) == len(set(fast.image_part.names))
    for case in ("one click", "every kind at once"):
        prompts = prompts_of(TINY_TEST, *CASES[case])
        assert_same(fast.prompt_part(parts, *prompts), published(sam, embedding, prompts))


def all_drawn(fast: FastDecoder) -> tuple[tuple[Tensor, ...], Prompts, Tensor, Tensor, Tensor]:
    """Every kind of prompt on one image: its parts, the prompts, logits, scores, and rows and columns of cells."""
    parts = fast.image_part(embedding_of(TINY_TEST))
    prompts = prompts_of(TINY_TEST, *CASES["every kind at once"])
    logits, scores = fast.prompt_part(parts, *prompts)
    return parts, prompts, logits, scores, torch.tensor(fast.prompt_part.prompt_encoder.grid_size)


@torch.no_grad()
def test_promising_prompts_alone_are_drawn(pair: tuple[Sam, FastDecoder]) -> None:
    _, fast = pair
    parts, prompts, logits, scores, whole = all_drawn(fast)
    best = scores[:, 1:].amax(1)
    for least in (*best.sort().values[:-1], torch.tensor(-torch.inf)):
        drawn_logits, all_scores, drawn = fast.prompt_part.promising(parts, *prompts, least, whole, ONE)
        assert torch.equal(all_scores, scores)
        assert drawn.tolist() == torch.nonzero(best >= least)[:, 0].tolist()
        assert (drawn_logits - logits[drawn]).abs().max() <= 1e-4
    for least in (best.max(), torch.tensor(9.0)):  # never none at all
        assert fast.prompt_part.promising(parts, *prompts, least, whole, ONE)[2].tolist() == [
            int(best.argmax())
        ]


@torch.no_grad()
@pytest.mark.parametrize("multiple", [2, 3, 4, 100])
def test_others_are_drawn_until_the_number_is_a_multiple(
    pair: tuple[Sam, FastDecoder], multiple: int
) -> None:
    _, fast = pair
    parts, prompts, logits, scores, whole = all_drawn(fast)
    best = scores[:, 1:].amax(1)
    for least in (*best, torch.tensor(-torch.inf), torch.tensor(9.0)):
        seen, _, drawn = fast.prompt_part.promising(parts, *prompts, least, whole, torch.tensor(multiple))
        wanted = torch.nonzero(best >= torch.minimum(best.amax(), least))[:, 0].tolist()
        assert set(wanted) <= set(drawn.tolist())
        assert drawn.tolist() == sorted(drawn.tolist())
        assert len(drawn) == min(len(best), -(-len(wanted) // multiple) * multiple)
        assert (seen - logits[drawn]).abs().max() <= 1e-4


@torch.no_grad()
def test_all_are_drawn_where_scores_are_no_numbers() -> None:
    sam = randomised(TINY_TEST)
    sam.mask_decoder.iou_prediction_head.layers[-1].bias.fill_(torch.nan)
    fast = FastDecoder(sam)
    prompts = prompts_of(TINY_TEST, [[1, -1], [2, 3]], [])
    parts = fast.image_part(embedding_of(TINY_TEST))
    for multiple in (1, 2, 3):
        cells, together = torch.tensor([3, 2]), torch.tensor(multiple)
        drawn = fast.prompt_part.promising(parts, *prompts, torch.tensor(0.9), cells, together)[2]
        assert drawn.tolist() == [0, 1]


@torch.no_grad()
def test_rows_and_columns_of_cells_alone_are_drawn(pair: tuple[Sam, FastDecoder]) -> None:
    _, fast = pair
    parts = fast.image_part(embedding_of(TINY_TEST))
    prompts = prompts_of(TINY_TEST, *CASES["every kind at once"])
    logits, _ = fast.prompt_part(parts, *prompts)
    h, w = fast.prompt_part.prompt_encoder.grid_size
    for rows, columns in ((h, 3), (1, w), (5, 2), (h, w)):
        seen, _, _ = fast.prompt_part.promising(
            parts, *prompts, torch.tensor(-torch.inf), torch.tensor([rows, columns]), ONE
        )
        assert seen.shape == (*logits.shape[:2], 4 * rows, 4 * columns)
        assert (seen - logits[..., : 4 * rows, : 4 * columns]).abs().max() <= 1e-4


@torch.no_grad()
def test_one_row_stands_for_masks_that_nobody_gave(pair: tuple[Sam, FastDecoder]) -> None:
    _, fast = pair
    masks = prompts_of(TINY_TEST, [[1, -1], [1, -1]], [1])[2]
    none, some = (fast.prompt_part.mask_rows(masks, torch.tensor([0.0, given])) for given in (0.0, 1.0))
    assert none.rows is not None
    assert some.rows is not None
    assert none.rows.shape[:2] == (2, 1)
    assert some.rows.shape[:2] == (2, 17)
    assert not none.rows.any()
    assert not some.rows[0].any()
    assert some.rows[1].any()


@torch.no_grad()
def test_copies_of_the_weights_are_kept() -> None:
    sam = randomised(TINY_TEST)
    fast = FastDecoder(sam)
    embedding, prompts = embedding_of(TINY_TEST), prompts_of(TINY_TEST, [[1, -1]], [])
    before = fast(embedding, *prompts)[0]
    for parameter in sam.parameters():
        assert parameter.requires_grad
        parameter.zero_()
    assert torch.equal(fast(embedding, *prompts)[0], before)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sam, FastDecoder, dict[str, Path]]:
    """Both parts of the tiny network as ONNX, the prompt part with and without masks."""
    pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("graphs")
    sam = randomised(TINY_TEST)
    fast = FastDecoder(sam)
    names = list(fast.image_part.names)
    embedding, prompts = embedding_of(TINY_TEST), prompts_of(TINY_TEST, [[1, -1], [2, 3]], [0])
    with torch.no_grad():
        parts = fast.image_part(embedding)
    inputs = ["points", "labels", "mask_input", "has_mask"]
    free: dict[str, Any] = {name: {0: "prompts"} for name in (*inputs, "low_res_logits", "predicted_iou")}
    free |= {name: {0: "prompts", 1: "slots"} for name in inputs[:2]}
    files = {name: folder / f"{name}.onnx" for name in ("image", "prompts", "prompts_masks")}
    jobs: list[tuple[str, Any, Any, list[str], list[str]]] = [
        ("image", fast.image_part, (embedding,), ["embedding"], names),
        ("prompts", fast.prompt_part, (parts, *prompts[:2]), [*names, *inputs[:2]], []),
        ("prompts_masks", fast.prompt_part, (parts, *prompts), [*names, *inputs], []),
    ]
    for name, module, args, ins, outs in jobs:
        torch.onnx.export(
            module,
            args,
            str(files[name]),
            input_names=ins,
            output_names=outs or ["low_res_logits", "predicted_iou"],
            dynamic_axes={}
            if outs
            else {n: free[n] for n in (*ins, "low_res_logits", "predicted_iou") if n in free},
            opset_version=17,
            dynamo=False,
        )
    return sam, fast, files


def onnxruntime_runner(path: Path) -> Callable[[dict[str, Any]], list[Any]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = [node.name for node in session.get_inputs()]
    return lambda values: list(session.run(None, {name: values[name] for name in wanted}))


def openvino_runner(path: Path) -> Callable[[dict[str, Any]], list[Any]]:
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    wanted = [port.get_any_name() for port in compiled.inputs]

    def run(values: dict[str, Any]) -> list[Any]:
        answer = compiled({name: values[name] for name in wanted})
        return [answer[port] for port in compiled.outputs]

    return run


@pytest.mark.parametrize("engine", [onnxruntime_runner, openvino_runner], ids=["onnxruntime", "openvino"])
@torch.no_grad()
def test_the_graphs_agree_in_every_engine(
    graphs: tuple[Sam, FastDecoder, dict[str, Path]], engine: Callable[[Path], Any]
) -> None:
    """Numbers of prompts and slots are free; measured 1e-5 and 2e-6."""
    sam, fast, files = graphs
    run = {name: engine(path) for name, path in files.items()}
    embedding = embedding_of(TINY_TEST, seed=9)
    made = run["image"]({"embedding": embedding.numpy()})
    parts = dict(zip(fast.image_part.names, made, strict=True))
    for rows, masked in CASES.values():
        prompts = prompts_of(TINY_TEST, rows, masked)
        inputs = dict(
            zip(("points", "labels", "mask_input", "has_mask"), (p.numpy() for p in prompts), strict=True)
        )
        expected = published(sam, embedding, prompts)
        assert_same(run["prompts_masks"](parts | inputs), expected)
        if not masked:
            assert_same(run["prompts"](parts | inputs), expected)
