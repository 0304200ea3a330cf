"""100,000 mutated RLEs: exact or refused, and refused exactly when a plain reading says so."""

import numpy as np
import pytest
from pycocotools import mask as coco

from anymask.errors import RleError
from anymask.masks import rle

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools")


def plain_reading(text, height, width):
    """COCO's reader character by character in Python's unbounded integers; None when anything is wrong."""
    counts, position = [], 0
    while position < len(text):
        value, shift = 0, 0
        while True:
            if position == len(text) or shift == 30:
                return None
            group = ord(text[position]) - 48
            if not 0 <= group < 64:
                return None
            position += 1
            value |= (group & 0x1F) << shift
            shift += 5
            if not group & 0x20:
                break
        if group & 0x10:
            value -= 1 << shift
        if len(counts) > 2:
            value += counts[-2]
        counts.append(value)
    if not counts or min(counts) < 0 or sum(counts) != height * width:
        return None
    return counts


def mutate(text, size, rng):
    kind = rng.integers(8)
    where = int(rng.integers(len(text)))
    if kind == 0:  # another character of the alphabet
        text = text[:where] + chr(48 + rng.integers(64)) + text[where + 1 :]
    elif kind == 1:  # one bit
        text = text[:where] + chr(ord(text[where]) ^ (1 << rng.integers(7))) + text[where + 1 :]
    elif kind == 2:
        text = text[:where] + text[where + 1 :]
    elif kind == 3:
        text = text[:where] + chr(48 + rng.integers(64)) + text[where:]
    elif kind == 4:
        text = text[:where]
    elif kind == 5:  # two neighbours swapped: often still adds up
        text = text[:where] + text[where : where + 2][::-1] + text[where + 2 :]
    elif kind == 6:  # the same area in another shape, or another size
        size = [size[1], size[0]] if rng.integers(2) else [size[0] + int(rng.integers(-1, 2)), size[1]]
    else:  # a needlessly long group, then its end: the same value written longer
        end = ord(text[where]) - 48
        if not end & 0x20:
            tail = 31 if end & 0x10 else 0
            text = text[:where] + chr(48 + (end | 0x20)) + chr(48 + tail) + text[where + 1 :]
    return text, size


def test_one_hundred_thousand_mutations():
    rng = np.random.default_rng(2024)
    accepted = changed = 0
    text, size = "", [1, 1]
    for index in range(100_000):
        if index % 5 == 0:
            height, width = (int(side) for side in rng.integers(1, 24, 2))
            mask = np.zeros((height, width), dtype=bool)
            y, x = rng.integers(0, height), rng.integers(0, width)
            mask[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = True
            record = rle.encode(mask)
            original, original_size = record["counts"], record["size"]
            text, size = original, original_size
        text, size = mutate(text or original, size, rng)
        expected = plain_reading(text, *size) if min(size) > 0 else None
        try:
            counts, (height, width) = rle.parse({"size": size, "counts": text})
        except RleError:
            if expected is not None:
                pytest.fail(f"refused, but sound: {text!r} {size}")
            continue
        assert counts.tolist() == expected, (text, size)
        accepted += 1
        changed += (text, size) != (original, original_size)
        if accepted % 4 == 0:  # only what ours accepts may reach C code
            decoded = rle.decode_counts(counts, (height, width))
            again = coco.decode({"size": size, "counts": text}).astype(bool)
            assert np.array_equal(decoded, again), (text, size)
    assert accepted > 5_000
    assert changed > 3_000


def test_random_bytes_never_crash():
    rng = np.random.default_rng(7)
    messages = []
    for _ in range(5_000):
        data = rng.integers(0, 256, rng.integers(0, 60), dtype=np.uint8).tobytes()
        try:
            rle.decode({"size": [8, 8], "counts": data})
        except RleError as error:
            messages.append(str(error))
    assert len(messages) > 4_500
    assert max(map(len, messages)) < 200


@pytest.mark.parametrize(
    "counts",
    [
        "o" * 1_000_000,  # continuation for ever
        "0" * 9_000_000,  # more runs than the limit
        "0" * 30_000_000,  # more text than the limit
        [0] * 8_000_001,
        "oooooo" * 1000 + "0",
    ],
)
def test_long_texts_are_refused(counts):
    with pytest.raises(RleError):
        rle.decode({"size": [8, 8], "counts": counts})


def test_what_crashes_pycocotools_is_refused():
    # too few pixels: pycocotools leaves memory unset; too many: it writes past the end
    for counts in ("1", "000", "PPPPP1", "o7o7o7", [3, 4, 5], [10**6, 1], [64, 1], [-64, 128]):
        with pytest.raises(RleError):
            rle.decode({"size": [8, 8], "counts": counts})
