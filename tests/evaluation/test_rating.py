"""The blind rating: nothing tells the method, what is planted is found, and nothing bad gets through."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from anymask.errors import ImageError, InputError, MaskError, NotFoundError, OutputError
from anymask.evaluation.rating.agreement import krippendorff_alpha
from anymask.evaluation.rating.export import RatedObject, RatingResult, analyse_rating, export_rating

OBJECTS, METHODS = 12, ("plain", "secretmethod")
NAN = float("nan")


def rated(number: int, **changes: object) -> RatedObject:
    """A grey box on a plain ground; the second method cuts off its right half."""
    pixels = np.full((60, 80, 3), 40 + 2 * number, dtype=np.uint8)
    truth = np.zeros((60, 80), dtype=bool)
    truth[20:40, 10 + number : 40 + number] = True
    pixels[truth] = 180
    half = truth.copy()
    half[:, 25 + number :] = False
    fields: dict[str, object] = {"points": [(20.0 + number, 30.0)], "labels": [1], **changes}
    return RatedObject(
        f"secretobject {number}", pixels, dict(zip(METHODS, (truth, half), strict=True)), **fields
    )  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    things = [rated(number, set_name="ab"[number % 2]) for number in range(OBJECTS)]
    return export_rating(
        things, tmp_path_factory.mktemp("rating") / "study", seed=3, title='Round <1> & "more"'
    )


def key_of(study: Path) -> dict[str, dict[str, str]]:
    pictures: dict[str, dict[str, str]] = json.loads((study / "key.json").read_text())["pictures"]
    return pictures


def write_csv(path: Path, rows: list[tuple[str, object, str]], separator: str = ",") -> Path:
    table = io.StringIO()
    csv.writer(table, delimiter=separator).writerows([("id", "rating", "rater"), *rows])
    path.write_text(table.getvalue())
    return path


def chunks(png: bytes) -> list[bytes]:
    """Names of a PNG's chunks, which are length, name, data and checksum each."""
    names, at = [], 8
    while at < len(png):
        names.append(png[at + 4 : at + 8])
        at += 12 + int.from_bytes(png[at : at + 4], "big")
    return names


def rate_all(study: Path, tmp_path: Path, rater: str, seed: int, gap: int) -> Path:
    """A rater to whom the first method is better by ``gap`` points, with noise."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, object, str]] = [
        (number, 5 + (gap if entry["method"] == METHODS[0] else 0) + int(rng.integers(-1, 2)), rater)
        for number, entry in key_of(study).items()
    ]
    return write_csv(tmp_path / f"{rater}.csv", rows)


def test_a_study_is_whole(study: Path) -> None:
    numbers = [f"{n:04d}" for n in range(1, OBJECTS * len(METHODS) + 1)]
    assert sorted(p.relative_to(study).as_posix() for p in study.rglob("*") if p.is_file()) == sorted(
        [
            "key.json",
            "for_raters/rate.html",
            "for_raters/ratings.csv",
            *(f"for_raters/images/{n}.png" for n in numbers),
        ]
    )
    pictures = key_of(study)
    assert list(pictures) == numbers
    told = {(entry["object"], entry["method"]) for entry in pictures.values()}
    assert told == {(f"secretobject {n}", m) for n in range(OBJECTS) for m in METHODS}
    assert "Keep this file from the raters" in (study / "key.json").read_text()
    with open(study / "for_raters" / "ratings.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{"id": n, "rating": "", "rater": ""} for n in numbers]


def test_nothing_the_raters_get_tells_the_method(study: Path) -> None:
    folder = study / "for_raters"
    sizes = set()
    times = {path.stat().st_mtime_ns for path in folder.rglob("*")}
    for path in folder.rglob("*"):
        if path.is_file():
            assert b"secret" not in path.read_bytes().lower()
        if path.suffix == ".png":
            picture = PillowImage.open(path)
            sizes.add(picture.size)
            assert not picture.info
            assert set(chunks(path.read_bytes())) == {b"IHDR", b"IDAT", b"IEND"}
    assert len(times) == 1
    assert len(sizes) == 1


def test_the_order_is_shuffled_by_the_seed_alone(study: Path, tmp_path: Path) -> None:
    """Neither method tends to come first, neither in the study nor within an object."""
    things = [rated(number) for number in range(4)]
    first, same, other = (
        export_rating(things, tmp_path / name, seed)
        for name, seed in (("first", 4), ("same", 4), ("other", 5))
    )
    for path in first.rglob("*.*"):
        assert path.read_bytes() == (same / path.relative_to(first)).read_bytes()
    assert key_of(first) != key_of(other)
    methods = [entry["method"] for entry in key_of(study).values()]
    assert methods not in (sorted(methods), sorted(methods, reverse=True), list(METHODS) * OBJECTS)
    seen: dict[str, str] = {}
    for entry in key_of(study).values():
        seen.setdefault(entry["object"], entry["method"])
    firsts = list(seen.values())
    assert 2 <= firsts.count(METHODS[0]) <= OBJECTS - 2


def test_a_picture_shows_the_outline_close_up_and_whole_and_once_without(study: Path) -> None:
    """Yellow lies where the mask's edge is: in the large view and the upper small one, not in the lower."""
    number = next(
        n
        for n, e in key_of(study).items()
        if (e["object"], e["method"]) == ("secretobject 0", "secretmethod")
    )
    sheet = np.asarray(PillowImage.open(study / "for_raters" / "images" / f"{number}.png")).astype(int)
    yellow = (np.abs(sheet - [255, 221, 0]) < 40).all(axis=2)
    large, upper, lower = yellow[:, :800], yellow[:298, 806:], yellow[302:, 806:]
    assert large.sum() > upper.sum() > 50
    assert not lower.any()
    # The half square is 15 x 20 of 80 x 60 pixels, and the whole image lies in the upper view.
    columns, rows = np.flatnonzero(upper.any(axis=0)), np.flatnonzero(upper.any(axis=1))
    scale = upper.shape[1] / 80
    assert (columns[0], columns[-1]) == pytest.approx((10 * scale, 25 * scale), abs=4)
    assert (rows[0], rows[-1]) == pytest.approx((20 * scale, 40 * scale), abs=4)


