"""Galleries: what is cut out, filled, marked and chosen, checked on pictures whose pixels are known."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image as PillowImage

from anymask.errors import ImageError, InputError, MaskError
from anymask.evaluation.pictures.gallery import (
    ANSWER,
    MAX_WIDTH,
    TRUTH,
    Case,
    case_panel,
    gallery,
    side_by_side,
    worst_cases,
)
from anymask.evaluation.pictures.views import ASPECT, BACKDROP, view_of
from anymask.masks.overlay import FOREGROUND

GREY = 100
HEIGHT, WIDTH = 300, 400


def box_mask(x0: int, y0: int, x1: int, y1: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def make_case(truth: np.ndarray, answer: np.ndarray, **changes: object) -> Case:
    plain = np.full((*truth.shape, 3), GREY, dtype=np.uint8)
    return replace(Case(plain, truth, answer, 0.5, 0.75, "photos", 7, "nano"), **changes)


def near(pixels: np.ndarray, colour: tuple[float, ...] | np.ndarray) -> np.ndarray:
    """Where pixels (..., 3) are of a colour, within rounding."""
    return (np.abs(pixels.astype(float) - np.asarray(colour)) <= 1.5).all(axis=-1)


def filled(colour: tuple[int, int, int]) -> np.ndarray:
    """What the overlay makes of grey inside a mask: 45 % of the colour over the texture."""
    return 0.55 * GREY + 0.45 * np.array(colour)


def picture(data: bytes) -> np.ndarray:
    return np.asarray(PillowImage.open(io.BytesIO(data)))


@pytest.mark.parametrize("size", [(300, 400), (1000, 150), (90, 2000), (20, 20), (1, 1)])
def test_a_view_shows_the_object_at_one_scale_and_stays_on_the_image(size: tuple[int, int]) -> None:
    height, width = size
    rng = np.random.default_rng(0)
    for _ in range(50):
        x, y = np.sort(rng.uniform(0, width, 2)), np.sort(rng.uniform(0, height, 2))
        view = view_of((x[0], y[0], x[1], y[1]), (), size, 400)
        x0, y0, x1, y1 = view.window
        assert (x1 - x0) / (y1 - y0) == pytest.approx(ASPECT)
        assert x0 <= x[0] + 1e-9
        assert x1 >= x[1] - 1e-9
        assert y0 <= y[0] + 1e-9
        assert y1 >= y[1] - 1e-9
        assert (x0 >= -1e-9 and x1 <= width + 1e-9) or (x0 <= 1e-9 and x1 >= width - 1e-9)
        assert (y0 >= -1e-9 and y1 <= height + 1e-9) or (y0 <= 1e-9 and y1 >= height - 1e-9)
        rows, columns = view.inside
        assert 0 <= rows.start < rows.stop <= view.height
        assert 0 <= columns.start < columns.stop <= view.width


def test_a_small_object_is_shown_large_and_a_large_one_with_the_whole_image() -> None:
    small = view_of((200, 150, 240, 190), (), (900, 1200), 400)
    assert 40 * small.scale >= 300 / 2.2 - 1e-9
    assert small.place((220, 170)) == pytest.approx((200, 150))
    assert view_of((300, 100, 900, 700), (), (900, 1200), 400).window == (0, 0, 1200, 900)


def test_a_view_opens_up_for_what_spilled_but_not_without_end() -> None:
    alone = view_of((600, 400, 640, 440), (), (900, 1200), 400)
    near_by = view_of((600, 400, 640, 440), [(600, 400, 700, 440)], (900, 1200), 400)
    everything = view_of((600, 400, 640, 440), [(0, 0, 1200, 900)], (900, 1200), 400)
    assert near_by.window[2] > 700 > alone.window[2]
    assert alone.scale > near_by.scale > everything.scale
    assert 40 * everything.scale >= 300 / 4.4 - 1e-9


def test_cutting_a_view_agrees_with_slicing_where_no_pixel_is_resampled() -> None:
    """A window of 400 x 300 pixels shown at 400 x 300."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (700, 900, 3), dtype=np.uint8)
    mask = rng.random((700, 900)) < 0.5
    view = view_of((250, 200, 450, 300), (), (700, 900), 440, 2.2)
    x0, y0, x1, y1 = (round(side) for side in view.window)
    assert (x1 - x0, y1 - y0) == (view.width, view.height)
    np.testing.assert_array_equal(view.cut(pixels)[5:-5, 5:-5], pixels[y0:y1, x0:x1][5:-5, 5:-5])
    np.testing.assert_array_equal(view.cut_mask(mask)[5:-5, 5:-5], mask[y0:y1, x0:x1][5:-5, 5:-5])


