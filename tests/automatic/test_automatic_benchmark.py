"""The benchmark of everything mode: its straightforward side is the published one, and its page says what was found."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from planted_backend import PlantedBackend, ScreeningBackend, picture
from reference_generator import reference_generate

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

from random_sam import random_sam, segmenter_of  # noqa: E402

from anymask.automatic.generator import Generator  # noqa: E402
from anymask.automatic.settings import AutomaticSettings  # noqa: E402
from anymask.masks import rle  # noqa: E402
from anymask.model.variants import TINY_TEST, VIT_B  # noqa: E402
from anymask.predict.prompts import prompt_arrays  # noqa: E402
from anymask.predict.segmenter import Segmenter  # noqa: E402
from anymask.runtime.torch_backend import TorchBackend  # noqa: E402
from anymask.types import Mask, Prompt  # noqa: E402

FOLDER = Path(__file__).parents[2] / "benchmarks"
OTHERS = ("sam_parity",)


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    """benchmarks/automatic.py; a module that other tests load under the same name is put back."""
    before = {name: sys.modules.pop(name, None) for name in OTHERS}
    sys.path.insert(0, str(FOLDER))
    try:
        import automatic

        yield automatic
    finally:
        sys.path.remove(str(FOLDER))
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def bar(columns: slice) -> Mask:
    """Some columns of a 4 x 100 picture."""
    array = np.zeros((4, 100), dtype=np.bool_)
    array[:, columns] = True
    return Mask(array, 0.9)


def test_masks_are_matched(benchmark: ModuleType) -> None:
    """By hand: 90 columns in 100 are an IoU of .9, 99 in 100 one of .99, 89 in 100 too little for either."""
    from automatic_race import recall, same_masks

    whole, nearly, nine = bar(slice(0, 100)), bar(slice(0, 99)), bar(slice(0, 90))
    assert recall([[whole]], [[nine]]) == 1
    assert recall([[whole]], [[bar(slice(0, 89))]]) == 0
    assert same_masks([[whole, nine], [whole]], [[nearly], []]) == {
        "same_of_wanted": pytest.approx(1 / 3),
        "same_of_found": 1.0,
    }
    assert recall([[], []], [[whole], []]) == 1


def test_contenders_take_turns_and_short_runs_are_repeated(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import automatic_race

    asked: list[tuple[str, int]] = []

    class Stopwatch:
        def __init__(self, name: str, script: Path, folder: Path) -> None:
            self.name = name

        def run(self, photograph: int) -> dict[str, Any]:
            asked.append((self.name, photograph))
            return {"seconds": {"slow": 10.0, "quick": 9.9}[self.name], "masks": 1, "peak_mb": 1.0}

        def close(self) -> None:
            pass

    monkeypatch.setattr(automatic_race, "Worker", Stopwatch)
    runs = automatic_race.race(["slow", "quick"], tmp_path, tmp_path, [0, 1], 1, 0)
    assert asked == [("slow", 0), *[("quick", 0)] * 3, *[("quick", 1)] * 3, ("slow", 1)]
    assert [run["photograph"] for run in runs["quick"]] == [0, 0, 0, 1, 1, 1]
    assert [run["photograph"] for run in runs["slow"]] == [0, 1]


@pytest.mark.parametrize(
    "thresholds", [(0.1, 0.1, 1.0), (0.0, 0.1, 0.97), (0.3, 0.1, 0.9), (0.99, 0.99, 0.7)]
)
def test_the_straightforward_way_is_the_published_one(
    benchmark: ModuleType, thresholds: tuple[float, float, float]
) -> None:
    from automatic_plain import plain_generate

    names = ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh")
    shared: dict[str, Any] = dict(zip(names, thresholds, strict=True))
    shared |= {"points_per_side": 6, "points_per_batch": 16, "stability_score_offset": 0.5}
    segmenter, image = segmenter_of(random_sam()), picture(96, 128)
    theirs = reference_generate(segmenter, image, **shared)
    ours = plain_generate(segmenter, image, AutomaticSettings(**shared))
    assert len(theirs) >= (2 if thresholds[0] < 0.9 else 0)
    assert [mask.score for mask in ours] == [record["predicted_iou"] for record in theirs]
    for mask, record in zip(ours, theirs, strict=True):
        assert mask.counts == rle.encode_counts(record["segmentation"]).tolist()


def test_the_published_network_answers_like_ours(benchmark: ModuleType) -> None:
    from automatic_plain import PublishedBackend

    sam, image = random_sam(), picture(96, 128)
    published, ours = PublishedBackend(sam, TINY_TEST), TorchBackend(sam, TINY_TEST)
    features = Segmenter(ours).embed(image).features
    frame = Segmenter(ours).frame((96, 128))
    points = np.array([[[20.0, 30.0]], [[100.0, 80.0]]])
    prompts = prompt_arrays([Prompt(points=point, labels=[1]) for point in points], frame, (32, 32))
    for one, other in zip(published.decode(features, prompts), ours.decode(features, prompts), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_what_sums_up_seconds_hides_nothing_of_a_backend(benchmark: ModuleType) -> None:
    """Also what a backend may leave out: a wrapper with `decode` alone would time another product."""
    from automatic_engines import Timed

    plain, screening = PlantedBackend(), ScreeningBackend()
    for backend in (plain, screening):
        timed = Timed(backend)
        Generator(Segmenter(timed), AutomaticSettings(points_per_side=6)).run(picture(96, 128))
        assert timed.seconds["encode"] > 0
        assert timed.seconds["decode"] > 0
    assert screening.withheld > 0


def test_planted_weights_find_shapes(benchmark: ModuleType) -> None:
    """Clicks in the middle of shapes get masks there that other shapes' clicks do not get."""
    import automatic_weights as weights

    config = dataclasses.replace(
        VIT_B, image_size=256, embed_dim=48, depth=1, num_heads=2, global_attn_indexes=(0,)
    )
    image = picture(192, 256)
    segmenter = Segmenter(TorchBackend(weights.planted_sam(config, [image]), config))
    small, middle, large = weights.shapes(192 / 256, seed=0)  # the small ones are for larger frames
    for index, level in ((1, middle), (2, large)):
        clicks = [Prompt(points=[[256 * shape.x, 256 * shape.y]], labels=[1]) for shape in level]
        frame = segmenter.frame((192, 256))
        logits, scores = segmenter.backend.decode(
            segmenter.embed(image).features, prompt_arrays(clicks, frame, (64, 64))
        )
        masks = logits[:, 1 + index] > 0
        own = [masks[i, int(64 * shape.y), int(64 * shape.x)] for i, shape in enumerate(level)]
        assert all(own)
        for one in range(len(level)):
            for other in range(one):
                both = np.count_nonzero(masks[one] & masks[other])
                assert both < 0.5 * np.count_nonzero(masks[one] | masks[other])
        assert np.abs(scores[:, 1 + index] - [shape.quality for shape in level]).max() < 0.2
    assert len(small) + len(middle) + len(large) == weights.OBJECTS < config.prompt_dim // 8