class Page(html.parser.HTMLParser):
    """Texts by element, and every address in an attribute."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action")]

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._open, []).append(data)


def test_the_page_escapes_its_title_and_needs_no_network(tmp_path: Path) -> None:
    title = '</title><script>alert(1)</script><img src=x onerror=alert(1)> {{data}} & "q"'
    text = (export_rating([rated(0)], tmp_path / "s", title=title) / "for_raters" / "rate.html").read_text()
    page = Page(text)
    assert page.texts["title"][0] == page.texts["h1"][0] == title
    assert page.tags.count("script") == 2
    assert page.tags.count("img") == 1
    assert page.addresses == []
    assert not re.findall(r"https?:|//[a-z]|@import|url\(", text.replace("\n  //", "")), "nothing is fetched"
    data = json.loads(next(each for each in page.texts["script"] if each.startswith("{")))
    assert data["ids"] == ["0001", "0002"]


def test_the_planted_better_method_is_found_better(study: Path, tmp_path: Path) -> None:
    files = [rate_all(study, tmp_path, rater, seed, gap=3) for seed, rater in enumerate(("ann", "bo"))]
    result = analyse_rating(study, *files)
    assert (result.raters, result.pictures, result.missing) == (("ann", "bo"), 24, 0.0)
    (difference,) = result.differences
    assert (difference.candidate, difference.reference) == METHODS
    overall = difference.comparison.overall
    assert (overall.verdict, overall.images) == ("better", OBJECTS)
    assert overall.low <= overall.difference <= overall.high
    assert overall.difference == pytest.approx(3, abs=0.7)
    assert set(difference.comparison.sets) == {"a", "b"}
    assert result.agreement is not None
    assert result.agreement > 0.5


def test_equals_are_undecided(study: Path, tmp_path: Path) -> None:
    result = analyse_rating(study, rate_all(study, tmp_path, "ann", 0, gap=0))
    assert result.differences[0].comparison.overall.verdict == "undecided"
    assert result.agreement is None, "one rater alone"


def test_means_and_missing_shares_are_those_by_hand(study: Path, tmp_path: Path) -> None:
    """Two raters: one object of the first method gets 4 and 9, another 10 and nothing; the second method one 2."""
    pictures = key_of(study)
    at = {(e["object"], e["method"]): n for n, e in pictures.items()}
    first, second = at["secretobject 0", "plain"], at["secretobject 2", "plain"]
    third = at["secretobject 2", "secretmethod"]
    a = write_csv(tmp_path / "a.csv", [(first, 4, "a"), (second, 10, "a"), (third, "", "a")])
    b = write_csv(tmp_path / "b.csv", [(first.lstrip("0"), 9, "b"), (third, 2, "b")], separator=";")
    result = analyse_rating(study, a, b)
    plain, other = result.methods["plain"], result.methods["secretmethod"]
    assert (plain.mean, plain.objects) == (pytest.approx((6.5 + 10) / 2), 2)
    assert (plain.low, plain.high) == (6.5, 10.0), "all draws of two objects"
    assert (other.mean, other.objects) == (2.0, 1)
    assert plain.missing == pytest.approx(1 - 3 / 24)
    assert other.missing == pytest.approx(1 - 1 / 24)
    assert result.missing == pytest.approx(1 - 4 / 48)
    overall = result.differences[0].comparison.overall
    assert (overall.difference, overall.masks) == (8.0, 1), "only the object that both have a rating of"
    assert result.agreement == pytest.approx(1 - 25 / 25), "one pair only: within equals among"


def test_the_studys_own_table_can_be_filled_in(tmp_path: Path) -> None:
    """The round trip: what export wrote, with numbers put in, is read back; the file's name stands for the rater."""
    study = export_rating([rated(n) for n in range(3)], tmp_path / "study")
    path = study / "for_raters" / "ratings.csv"
    lines = path.read_text().splitlines()
    scores = {number: 1 + place for place, number in enumerate(key_of(study))}
    path.write_text(
        "\ufeff"
        + "\r\n".join([lines[0], *(line.replace(",,", f",{scores[line[:4]]},") for line in lines[1:])])
    )
    result = analyse_rating(study)
    for method in METHODS:
        mean = np.mean([scores[n] for n, e in key_of(study).items() if e["method"] == method])
        assert result.methods[method].mean == pytest.approx(mean)
    assert (result.raters, result.missing) == (("ratings",), 0.0)