def test_a_wire_one_pixel_wide_survives_being_made_smaller() -> None:
    wire = box_mask(0, 500, 1600, 501, 1200, 1600)
    seen = view_of((0, 0, 1600, 1200), (), (1200, 1600), 480).cut_mask(wire)
    assert seen.any(axis=0).all()
    assert seen.sum(axis=0).max() <= 2


def test_a_panel_has_truth_left_in_green_and_answer_right_in_blue() -> None:
    truth, answer = box_mask(120, 90, 280, 210), box_mask(120, 90, 200, 210)
    panel = case_panel(make_case(truth, answer), 804)
    assert panel.shape[1] == 804
    left, right = panel[:300, :400], panel[:300, -400:]
    assert near(left[150, 260], filled(TRUTH)).all()
    assert near(right[150, 260], 0.62 * GREY).all(), "outside the answer"
    assert near(right[150, 160], filled(ANSWER)).all()
    assert not near(left, filled(ANSWER)).any()
    assert not near(right, filled(TRUTH)).any()
    share = near(right, filled(ANSWER)).sum() / near(left, filled(TRUTH)).sum()
    assert share == pytest.approx(0.5, abs=0.03)
    assert not near(panel[310:], BACKDROP).all(), "a caption is written"


def test_the_prompt_is_drawn_on_both_views_where_it_lies() -> None:
    truth = box_mask(120, 90, 280, 210)
    case = make_case(truth, truth, points=[(150.5, 120.5)], labels=[1])
    panel = case_panel(case, 804)
    for view in (panel[:300, :400], panel[:300, -400:]):
        rows, columns = np.nonzero(near(view, FOREGROUND))
        assert (columns.mean(), rows.mean()) == pytest.approx((150.5, 120.5), abs=1.5)
    far = make_case(box_mask(10, 10, 20, 20, 900, 1200), box_mask(10, 10, 20, 20, 900, 1200))
    far = replace(far, points=[(1190.0, 890.0)], labels=[1])
    assert not near(case_panel(far, 804), FOREGROUND).any(), "a click outside the view is not moved into it"


def test_a_portrait_stands_on_the_backdrop() -> None:
    truth = box_mask(10, 10, 90, 190, 200, 100)
    panel = case_panel(make_case(truth, truth), 804)
    assert near(panel[:300, :100], BACKDROP).all()
    assert near(panel[150, 200], filled(TRUTH)).all()


def test_an_empty_answer_is_shown_as_nothing() -> None:
    panel = case_panel(make_case(box_mask(120, 90, 280, 210), np.zeros((HEIGHT, WIDTH), dtype=bool)), 804)
    assert near(panel[:300, -400:], 0.62 * GREY).all()


