"""read_image: every allowed format and mode gives the pixels computed another way."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image as PillowImage

from anymask.errors import ImageError, ImageFormatError, ImageTooLargeError, NotFoundError
from anymask.image import read_image
from anymask.limits import MAX_IMAGE_SIDE
from anymask.types import Image


def scene(height=24, width=40):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 6 % 256, y * 10 % 256, (x * y) % 256], axis=2).astype(np.uint8)


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


LOSSLESS = [
    ("PNG", {}),
    ("WEBP", {"lossless": True}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_deflate"}),
]


@pytest.mark.parametrize(("kind", "options"), LOSSLESS)
def test_every_way_in_gives_the_same_pixels(tmp_path, kind, options):
    data = encoded(PillowImage.fromarray(scene()), kind, **options)
    path = tmp_path / "p.bin"
    path.write_bytes(data)
    with path.open("rb") as file:
        images = [
            read_image(source) for source in (str(path), path, data, bytearray(data), file, io.BytesIO(data))
        ]
    images.append(read_image(PillowImage.open(io.BytesIO(data))))
    for image in images:
        assert np.array_equal(image.pixels, scene())
        assert image.format == kind
        assert (image.width, image.height, image.size) == (40, 24, (24, 40))
        assert image.pixels.flags.c_contiguous
        assert not image.pixels.flags.writeable
    array_image = read_image(scene())
    assert array_image.format == "array"
    assert {image.digest for image in [*images, array_image]} == {array_image.digest}


def test_jpeg_equals_pillow():
    data = encoded(PillowImage.fromarray(scene()), "JPEG", quality=95)
    image = read_image(data)
    assert image.format == "JPEG"
    assert np.array_equal(image.pixels, np.asarray(PillowImage.open(io.BytesIO(data))))


def test_digest_is_of_size_and_pixels():
    image = read_image(scene())
    assert image.digest == hashlib.sha256(b"rgb8 24 40\n" + scene().tobytes()).hexdigest()
    assert image.digest != read_image(scene().reshape(40, 24, 3)).digest


def test_an_image_passes_through():
    image = read_image(scene())
    assert read_image(image) is image


# What a camera stores for an upright picture: EXIF's definition of where row 0 and column 0 are.
TO_STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "options"), [*LOSSLESS, ("JPEG", {"quality": 100, "subsampling": 0})])
def test_orientation_is_applied_once(kind, options, orientation):
    stored = PillowImage.fromarray(np.ascontiguousarray(TO_STORED[orientation](scene())))
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    tag = {"tiffinfo": {0x0112: orientation}} if kind == "TIFF" else {"exif": exif.tobytes()}
    data = encoded(stored, kind, **options, **tag)
    for source in (data, PillowImage.open(io.BytesIO(data))):
        pixels = read_image(source).pixels
        assert pixels.shape == scene().shape
        assert np.abs(pixels.astype(int) - scene()).max() <= (0 if kind != "JPEG" else 60)
        assert np.abs(pixels.astype(int) - scene()).mean() <= (0 if kind != "JPEG" else 3)


def test_damaged_exif_is_ignored():
    data = encoded(PillowImage.fromarray(scene()), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(read_image(data).pixels, scene())


def test_modes():
    grey = scene()[..., 0]
    three = np.repeat(grey[..., None], 3, axis=2)
    palette = PillowImage.fromarray(scene()).quantize(16)
    one_bit = PillowImage.fromarray(grey > 100)
    cmyk = PillowImage.fromarray(scene()).convert("CMYK")
    assert np.array_equal(read_image(encoded(PillowImage.fromarray(grey), "PNG")).pixels, three)
    assert np.array_equal(read_image(encoded(palette, "PNG")).pixels, np.asarray(palette.convert("RGB")))
    assert np.array_equal(read_image(encoded(one_bit, "PNG")).pixels[..., 0], (grey > 100) * 255)
    for kind in ("TIFF",):
        assert np.abs(read_image(encoded(cmyk, kind)).pixels.astype(int) - scene()).max() <= 1


def test_transparency_is_laid_over_white():
    alpha = np.linspace(0, 255, 40).astype(np.uint8)[None].repeat(24, axis=0)
    rgba = np.dstack([scene(), alpha])
    share = alpha[..., None] / 255
    expected = scene() * share + 255 * (1 - share)
    sources = [
        rgba,
        encoded(PillowImage.fromarray(rgba), "PNG"),
        encoded(PillowImage.fromarray(rgba), "TIFF"),
    ]
    for source in sources:
        assert np.abs(read_image(source).pixels - expected).max() <= 1
    grey_alpha = PillowImage.fromarray(np.dstack([scene()[..., 0], alpha]))
    assert grey_alpha.mode == "LA"
    assert np.abs(read_image(encoded(grey_alpha, "PNG")).pixels[..., 0] - expected[..., 0]).max() <= 1
    palette = PillowImage.fromarray(scene()[..., 0] // 128, mode="P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    pixels = read_image(encoded(palette, "PNG", transparency=0)).pixels
    first = (scene()[..., 0] // 128 == 0)[..., None]
    assert np.array_equal(pixels, np.where(first, 255, np.array([40, 50, 60])))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_stretched(kind):
    deep = np.linspace(1000, 3000, 24 * 40).reshape(24, 40).astype(np.uint16)
    deep[0, 0] = 65535  # a hot pixel must not darken the rest
    pixels = read_image(encoded(PillowImage.fromarray(deep), kind)).pixels
    expected = np.clip((deep.astype(float) - 1000) / 2000, 0, 1) * 255
    assert np.abs(pixels[..., 0] - expected).max() <= 3
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_float_grey():
    values = np.linspace(-1.0, 1.0, 24 * 40).reshape(24, 40).astype(np.float32)
    values[3, 3], values[4, 4], values[5, 5] = np.nan, np.inf, -np.inf
    pixels = read_image(encoded(PillowImage.fromarray(values), "TIFF")).pixels[..., 0]
    finite = np.isfinite(values)
    assert np.abs(pixels - (values + 1) / 2 * 255)[finite].max() <= 2
    assert pixels[3, 3] == 0
    extreme = np.array([[-3e38, 0.0, 3e38]], dtype=np.float32)
    assert read_image(PillowImage.fromarray(extreme)).pixels[0, :, 0].tolist() in (
        [0, 127, 255],
        [0, 128, 255],
    )
    for flat in (np.full((4, 4), 7, np.float32), np.full((4, 4), np.nan, np.float32)):
        assert read_image(PillowImage.fromarray(flat)).pixels.max() == 0


def test_a_rare_bright_speck_survives_the_stretch():
    deep = np.zeros((100, 100), dtype=np.uint16)
    deep[5, 5] = 9
    assert read_image(PillowImage.fromarray(deep)).pixels[5, 5, 0] == 255


def test_first_frame():
    frames = [PillowImage.fromarray(scene()), PillowImage.fromarray(255 - scene())]
    tiff = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    webp = encoded(frames[0], "WEBP", lossless=True, save_all=True, append_images=frames[1:])
    for data in (tiff, webp):
        assert np.array_equal(read_image(data).pixels, scene())


def test_arrays():
    grey = scene()[..., 0]
    for source in (grey, grey[..., None]):
        assert np.array_equal(read_image(source).pixels, np.repeat(grey[..., None], 3, axis=2))
    assert np.array_equal(read_image(scene()[:, ::-1]).pixels, scene()[:, ::-1])
    given = scene()
    image = read_image(given)
    given[:] = 0
    assert np.array_equal(image.pixels, scene())


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 5, 3)), "float64"),
        (np.zeros((4, 5, 3), np.uint16), "uint16"),
        (np.zeros((4, 5), bool), "bool"),
        (np.zeros((3, 4, 5), np.uint8), r"\(3, 4, 5\)"),
        (np.zeros((1, 4, 5, 3), np.uint8), r"\(1, 4, 5, 3\)"),
        (np.zeros((0, 5, 3), np.uint8), "5 x 0"),
        (np.zeros(7, np.uint8), r"\(7,\)"),
    ],
)
def test_other_arrays_are_refused_by_shape_and_dtype(array, words):
    with pytest.raises(ImageFormatError, match=words):
        read_image(array)


def test_limits_hold_for_arrays_and_pillow_images():
    with pytest.raises(ImageTooLargeError, match=str(MAX_IMAGE_SIDE)):
        read_image(np.zeros((1, MAX_IMAGE_SIDE + 1), np.uint8))
    with pytest.raises(ImageTooLargeError):
        read_image(PillowImage.new("1", (MAX_IMAGE_SIDE + 1, 1)))
    assert read_image(np.zeros((1, MAX_IMAGE_SIDE), np.uint8)).width == MAX_IMAGE_SIDE


def test_missing_and_odd_sources(tmp_path):
    for path in (tmp_path / "none.png", "http://example.com/a.png", "a\0b", tmp_path):
        with pytest.raises(NotFoundError):
            read_image(path)
    with pytest.raises(ImageFormatError, match="binary"):
        read_image(io.StringIO("text"))
    with pytest.raises(ImageFormatError, match="int"):
        read_image(7)
    with pytest.raises(ImageFormatError, match="empty"):
        read_image(b"")


def test_image_value_checks_itself():
    with pytest.raises(ImageFormatError):
        Image(np.zeros((4, 5), np.uint8))
    with pytest.raises(ImageError):
        Image(np.zeros((0, 5, 3), np.uint8))