def run(seconds: float, peak: float, **more: Any) -> dict[str, Any]:
    return {"photograph": 0, "seconds": seconds, "masks": 10, "clicks": 1024, "peak_mb": peak, **more}


@pytest.fixture
def figures() -> dict[str, Any]:
    """Made up; the bf16 engine misses its target."""
    return {
        "sittings": [{"date": "2026-01-02"}],
        "machine": "two cores",
        "threads": 2,
        "versions": {"torch": "2"},
        "weights": "planted",
        "photographs": ["a.jpg, 30 x 20"],
        "points_per_side": 32,
        "thresholds": [0.75, 0.9],
        "left_out": {"openvino bf16 fast": "no reason"},
        "runs": {
            "straightforward": [run(190, 3000), run(210, 3400)],
            "openvino": [run(20, 1500, encode=5.0, decode=14.0, rest=1.0)],
            "openvino bf16": [run(18, 1200, encode=4.0, decode=13.0, rest=1.0)],
            "openvino bf16 adaptive": [run(8, 1200, encode=4.0, decode=3.5, rest=0.5)],
            "nano": [run(3, 250, encode=0.2, decode=2.5, rest=0.3)],
            "after the decoder": [{"photograph": 0, "plain_s": 60.0, "ours_s": 1.0}],
        },
        "agreement": {
            "openvino": {"same_of_wanted": 1.0, "same_of_found": 0.9899, "recall": 1.0},
            "openvino bf16 adaptive": {"recall": 0.995},
        },
    }