def test_objects_of_one_image_are_drawn_together(tmp_path: Path) -> None:
    study = export_rating([rated(n, image_id=n // 3) for n in range(6)], tmp_path / "study")
    result = analyse_rating(study, rate_all(study, tmp_path, "ann", 0, gap=4))
    overall = result.differences[0].comparison.overall
    assert (overall.images, overall.masks, overall.verdict) == (2, 6, "undecided")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("0001", 11, "a"), "from 1 to 10, got '11'"),
        (("0001", 0, "a"), "from 1 to 10, got '0'"),
        (("0001", "7.5", "a"), "got '7.5'"),
        (("0001", "good", "a"), "got 'good'"),
        (("0001", "\N{ARABIC-INDIC DIGIT SEVEN}", "a"), "from 1 to 10"),
        (("0001", "9" * 5000, "a"), "from 1 to 10"),
        (("0025", 5, "a"), "no such picture; ids go from 0001 to 0024"),
        (("../key", 5, "a"), "no such picture"),
        (("0002", 5, "ann"), "rater 'ann' rated it twice"),
    ],
)
def test_a_bad_line_is_one_sentence(
    study: Path, tmp_path: Path, row: tuple[str, object, str], said: str
) -> None:
    path = write_csv(tmp_path / "r.csv", [("0002", 5, "ann"), row])
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        analyse_rating(study, path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_bad_file_is_one_sentence(study: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    with pytest.raises(NotFoundError, match="there is no file"):
        analyse_rating(study, path)
    for content, said in (
        (b"", "needs the columns id, rating, rater, got none"),
        (b"id,score\n0001,5\n", "got id, score"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b'id,rating,rater\n0001,"5,a\n', "is not a CSV file"),
        (b"id,rating,rater\n", "no picture of 'plain' has a rating"),
        (b"id,rating,rater\n0001\n", "no picture of 'plain' has a rating"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=said):
            analyse_rating(study, path)
    for key in (
        "{",
        "[]",
        '{"format": "other", "pictures": {"1": {}}}',
        '{"format": "anymask rating key 1"}',
    ):
        (tmp_path / "key.json").write_text(key)
        with pytest.raises(InputError, match="not the key of a rating study"):
            analyse_rating(tmp_path, path)


def test_an_existing_folder_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    with pytest.raises(OutputError, match="exists"):
        export_rating([rated(0)], tmp_path / "study")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(OutputError, match="exists"):
        export_rating([rated(0)], tmp_path / "link")
    assert sorted(os.listdir(tmp_path)) == ["link", "study"]
    assert os.listdir(tmp_path / "study") == []
    with pytest.raises(OutputError, match="could not be written"):
        export_rating([rated(0)], tmp_path / "missing" / "study")


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    bad = RatedObject("bad", b"no image", rated(1).masks)
    with pytest.raises(ImageError):
        export_rating([rated(0), bad], tmp_path / "study")
    with pytest.raises(MaskError, match=r"but the image \(9, 9\)"):
        export_rating([RatedObject("bad", np.zeros((9, 9, 3), np.uint8), rated(1).masks)], tmp_path / "study")

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_rating([rated(0), rated(1)], tmp_path / "study", progress=stop)
    assert os.listdir(tmp_path) == []


def test_objects_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    one = rated(1)
    for objects, said in (
        ([], "at least one object"),
        ([one, one], "'secretobject 1' more than once"),
        ([rated(0), RatedObject("x", one.image, {"plain": one.masks["plain"]})], "a mask of each of"),
    ):
        with pytest.raises(InputError, match=said):
            export_rating(objects, tmp_path / "study")
    with pytest.raises(InputError, match="0 masks"):
        RatedObject("x", one.image, {})
    with pytest.raises(MaskError, match="of one size"):
        RatedObject("x", one.image, {"a": np.zeros((2, 2), bool), "b": np.zeros((2, 3), bool)})
    with pytest.raises(InputError, match="1 points and 0 labels"):
        RatedObject("x", one.image, one.masks, points=[(1.0, 1.0)])


def test_masks_may_be_empty_and_prompts_absent(tmp_path: Path) -> None:
    empty = np.zeros((60, 80), dtype=bool)
    thing = RatedObject("x", rated(0).image, {"a": empty, "b": ~empty}, box=(3, 4, 30, 40))
    assert len(key_of(export_rating([thing], tmp_path / "one"))) == 2
    assert len(key_of(export_rating([RatedObject("x", rated(0).image, {"a": empty})], tmp_path / "two"))) == 1


def test_alpha_is_krippendorffs_published_example() -> None:
    """Four observers and twelve units with missing values; interval data give .849 (Krippendorff 2011, part E)."""
    table = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
            [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
        ]
    ).T
    assert krippendorff_alpha(table) == pytest.approx(0.849, abs=5e-4)
    assert krippendorff_alpha(table + 1e6) == pytest.approx(krippendorff_alpha(table), abs=1e-9)
    assert krippendorff_alpha(-3 * table) == pytest.approx(krippendorff_alpha(table))


@pytest.mark.parametrize(
    ("table", "alpha"),
    [
        ([[1, 1], [2, 2], [5, 5]], 1.0),
        # Within: 2 things of squared difference 1, mean 1. Among 1 2 3 4: pairs 1 4 9 1 4 1, mean 10/3.
        ([[1, 2], [3, 4]], 1 - 3 / 10),
        # Within: 4 each. Among 1 3 3 1: pairs 4 4 0 0 4 4, mean 8/3.
        ([[1, 3], [3, 1]], 1 - 4 / (8 / 3)),
        # Three raters: within (1 + 9 + 4) / 3 * 3 values and 0 * 2 values, over 5 values; among 1 2 4 6 6.
        ([[1, 2, 4], [6, 6, NAN]], 1 - (14 / 5) / ((1 + 9 + 25 + 25 + 4 + 16 + 16 + 4 + 4 + 0) / 10)),
        ([[1, 1], [9, NAN], [3, 3]], 1.0),
    ],
)
def test_alpha_by_hand(table: list[list[float]], alpha: float) -> None:
    assert krippendorff_alpha(table) == pytest.approx(alpha)


def test_alpha_of_many_random_ratings_is_near_zero_and_undefined_cases_are_nan() -> None:
    assert abs(krippendorff_alpha(np.random.default_rng(0).integers(1, 11, (20_000, 3)))) < 0.02
    for table in ([[1, NAN], [2, NAN]], [[4, 4], [4, 4]], np.zeros((0, 2))):
        assert np.isnan(krippendorff_alpha(table))
    with pytest.raises(InputError, match="a table"):
        krippendorff_alpha([1, 2, 3])


def test_the_result_is_a_plain_record(study: Path, tmp_path: Path) -> None:
    first = analyse_rating(study, rate_all(study, tmp_path, "ann", 1, gap=1))
    assert isinstance(first, RatingResult)
    assert first == analyse_rating(study, rate_all(study, tmp_path, "ann", 1, gap=1))
