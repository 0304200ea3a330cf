"""Hostile pictures: bombs, truncations, damage, other formats under an allowed name."""

import io
import json
import struct
import subprocess
import sys
import textwrap
import zlib

import numpy as np
import pytest
from PIL import Image as PillowImage

from anymask.errors import ImageError, ImageFormatError, ImageTooLargeError, ImageTruncatedError
from anymask.image import FORMATS, read_image

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


def png(width, height, body=b"", extra=()):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [
        chunk(b"IHDR", header),
        *(chunk(*pair) for pair in extra),
        chunk(b"IDAT", body),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def jpeg(width, height):
    """A real JPEG whose frame header is made to claim another size."""
    data = bytearray(sample("JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def webp(width, height):
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + canvas + sample("WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff(width, height):
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
               (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 64)]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + directory + b"\0" * 4 + b"\0" * 64


def sample(kind, size=(40, 24), **options):
    rng = np.random.default_rng(3)
    buffer = io.BytesIO()
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    PillowImage.fromarray(pixels).save(buffer, format=kind, **options)
    return buffer.getvalue()


def bombs():
    zeros = zlib.compress(b"\0" * (13_000 * 3 + 1) * 500, 9)
    return {
        "png of 169 MP": png(13_000, 13_000, zeros),
        "png header of 4 TP": png(2_000_000, 2_000_000),
        "png one row": png(70_000, 1),
        "png largest": png(2**31 - 1, 2**31 - 1),
        "jpeg": jpeg(65_500, 65_500),
        "webp": webp(16_383, 16_383),
        "tiff": tiff(60_000, 60_000),
        "tiff wide": tiff(4_000_000_000, 2),
    }


def test_bombs_are_refused_fast_and_without_memory(tmp_path):
    """In a fresh process: under 200 ms of processor time and under 64 MB of growth of the peak each.

    The peak is the kernel's VmHWM; ``ru_maxrss`` of a child begins with what its parent held and would hide a growth.
    """
    for index, data in enumerate(bombs().values()):
        (tmp_path / f"{index}.png").write_bytes(data)
    (tmp_path / "small.png").write_bytes(sample("PNG"))
    script = """
        import json, re, sys, time
        from pathlib import Path
        from anymask.errors import ImageError
        from anymask.image import read_image
        def peak():
            return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
        folder = Path(sys.argv[1])
        read_image(folder / "small.png")
        rows = []
        for index in range(int(sys.argv[2])):
            before = peak()
            start = time.process_time()
            try:
                read_image(folder / f"{index}.png")
                name = "accepted"
            except ImageError as error:
                name = type(error).__name__
            seconds = time.process_time() - start
            rows.append([name, seconds, peak() - before])
        print(json.dumps(rows))
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script), str(tmp_path), str(len(bombs()))]
    rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    for what, (error, seconds, megabytes) in zip(bombs(), rows, strict=True):
        assert error == "ImageTooLargeError", what
        assert seconds < 0.2, (what, seconds)
        assert megabytes < 64, (what, megabytes)


def test_a_text_chunk_bomb_is_refused():
    text = (b"zTXt", b"k\0\0" + zlib.compress(b"\0" * 200_000_000, 9))
    with pytest.raises(ImageError):
        read_image(png(4, 4, zlib.compress(b"\0" * 13 * 4), extra=[text]))


def other_formats():
    """What Pillow can write that is not on the allow-list, as bytes."""
    PillowImage.init()
    picture = PillowImage.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3))
    for kind in sorted(set(PillowImage.SAVE) - {*FORMATS, "MPO"}):  # an MPO begins with a whole JPEG
        for mode in ("RGB", "L", "1", "F"):
            buffer = io.BytesIO()
            try:
                picture.convert(mode).save(buffer, format=kind)
            except Exception:  # not every writer takes every mode, or is built in
                continue
            if buffer.getvalue():
                yield kind, buffer.getvalue()
                break


def test_every_other_format_renamed_is_refused(tmp_path):
    seen = []
    for kind, data in other_formats():
        path = tmp_path / f"{kind.lower()}.png"
        path.write_bytes(data)
        with pytest.raises(ImageFormatError, match="convert it first"):
            read_image(path)
        seen.append(kind)
    assert {"GIF", "BMP", "PPM", "TGA", "ICO", "PCX", "EPS", "PDF", "DDS", "SGI"} <= set(seen)


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"PK\x03\x04",
        b"%PDF-1.7",
        b"\0" * 64,
        b"#!/bin/sh",
        b"\x89PNX",
    ],
)
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(ImageFormatError):
        read_image(data)


CASES = [("JPEG", {}), ("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True}), ("TIFF", {}),
         ("TIFF", {"compression": "tiff_lzw"}), ("JPEG", {"progressive": True})]  # fmt: skip


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_every_truncation_is_refused_or_harmless(kind, options):
    """A cut in trailing bytes that hold no pixels may pass, with the very pixels of the whole file."""
    whole = sample(kind, **options)
    expected = read_image(whole).pixels
    refused = 0
    for length in range(1, len(whole), max(1, len(whole) // 150)):
        try:
            pixels = read_image(whole[:length]).pixels
        except (ImageTruncatedError, ImageFormatError):
            refused += 1
        else:
            assert np.array_equal(pixels, expected), length
    assert refused >= 100
    with pytest.raises(ImageTruncatedError):
        read_image(whole[: len(whole) // 2])


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_damage_gives_a_picture_or_a_clear_error(kind, options):
    whole = sample(kind, size=(20, 14), **options)
    rng = np.random.default_rng(5)
    messages = []
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(min(len(damaged), 400))] = rng.integers(256)
        try:
            image = read_image(bytes(damaged))
        except ImageError as error:
            messages.append(str(error))
        else:
            assert image.pixels.dtype == np.uint8
    assert messages
    assert all(10 < len(message) < 400 for message in messages)


def test_a_pending_bomb_in_a_pillow_image_is_refused():
    lazy = PillowImage.open(io.BytesIO(png(12_000, 12_000)))
    with pytest.raises(ImageTooLargeError):
        read_image(lazy)