def test_targets_are_judged(benchmark: ModuleType, figures: dict[str, Any]) -> None:
    """Each by hand from the figures above; what was not measured is not judged."""
    judged = {target.text: (target.reached, target.held) for target in benchmark.docs.targets(figures)}
    assert judged == {
        "ViT-B, fp32: 7 times faster than `straightforward`": ("10.0 times, `openvino`", True),
        "ViT-B, bf16: 13 times faster than `straightforward`": ("11.1 times, `openvino bf16`", False),
        "ViT-B, adaptive grid: 20 times faster than `straightforward`": (
            "25.0 times, `openvino bf16 adaptive`",
            True,
        ),
        "`openvino bf16 adaptive` finds 99 % of the full grid's masks": ("99.5 %", True),
        "`openvino` gives the straightforward masks (99 %)": ("98.9 %", False),
        "after the decoder 40 times faster": ("60 times", True),
        "ViT-B, fp32: at most half of the memory of `straightforward`": ("44%", True),
        "nano, normal: 30 times faster than `straightforward`": ("66.7 times, `nano`", True),
        "nano, normal: 4 s a photograph": ("3.00 s, `nano`", True),
    }


def test_the_page_says_what_was_measured(benchmark: ModuleType, figures: dict[str, Any]) -> None:
    text = benchmark.docs.race_section(figures)
    assert "| `straightforward` | 200 | - | 1.0 | - | 1 (2) | 1024 | 10 | - | - | 3,400 |" in text
    assert (
        "| `openvino` | 20.0 | 5.00 / 14.0 / 1.00 | 10.0 | - | 1 (1) | 1024 | 10 | 98.9 % | 100.0 % | 1,500 |"
        in text
    )
    assert text.count("**no**") == 2
    assert "`openvino bf16 fast` was left out: no reason." in text
    assert "random weights" in text
    assert "random weights" not in benchmark.docs.race_section({**figures, "weights": "sam.pth"})


def test_ratios_are_of_one_sitting(benchmark: ModuleType) -> None:
    """A slow sitting and a photograph that only one of the two saw do not count."""
    own = [run(2, 9, sitting=0), run(30, 9, sitting=1), {**run(7, 9, sitting=0), "photograph": 1}]
    theirs = [run(20, 9, sitting=0), run(24, 9, sitting=0)]
    runs = {"a": own, "b": theirs, "c": [run(1, 9, sitting=2)]}
    assert benchmark.docs.times_faster(runs, "a", "b") == 11
    assert benchmark.docs.times_faster(runs, "a", "c") is None
    assert benchmark.docs.times_faster(runs, "a", "d") is None
    assert benchmark.docs.mean(own, "seconds") == 11.5  # 16 and 7


