"""benchmarks/ablation.py: the held-back draw, a run's averaged weights, and a table whose figures are known."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from labelled_pictures import picture, write_shard
from planted import Asked, Planted
from small_nano import SMALL_NANO

from anymask.data.sa1b import open_shards
from anymask.errors import DatasetError, WeightsError
from anymask.evaluation.plan import Plan
from anymask.evaluation.subjects import Subject
from anymask.masks.boxes import mask_to_box
from anymask.model.families import build_network, save_network
from anymask.model.nano.network import Nano
from anymask.model.variants import TINY_TEST
from anymask.runtime.torch_backend import TorchBackend
from anymask.training.checkpoint import load_average
from anymask.training.loop import TrainConfig, train
from anymask.training.sampling_config import SamplingConfig
from anymask.types import Mask

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
EVERY = 5


@pytest.fixture(scope="module")
def ablation() -> Iterator[ModuleType]:
    sys.path.append(str(BENCHMARKS))
    import ablation

    yield ablation
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ablation")
    write_shard(folder, "discs", images=5 * EVERY)
    write_shard(folder, "few", images=2 * EVERY)
    write_shard(folder, "none", images=EVERY - 1)
    return folder


def _mask(array: np.ndarray) -> Mask:
    return Mask(array, 0.5)


def _whole(asked: Asked) -> list[Mask]:
    """The whole image, whatever is asked."""
    return [_mask(np.ones(asked.image_size, dtype=np.bool_))]


def _box_or_whole(asked: Asked) -> list[Mask]:
    """A box is filled; a click is answered with the whole image."""
    if asked.box is None:
        return _whole(asked)
    x0, y0, x1, y1 = (int(side) for side in asked.corners)
    filled = np.zeros(asked.image_size, dtype=np.bool_)
    filled[y0:y1, x0:x1] = True
    return [_mask(filled)]


def test_the_first_held_back_pictures_of_every_source_and_no_others(
    ablation: ModuleType, shards: Path
) -> None:
    data = ablation.HeldBack(open_shards(shards), 3, EVERY)
    expected = [f"discs/discs_{n:06d}" for n in (4, 9, 14)] + [f"few/few_{n:06d}" for n in (4, 9)]
    assert data.keys() == expected
    assert [data[i].key for i in range(len(data))] == expected
    with pytest.raises(DatasetError, match="held back"):
        ablation.HeldBack(open_shards(shards), 3, 100)


def test_the_table_of_planted_models(ablation: ModuleType, shards: Path, tmp_path: Path) -> None:
    data = ablation.HeldBack(open_shards(shards), 8, EVERY)
    subjects = [
        Subject(name, name, name, Planted(rule)) for name, rule in (("box", _box_or_whole), ("all", _whole))
    ]
    first, second = ablation.measure(subjects, data, Plan(("point", "box", "clicks"), max_clicks=5), tmp_path)
    filled, everything = [], []
    for source, numbers in (("discs", range(4, 25, 5)), ("few", (4, 9))):
        for number in numbers:
            for mask in picture(number)[1]:
                x0, y0, x1, y1 = mask_to_box(mask)
                filled.append(mask.sum() / ((x1 - x0) * (y1 - y0)))
                everything.append(mask.sum() / mask.size)
        assert source in first.sources
    assert first.differences is None
    assert (first.images, first.masks) == (second.images, second.masks) == (7, 21)
    assert first.means["box"] == pytest.approx(np.mean(filled))
    assert second.means["box"] == pytest.approx(np.mean(everything))
    gap = second.differences["box"]
    assert gap.difference == pytest.approx(np.mean(everything) - np.mean(filled))
    assert (gap.low <= gap.difference <= gap.high, gap.verdict) == (True, "worse")
    for key in ("point", "point_oracle", "clicks_3", "clicks_5"):
        assert first.means[key] == second.means[key] == pytest.approx(np.mean(everything))
        same = second.differences[key]
        assert (same.difference, same.low, same.high, same.verdict) == (0.0, 0.0, 0.0, "undecided")
    assert first.sources["few"]["box"] == pytest.approx(np.mean(filled[-6:]))
    lines = ablation.markdown([first, second]).splitlines()
    assert lines[0].startswith("| run | images | masks | box |")
    assert lines[2].startswith(f"| box | 7 | 21 | {np.mean(filled):.3f} | ")
    words = f"{gap.difference:+.3f}, {gap.low:+.3f} to {gap.high:+.3f}, worse"
    assert lines[3].startswith(f"| all | 7 | 21 | {np.mean(everything):.3f} ({words}) | ")
    by_source = (np.mean(filled[:-6]) + np.mean(filled[-6:])) / 2
    assert lines[7].startswith(f"| box | 2 | {by_source:.3f} | ")
    told = json.loads(json.dumps(ablation.document([first, second], Plan(masks=3), 8)))
    assert told["reference"] == "box"
    assert told["runs"][1]["differences"]["box"]["verdict"] == "worse"


def test_a_run_is_measured_by_its_averaged_weights(
    ablation: ModuleType, shards: Path, tmp_path: Path
) -> None:
    config = TrainConfig(
        name="short",
        steps=2,
        warmup=1,
        workers=0,
        model=SMALL_NANO,
        sampling=SamplingConfig(images=2, masks=1, phases=((0, ((64, 64),)),)),
    )
    checkpoint = train(config, shards, tmp_path)
    model = Nano(SMALL_NANO)
    load_average(checkpoint, model)
    subject = ablation.open_run(str(checkpoint.parent))
    assert (subject.name, subject.digest) == ("short", TorchBackend(model).spec.digest)
    wider = ablation.open_run(str(checkpoint.parent), 64)
    assert wider.digest != subject.digest
    assert wider.model.spec.long_side == 64
    rows = ablation.measure(
        [subject],
        ablation.HeldBack(open_shards(shards), 1, EVERY),
        Plan(("point", "box", "clicks"), masks=1, max_clicks=5),
        tmp_path / "results",
    )
    assert rows[0].masks == 2


def test_weights_open_with_the_sizes_they_say(ablation: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Nano(SMALL_NANO)
    save_network(model, SMALL_NANO, tmp_path / "small.safetensors")
    subject = ablation.open_run(str(tmp_path / "small.safetensors"))
    assert subject.digest == TorchBackend(model).spec.digest
    save_network(build_network(TINY_TEST), TINY_TEST, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="holds no nano"):
        ablation.open_run(str(tmp_path / "other.safetensors"))
