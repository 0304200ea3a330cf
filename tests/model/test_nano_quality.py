"""What nano's quality head is told: each clue against a case worked out by hand, and the old head as it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from small_nano import SMALL_NANO, seeded_nano  # noqa: E402

from anymask.errors import ModelError  # noqa: E402
from anymask.model.export.nano import export_nano  # noqa: E402
from anymask.model.families import load_network, save_network  # noqa: E402
from anymask.model.nano.quality import NUM_MASKS, quality_clues, quality_head  # noqa: E402

LATEST = dataclasses.replace(SMALL_NANO, decoder=dataclasses.replace(SMALL_NANO.decoder, quality_version=2))
TOKENS, FEATURES = 3, 2
UNDER = slice(TOKENS, TOKENS + FEATURES)
AREA = TOKENS + FEATURES
OUTSIDE = slice(AREA + 3, AREA + 3 + FEATURES)
AGREEMENT = slice(OUTSIDE.stop, OUTSIDE.stop + NUM_MASKS)
OUTLINE = AGREEMENT.stop
BORDER = slice(OUTLINE + 1, OUTLINE + 5)
STABILITY = BORDER.stop
PEAK = STABILITY + 1


def told(logits: torch.Tensor, version: int = 2) -> torch.Tensor:
    """Clues of one prompt's masks over a map whose channels are each cell's column and row."""
    height, width = logits.shape[-2] // 2, logits.shape[-1] // 2
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    features = torch.stack([columns, rows]).float()[None]
    tokens = torch.arange(NUM_MASKS * TOKENS).reshape(1, NUM_MASKS, TOKENS).float()
    return quality_clues(tokens, features, logits, version)[0]


def rectangles(*boxes: tuple[int, int, int, int], sure: float = 30.0) -> torch.Tensor:
    """Logits (1, 4, 32, 48) of rectangles x0, y0, x1, y1 in cells of two logits."""
    logits = torch.full((1, NUM_MASKS, 32, 48), -sure)
    for mask, (x0, y0, x1, y1) in enumerate(boxes):
        logits[0, mask, 2 * y0 : 2 * y1, 2 * x0 : 2 * x1] = sure
    return logits


FOUR = ((4, 4, 12, 12), (4, 4, 8, 12), (12, 4, 20, 12), (0, 0, 24, 16))


def test_the_first_version_says_token_mean_under_the_mask_area_and_doubt() -> None:
    clues = told(rectangles(*FOUR), version=1)
    assert clues.shape == (NUM_MASKS, TOKENS + FEATURES + 3)
    assert clues[1, :TOKENS].tolist() == [3.0, 4.0, 5.0]
    middle = torch.tensor([7.5, 7.5]) * 64 / 65  # the mean over 64 cells, one more in the divisor
    torch.testing.assert_close(clues[0, UNDER], middle)
    torch.testing.assert_close(clues[0, AREA].exp(), torch.tensor(64 / 384 + 1e-3))
    torch.testing.assert_close(clues[0, AREA + 1], torch.tensor(0.0), rtol=0, atol=1e-6)
    torch.testing.assert_close(clues[3, AREA + 2], torch.tensor(1 / 1.001))
    blurred = told(rectangles(*FOUR, sure=0.5), version=1)
    assert (blurred[:, AREA + 1] > clues[:, AREA + 1] + 0.1).all()


def test_the_second_version_says_the_first_and_more() -> None:
    logits = rectangles(*FOUR)
    assert torch.equal(told(logits)[:, : OUTSIDE.start], told(logits, version=1))
    assert told(logits).shape[1] == quality_head(TOKENS, FEATURES, 2)[0].in_features == PEAK + 1


def test_the_mean_around_the_mask() -> None:
    clues = told(rectangles(*FOUR))
    whole, mask = 384 * torch.tensor([11.5, 7.5]), 64 * torch.tensor([7.5, 7.5])
    torch.testing.assert_close(clues[0, OUTSIDE], (whole - mask) / (384 - 64 + 1))
    torch.testing.assert_close(clues[3, OUTSIDE], torch.zeros(2), rtol=0, atol=1e-3)


def test_parts_and_wholes_agree_by_their_iou() -> None:
    agreement = told(rectangles(*FOUR))[:, AGREEMENT]
    torch.testing.assert_close(agreement, agreement.T)
    torch.testing.assert_close(agreement[0, 0], torch.tensor(64 / 65))
    torch.testing.assert_close(agreement[0, 1], torch.tensor(32 / 65))  # half of it
    torch.testing.assert_close(agreement[0, 2], torch.tensor(0.0), rtol=0, atol=1e-6)  # beside it
    torch.testing.assert_close(agreement[0, 3], torch.tensor(64 / 385))


def test_the_outline_does_not_grow_with_the_size() -> None:
    clues = told(rectangles((4, 4, 8, 8), (4, 4, 12, 12), (4, 4, 20, 6), (0, 0, 24, 16)))
    square, twice, strip, all_of_it = clues[:, OUTLINE]
    torch.testing.assert_close(square, torch.tensor(16 / 17**0.5))
    torch.testing.assert_close(twice, torch.tensor(32 / 65**0.5))
    torch.testing.assert_close(strip, torch.tensor(36 / 33**0.5))
    assert all_of_it == 0  # the frame's border is no outline


def test_borders_are_told_apart() -> None:
    clues = told(rectangles((0, 4, 12, 12), (12, 4, 24, 12), (4, 0, 10, 8), (4, 8, 10, 16)))
    expected = torch.diag(torch.tensor([8 / 16, 8 / 16, 6 / 24, 6 / 24]))
    torch.testing.assert_close(clues[:, BORDER], expected, rtol=0, atol=1e-6)


def test_stability_is_the_generators() -> None:
    logits = torch.full((1, NUM_MASKS, 32, 48), -9.0)
    logits[:, :, :10, :10] = 0.5  # above the lowered cut alone
    logits[:, :, :5, :10] = 1.5  # above both
    logits[:, 1, :5, :10] = 0.5  # nothing certain in it
    clues = told(logits)
    torch.testing.assert_close(clues[0, STABILITY], torch.tensor(50 / 101))
    assert clues[1, STABILITY] == 0
    torch.testing.assert_close(clues[0, PEAK], torch.sigmoid(torch.tensor(1.5)))


def test_answers_are_the_same_whatever_the_head() -> None:
    old, new = seeded_nano(), seeded_nano(LATEST)
    same = {k: v for k, v in old.state_dict().items() if not k.startswith("mask_decoder.quality.")}
    missing, unexpected = new.load_state_dict(same, strict=False)
    assert {name.rsplit(".", 2)[0] for name in missing} == {"mask_decoder.quality"}
    assert unexpected == []
    with torch.no_grad():
        features = old.encode(torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)))
        prompts = (
            torch.tensor([[[30.0, 20.0]]]),
            torch.ones(1, 1),
            torch.zeros(1, 1, 16, 24),
            torch.zeros(1),
        )
        before, after = old.decode(features, *prompts), new.decode(features, *prompts)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])
    assert ((after[1] > 0) & (after[1] < 1)).all()


def test_a_file_says_its_head(tmp_path: Path) -> None:
    save_network(seeded_nano(LATEST), LATEST, tmp_path / "latest.safetensors")
    assert load_network(tmp_path / "latest.safetensors")[1] == LATEST
    with pytest.raises(ModelError, match="quality head"):
        dataclasses.replace(LATEST, decoder=dataclasses.replace(LATEST.decoder, quality_version=3)).check()


def test_the_latest_head_passes_the_export_gate(tmp_path: Path) -> None:
    parity = export_nano(seeded_nano(LATEST), tmp_path)
    assert parity.scores <= 1e-4
