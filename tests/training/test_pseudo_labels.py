"""Pseudo-labels: the second view can be undone, only what both views show stays, and a stopped run goes on."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

import anymask
from anymask.data.photographs import Photographs
from anymask.data.sa1b import TarShard
from anymask.errors import InputError
from anymask.image import read_image
from anymask.masks import rle
from anymask.training import pseudo_labels
from anymask.training.pseudo_labels import Filters, Labeller, second_view, write_pseudo_labels


def discs(height: int = 120, width: int = 160, seed: int = 0) -> np.ndarray:
    """Bright discs on a dark ground."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 40, np.uint8)
    y, x = np.mgrid[:height, :width]
    for column, row in ((0.25, 0.3), (0.7, 0.35), (0.4, 0.75)):
        colour = rng.integers(150, 255, 3)
        pixels[(x - column * width) ** 2 + (y - row * height) ** 2 < (0.14 * width) ** 2] = colour
    return pixels


@pytest.fixture(scope="module")
def segmenter() -> anymask.Segmenter:
    """The embedded model."""
    return anymask.load(threads=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five photographs, one of them no picture."""
    root = tmp_path / "photographs"
    (root / "below").mkdir(parents=True)
    for index in range(4):
        PillowImage.fromarray(discs(seed=index)).save(root / ("below" if index % 2 else ".") / f"{index}.png")
    (root / "z.jpg").write_bytes(b"no picture")
    return root


LOOSE = Filters(points_per_side=6, pred_iou=0.3, stability=0.3, consistency=0.5)


def test_a_view_is_mirrored_smaller_and_always_the_same() -> None:
    image = read_image(discs())
    view = second_view(image)
    assert view.pixels.shape[0] < 120
    assert view.pixels.shape[1] < 160
    assert (view.pixels == second_view(image).pixels).all()
    bright = view.pixels.sum(axis=2) > 3 * 100
    mirrored = discs()[:, ::-1].sum(axis=2) > 3 * 100
    rows, columns = (np.linspace(0, side - 1, 40).round().astype(int) for side in bright.shape)
    all_rows, all_columns = (np.linspace(0, side - 1, 40).round().astype(int) for side in mirrored.shape)
    same = bright[np.ix_(rows, columns)] == mirrored[np.ix_(all_rows, all_columns)]
    assert same.mean() > 0.97


def test_a_view_of_a_mask_can_be_undone() -> None:
    image = read_image(discs())
    view = second_view(image)
    seen = view.pixels.sum(axis=2) > 3 * 100
    truth = discs().sum(axis=2) > 3 * 100
    back = view.back(seen)
    assert back.shape == truth.shape
    assert (back & truth).sum() / (back | truth).sum() > 0.95
    x, y = view.point((40.5, 36.5))
    assert seen[int(y), int(x)] == truth[36, 40]
    assert view.point((0, 0)) == (view.pixels.shape[1], 0)


def test_only_what_both_views_show_becomes_a_label(segmenter: anymask.Segmenter) -> None:
    image = read_image(discs())
    labeller = Labeller(segmenter, LOOSE)
    found = labeller.candidates(image)
    kept = labeller.label(image)
    assert 0 < len(kept) <= len(found)
    wanted = [one.mask for one in found if one.consistency >= LOOSE.consistency]
    assert [mask.rle for mask in kept] == [mask.rle for mask in wanted][: LOOSE.masks]
    truth = discs().sum(axis=2) > 3 * 100
    best = max(one.consistency for one in found if (one.mask.array & truth).sum() > 0.9 * one.mask.area)
    assert best > 0.8  # a disc looks the same mirrored


def test_a_second_view_of_something_else_leaves_nothing(
    segmenter: anymask.Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agreement is with what the second view shows, not with the first one."""
    image = read_image(discs())
    before = Labeller(segmenter, LOOSE).candidates(image)
    empty = pseudo_labels.View(np.full((90, 120, 3), 128, np.uint8), image.size)
    monkeypatch.setattr(pseudo_labels, "second_view", lambda _: empty)
    after = Labeller(segmenter, LOOSE).candidates(image)
    assert [one.mask.rle for one in after] == [one.mask.rle for one in before]
    assert np.mean([one.consistency for one in after]) < np.mean([one.consistency for one in before]) - 0.1


def test_areas_and_numbers_have_bounds(segmenter: anymask.Segmenter) -> None:
    image = read_image(discs())
    few = Labeller(segmenter, Filters(6, 0.3, 0.3, 0.0, (0.02, 0.2), masks=2))
    assert len(few.label(image)) == 2
    pixels = image.size[0] * image.size[1]
    assert all(0.02 <= one.mask.area / pixels <= 0.2 for one in few.candidates(image))


@pytest.mark.parametrize("wrong", [{"consistency": 1.5}, {"area": (0.5, 0.5)}, {"masks": 0}])
def test_filters_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Filters(**wrong)  # type: ignore[arg-type]


def test_the_shard_is_one_that_training_reads(
    segmenter: anymask.Segmenter, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "discs.tar"
    pictures, masks = write_pseudo_labels(Photographs(folder), out, Labeller(segmenter, LOOSE))
    assert "z.jpg is left out" in capfd.readouterr().err
    shard = TarShard(out)
    assert (len(shard), sum(len(sample.annotations) for sample in shard)) == (pictures, masks)
    assert pictures == 4
    assert shard.keys() == sorted(shard.keys())
    for sample in shard:
        size = PillowImage.open(io.BytesIO(sample.image)).size
        for annotation in sample.annotations:
            assert rle.decode(annotation["segmentation"]).shape == (size[1], size[0])
    assert not list(out.parent.glob("*.parts"))


def test_a_stopped_run_goes_on_and_gives_the_same_bytes(
    segmenter: anymask.Segmenter, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Photographs(folder)
    labeller = Labeller(segmenter, LOOSE)
    undisturbed, stopped = tmp_path / "a" / "discs.tar", tmp_path / "b" / "discs.tar"
    write_pseudo_labels(found, undisturbed, labeller, per_part=2)
    write = pseudo_labels.write_atomically
    written: list[Path] = []

    def dies_after_the_first_part(path: Path, data: bytes) -> Path:
        if len(written) == 2:  # what the run is, and one part
            raise KeyboardInterrupt
        written.append(path)
        return write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(pseudo_labels, "write_atomically", dies_after_the_first_part)
        with pytest.raises(KeyboardInterrupt):
            write_pseudo_labels(found, stopped, labeller, per_part=2)
    assert not stopped.exists()
    with pytest.raises(InputError, match="unfinished run"):
        write_pseudo_labels(found, stopped, Labeller(segmenter, Filters()), per_part=2)
    write_pseudo_labels(found, stopped, labeller, per_part=2)
    assert stopped.read_bytes() == undisturbed.read_bytes()


def test_wrong_places_are_one_sentence(segmenter: anymask.Segmenter, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"NAME\.tar"):
        write_pseudo_labels(Photographs(folder), tmp_path / "out.zip", Labeller(segmenter))
    with pytest.raises(SystemExit):
        pseudo_labels.main([str(tmp_path / "none"), "--out", str(tmp_path / "x.tar")])