def test_a_gallery_lays_cases_out_in_reading_order() -> None:
    truth = box_mask(120, 90, 280, 210)
    shades = [40, 80, 120, 160, 200]
    cases = [
        replace(make_case(truth, truth), image=np.full((HEIGHT, WIDTH, 3), s, dtype=np.uint8)) for s in shades
    ]
    sheet = picture(gallery(cases, columns=2, width=1000))
    assert sheet.shape[1] == 1000
    step = (len(sheet) - 6) // 3
    seen = [int(sheet[6 + (i // 2) * step + 20, 20 + (i % 2) * 497, 0]) for i in range(5)]
    assert seen == [pytest.approx(0.62 * s, abs=1) for s in shades]
    assert near(sheet[2 * step + 10 :, 510:], BACKDROP).all(), "the sixth place stays empty"


def test_bytes_are_png_or_jpeg_and_the_same_each_time() -> None:
    truth = box_mask(120, 90, 280, 210)
    cases = [make_case(truth, truth)]
    assert gallery(cases, 1, 600) == gallery(cases, 1, 600)
    jpeg = PillowImage.open(io.BytesIO(gallery(cases, 1, 600, "jpeg")))
    assert (jpeg.format, jpeg.size) == ("JPEG", PillowImage.open(io.BytesIO(gallery(cases, 1, 600))).size)
    assert "exif" not in jpeg.info
    encoded = io.BytesIO()
    PillowImage.fromarray(np.full((HEIGHT, WIDTH, 3), GREY, dtype=np.uint8)).save(encoded, "PNG")
    assert gallery([replace(cases[0], image=encoded.getvalue())], 1, 600) == gallery(cases, 1, 600)


def test_side_by_side_has_human_a_and_b_in_one_view() -> None:
    truth = box_mask(120, 90, 280, 210)
    case_a = make_case(truth, truth, model="a")
    case_b = make_case(truth, box_mask(120, 90, 200, 210), model="b")
    sheet = picture(side_by_side([case_a], [case_b], width=1232))
    columns = [sheet[:, 8 + i * 408 : 8 + i * 408 + 400] for i in range(3)]
    green, blue_a, blue_b = (
        near(column, filled(colour)) for column, colour in zip(columns, (TRUTH, ANSWER, ANSWER), strict=True)
    )
    np.testing.assert_array_equal(green, blue_a)
    assert blue_b.sum() / blue_a.sum() == pytest.approx(0.5, abs=0.03)
    assert not (blue_b & ~blue_a).sum() > 400, "only the outline of the smaller mask lies elsewhere"
    assert side_by_side([case_a], [case_b], 1232, "jpeg").startswith(b"\xff\xd8")


@dataclass(frozen=True)
class Row:
    set_name: str
    image_id: str
    mask_id: int
    iou: float


def test_the_worst_cases_are_the_lowest_with_one_of_each_image() -> None:
    rng = np.random.default_rng(0)
    rows = [
        Row(f"set {rng.integers(3)}", f"image {rng.integers(9)}", mask, float(rng.integers(12)) / 10)
        for mask in range(300)
    ]
    picked = worst_cases(rows, 4)
    assert sorted(picked, key=repr) == sorted(worst_cases(rows[::-1], 4), key=repr)
    for name in ("set 0", "set 1", "set 2"):
        mine = [row for row in picked if row.set_name == name]
        best_of_image = sorted(
            min(r.iou for r in rows if (r.set_name, r.image_id) == (name, image))
            for image in {r.image_id for r in rows if r.set_name == name}
        )
        assert [row.iou for row in mine] == best_of_image[:4]
        assert len({row.image_id for row in mine}) == 4
        assert all((a.iou, a.mask_id) < (b.iou, b.mask_id) for a, b in pairwise(mine))
    assert len(worst_cases(rows[:1], 4)) == 1
    assert worst_cases([], 2) == []


def test_bad_input_is_one_sentence() -> None:
    truth = box_mask(120, 90, 280, 210)
    case = make_case(truth, truth)
    with pytest.raises(MaskError, match="empty"):
        make_case(np.zeros_like(truth), truth)
    with pytest.raises(MaskError, match="must agree"):
        make_case(truth, truth[:-1])
    with pytest.raises(MaskError, match="bool masks"):
        make_case(truth, truth.astype(np.uint8))
    with pytest.raises(InputError, match="1 points and 0 labels"):
        make_case(truth, truth, points=[(1.0, 1.0)])
    with pytest.raises(InputError, match="must be finite, got nan"):
        make_case(truth, truth, iou=float("nan"))
    with pytest.raises(MaskError, match=r"the image \(9, 9\)"):
        case_panel(replace(case, image=np.zeros((9, 9, 3), dtype=np.uint8)))
    with pytest.raises(ImageError):
        case_panel(replace(case, image=b"not a picture"))
    with pytest.raises(InputError, match="got 0 and 3"):
        gallery([])
    with pytest.raises(InputError, match=f"to {MAX_WIDTH} pixels"):
        gallery([case], 1, MAX_WIDTH + 1)
    with pytest.raises(InputError, match="got 500"):
        gallery([case], 3, 500)
    with pytest.raises(InputError, match="'png' or 'jpeg'"):
        gallery([case], 1, 600, "gif")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="on one object"):
        side_by_side([case], [replace(case, mask_id=8)])
    with pytest.raises(InputError, match="one model"):
        side_by_side([case, replace(case, model="other")], [case, case])
    with pytest.raises(InputError, match="got 1 and 0"):
        side_by_side([case], [])
    with pytest.raises(InputError, match="got 0"):
        worst_cases([], 0)
    with pytest.raises(InputError, match="count a failed mask as 0"):
        worst_cases([Row("a", "b", 3, float("nan"))], 1)