def test_parts_add_up(benchmark: ModuleType, figures: dict[str, Any]) -> None:
    parts = {"encode": 5.0, "decode": 16.0, "rest": 1.0}
    more = {
        **figures,
        "runs": {"onnxruntime": [run(25, 1, sitting=1)], "openvino": [run(22, 1, sitting=1, **parts)]},
        "agreement": {"openvino": {"recall": 0.5}},
        "left_out": {},
    }
    both = benchmark.added(figures, more)
    assert benchmark.added(None, more) == more
    assert [one["seconds"] for one in both["runs"]["openvino"]] == [20, 22]
    assert list(both["runs"])[:3] == ["straightforward", "onnxruntime", "openvino"]
    assert both["runs"]["after the decoder"] == figures["runs"]["after the decoder"]
    assert both["agreement"]["openvino"] == {"recall": 0.5}
    assert len(both["sittings"]) == 2
    assert "in 2 sittings" in benchmark.docs.race_section(both)
    with pytest.raises(ValueError, match="weights"):
        benchmark.added(figures, {**more, "weights": "other"})


def test_every_contender_is_in_a_part(benchmark: ModuleType) -> None:
    from automatic_contenders import CONTENDERS, PARTS, of_parts

    assert of_parts(PARTS) == list(CONTENDERS)
    assert of_parts(["memory", "after"]) == []
    assert of_parts(["nano", "fp32"])[0] == "straightforward"
    assert of_parts(["nano", "fp32"]).count("straightforward") == 1


def test_the_page_is_written(benchmark: ModuleType, figures: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "how-to" / "automatic.md"
    page.parent.mkdir()
    page.write_text("# Page\n")
    benchmark.docs.write({"race": figures}, tmp_path)
    assert page.read_text().startswith("# Page\n\n## How fast")
    assert benchmark.docs.race_section(figures) in page.read_text()
    assert "automatic_memory" not in page.read_text()


def test_parts_of_the_page(benchmark: ModuleType) -> None:
    fill = benchmark.docs.fill
    made = fill("# Page\n\nText.\n", {"one": "first", "two": "second"})
    assert made.count("## How fast") == 1
    assert made.startswith("# Page\n\nText.\n\n## How fast")
    assert "<!-- one -->\n\nfirst\n\n<!-- end one -->\n" in made
    again = fill(made, {"one": r"other \1"})
    assert again == made.replace("first", r"other \1")
    assert fill(again, {}) == again
    with pytest.raises(ValueError):
        fill("<!-- one -->\n<!-- one -->\n<!-- end one -->\n<!-- end one -->\n", {"one": "x"})
    with pytest.raises(ValueError):
        fill("<!-- one -->\n", {"one": "x"})


def test_memory_is_told_and_drawn(benchmark: ModuleType) -> None:
    memory = benchmark.memory
    rows = []
    for number, point in enumerate(memory.plan()):
        facts = dataclasses.asdict(point)
        asked = 3 * point.points_per_side**2
        peaks = {"loaded_mb": 200.0, "peak_mb": 300.0 + number, "increase_mb": 100.0 + number}
        rows.append({**facts, "asked": asked, "masks": 5, "pixels_mb": 3 * point.megapixels, **peaks})
    text = benchmark.docs.memory_table({"points": rows})
    assert "| anymask | 100 | 192 | 5 | 300 | 105 | 305 | 1.1 |" in text
    assert max(row["asked"] for row in memory.curve(rows, "ours", "candidates")) == 12_288
    assert benchmark.docs.verdict(rows).startswith(
        "From 192 to 12,288 candidates the peak changes by +3 MB, +1.0%: "
    )
    png = memory.plot(rows)
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    moved = [{**row, "increase_mb": row["increase_mb"] + 50} for row in rows]
    assert memory.plot(moved) != png


def test_photographs_are_the_preferred_ones_first(benchmark: ModuleType, tmp_path: Path) -> None:
    for name in ("a.jpg", "truck.jpg", "groceries.jpg", "b.PNG", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    names = [path.name for path in benchmark.photographs_in(tmp_path, 4)]
    assert names == ["truck.jpg", "groceries.jpg", "a.jpg", "b.PNG"]
