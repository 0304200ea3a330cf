"""The frame against the shared vectors, Pillow and torch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from anymask.errors import InputError
from anymask.frame import (
    HALF_PIXEL,
    MASK_PROMPT_LOGIT,
    Frame,
    crop_boxes,
    crop_to_image,
    image_to_crop,
    uncrop_masks,
)

FOLDER = Path(__file__).parent / "vectors"
VECTORS = json.loads((FOLDER / "frame.json").read_text())


def frame_of(case):
    return Frame(tuple(case["image_size"]), case["long_side"], case["pad"])


def test_the_vectors_are_what_their_script_writes():
    script = subprocess.run(
        [sys.executable, FOLDER / "make_frame_vectors.py"], capture_output=True, text=True
    )
    assert json.loads(script.stdout) == VECTORS


@pytest.mark.parametrize(
    "case", VECTORS["frames"], ids=lambda c: f"{c['image_size']}-{c['long_side']}-{c['pad']}"
)
def test_sizes_and_points(case):
    frame = frame_of(case)
    assert list(frame.resized_size) == case["resized_size"]
    assert list(frame.network_size) == case["network_size"]
    points = np.array(case["points_image"])
    network = frame.points_to_network(points)
    assert np.allclose(network, case["points_network"], rtol=1e-14, atol=1e-9)
    assert np.allclose(frame.points_to_image(network), points, rtol=0, atol=1e-6)
    boxes = points[[0, 1, 2, 3]].reshape(2, 4)
    assert np.array_equal(frame.boxes_to_network(boxes), network[:4].reshape(2, 4))
    assert np.allclose(frame.boxes_to_image(frame.boxes_to_network(boxes)), boxes, rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", VECTORS["crops"], ids=lambda c: f"{c['image_size']}-{c['n_layers']}")
def test_crops(case):
    boxes, layers = crop_boxes(tuple(case["image_size"]), case["n_layers"], case["overlap_ratio"])
    assert [list(box) for box in boxes] == case["boxes"]
    assert layers == case["layers"]


def test_crops_cover_the_image():
    cover = np.zeros((150, 225), dtype=int)
    boxes, layers = crop_boxes((150, 225), 2)
    for (x0, y0, x1, y1), layer in zip(boxes, layers, strict=True):
        cover[y0:y1, x0:x1] |= 1 << layer
    assert len(boxes) == 1 + 4 + 16
    assert (cover == 0b111).all()


@pytest.mark.parametrize("case", VECTORS["logits"], ids=lambda c: f"{c['image_size']}-{c['pad']}")
def test_logits_to_image(case):
    low_res = np.array(case["low_res"], dtype=np.float32)
    image = frame_of(case).logits_to_image(np.stack([low_res, -low_res])[None])
    assert image.shape == (1, 2, *case["image_size"])
    assert image.dtype == np.float32
    assert np.abs(image[0, 0] - np.array(case["image"])).max() < 1e-5
    assert np.abs(image[0, 1] + np.array(case["image"])).max() < 1e-5


def test_masks_are_the_thresholded_logits():
    frame = Frame((50, 70), 64, 32)
    logits = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    for threshold in (0.0, 0.5):
        assert np.array_equal(
            frame.logits_to_masks(logits, threshold), frame.logits_to_image(logits) > threshold
        )
    assert frame.logits_to_masks(logits, 0.5).sum() < frame.logits_to_masks(logits).sum()


@pytest.mark.parametrize("size", [(300, 500), (128, 96), (400, 130)])
def test_logits_come_to_low_res_as_a_mask_s_cover_does(size):
    """Mean over the area, where the image shrinks: 8 inside and -8 outside is what a user's mask is given."""
    frame = Frame(size, 128, 32)
    low_res_size = tuple(side // 4 for side in frame.network_size)
    mask = np.random.default_rng(3).random(size) < 0.5
    logits = np.where(mask, MASK_PROMPT_LOGIT, -MASK_PROMPT_LOGIT).astype(np.float32)
    expected = frame.mask_to_low_res(mask, low_res_size)
    assert np.abs(frame.logits_to_low_res(logits, low_res_size) - expected).max() < 1e-5
    with pytest.raises(InputError):
        frame.logits_to_low_res(logits[1:], low_res_size)


@pytest.mark.parametrize(
    ("resize", "pad"), [("longest_side", "square"), ("longest_side", 32), ("stretch", "square")]
)
@pytest.mark.parametrize("size", [(48, 61), (300, 500), (200, 120), (64, 300), (128, 128)])
def test_a_slope_keeps_its_place_on_the_way_to_low_res(size, resize, pad):
    """Whatever grows or shrinks, a linear plane is read at the cells' centres, and the padding is -8."""
    frame = Frame(size, 128, pad, resize)
    low_res_size = tuple(side // 4 for side in frame.network_size)
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    low_res = frame.logits_to_low_res((0.02 * x - 0.03 * y).astype(np.float32), low_res_size)
    assert low_res.shape == low_res_size
    assert low_res.dtype == np.float32
    rows, columns = (np.mgrid[: low_res_size[0], : low_res_size[1]] + 0.5) * 4
    place = frame.points_to_image(np.stack([columns, rows], axis=-1))
    height, width = frame.resized_size
    inside = (rows > 4) & (rows < height - 4) & (columns > 4) & (columns < width - 4)
    assert inside.sum() > 20
    expected = 0.02 * place[..., 0] - 0.03 * place[..., 1]
    assert np.abs(low_res - expected)[inside].max() < 1e-3
    outside = (rows - 2 >= height) | (columns - 2 >= width)
    assert (low_res[outside] == -MASK_PROMPT_LOGIT).all()


@pytest.mark.torch
@pytest.mark.parametrize("pad", ["square", 32])
@pytest.mark.parametrize(
    "size", [(10, 13), (150, 225), (512, 512), (333, 77), (1, 5000), (65535, 1), (700, 900)]
)
def test_logits_to_image_equals_torch(size, pad):
    """Measured: 8e-5 at most on logits of +-20; the ladder asks 1e-3."""
    torch = pytest.importorskip("torch")
    interpolate = torch.nn.functional.interpolate
    frame = Frame(size, 256, pad)
    rows, columns = frame.network_size
    low_res = np.random.default_rng(1).normal(0, 5, (2, rows // 4, columns // 4)).astype(np.float32)
    network = interpolate(
        torch.from_numpy(low_res)[None], (rows, columns), mode="bilinear", align_corners=False
    )
    network = network[..., : frame.resized_size[0], : frame.resized_size[1]]
    expected = interpolate(network, size, mode="bilinear", align_corners=False)[0].numpy()
    assert np.abs(frame.logits_to_image(low_res) - expected).max() < 2e-4


@pytest.mark.parametrize("case", VECTORS["stretched"], ids=lambda c: f"{c['image_size']}-{c['long_side']}")
@pytest.mark.parametrize("normalisation", ["mean_std", "min_max"])
def test_stretched_sizes_and_points(case, normalisation):
    side = case["long_side"]
    frame = Frame(tuple(case["image_size"]), side, "square", "stretch", normalisation)
    assert frame.resized_size == frame.network_size == (side, side)
    network = frame.points_to_network(case["points_image"])
    assert np.allclose(network, case["points_network"], rtol=1e-14, atol=1e-9)
    assert np.allclose(frame.points_to_image(network), case["points_image"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", VECTORS["stretched_logits"], ids=lambda c: str(c["image_size"]))
def test_stretched_logits_to_image(case):
    frame = Frame(tuple(case["image_size"]), case["long_side"], "square", "stretch")
    image = frame.logits_to_image(np.array(case["low_res"], dtype=np.float32))
    assert np.abs(image - np.array(case["image"])).max() < 1e-5


@pytest.mark.torch
@pytest.mark.parametrize("size", [(10, 13), (150, 225), (64, 64), (333, 77), (1, 500), (700, 900)])
def test_stretched_frames_equal_torch(size):
    """As the published codes ask it of torch; measured 7e-7 on pixels, 1.2e-4 on logits, 5e-6 on probabilities."""
    torch = pytest.importorskip("torch")
    interpolate = torch.nn.functional.interpolate
    generator = np.random.default_rng(6)
    frame = Frame(size, 256, "square", "stretch")
    pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    x = interpolate(x, (256, 256), mode="bilinear")
    expected = (x - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(std).reshape(3, 1, 1)
    network = frame.to_network(pixels, np.array(mean) * 255, np.array(std) * 255)
    assert np.abs(network - expected.numpy()).max() < 2e-5
    low_res = generator.normal(0, 5, (2, 64, 64)).astype(np.float32)
    expected = interpolate(torch.from_numpy(low_res)[None], size, mode="bicubic")[0].numpy()
    assert np.abs(frame.logits_to_image(low_res) - expected).max() < 2e-4
    # MedSAM's code enlarges probabilities; far logits are cut at 15, which no threshold near 0 can see
    medical = Frame(size, 256, "square", "stretch", "min_max")
    share = interpolate(torch.from_numpy(low_res)[None].sigmoid(), size, mode="bilinear")[0].numpy()
    back = medical.logits_to_image(low_res)
    assert np.isfinite(medical.logits_to_image(1000 * low_res)).all()
    assert np.abs(1 / (1 + np.exp(-back)) - share).max() < 2e-5
    clear = np.abs(share - 0.5) > 2e-5
    assert np.array_equal((back > 0)[clear], (share > 0.5)[clear])


def test_stretched_pixels_of_equal_size_are_the_pixels():
    pixels = np.random.default_rng(7).integers(5, 201, (40, 40, 3), dtype=np.uint8)
    pixels[3, 4, 1], pixels[5, 6, 2] = 4, 201
    plain = Frame((40, 40), 40, "square", "stretch").to_network(pixels, [0, 0, 0], [1, 1, 1])
    assert np.array_equal(plain[0].transpose(1, 2, 0), pixels)
    scaled = Frame((40, 40), 40, "square", "stretch", "min_max").to_network(pixels, [9, 9, 9], [2, 2, 2])
    assert np.abs(scaled[0].transpose(1, 2, 0) - (pixels.astype(float) - 4) / 197).max() < 1e-6
    assert (scaled.min(), scaled.max()) == (0, 1)


def test_a_picture_of_one_value_has_no_extremes():
    for resize in ("stretch", "longest_side"):
        frame = Frame((30, 20), 64, "square", resize, "min_max")
        assert not frame.to_network(np.full((30, 20, 3), 77, np.uint8), [0, 0, 0], [1, 1, 1]).any()


def test_extremes_are_those_of_the_picture_not_of_the_padding():
    pixels = np.full((20, 40, 3), 100, np.uint8)
    pixels[:, 20:, 1] = 150
    network = Frame((20, 40), 40, "square", "longest_side", "min_max").to_network(
        pixels, [0, 0, 0], [1, 1, 1]
    )
    assert np.array_equal(network[0, 1, :20], np.broadcast_to(np.arange(40) >= 20, (20, 40)))
    assert not network[0, :, 20:].any()


def test_resize_is_pillows():
    pixels = np.random.default_rng(2).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    for long_side in (30, 90, 200):
        frame = Frame((60, 90), long_side)
        height, width = frame.resized_size
        expected = np.asarray(PillowImage.fromarray(pixels).resize((width, height), PillowImage.BILINEAR))
        assert np.array_equal(frame.resize_image(pixels), expected)
    with pytest.raises(InputError, match="60, 90"):
        Frame((60, 90)).resize_image(pixels[:-1])


def test_to_network_normalises_then_pads_with_zeros():
    pixels = np.random.default_rng(3).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    frame = Frame((30, 50), 50, 32)
    network = frame.to_network(pixels, mean, std)
    assert network.shape == (1, 3, 32, 64)
    assert network.dtype == np.float32
    expected = ((pixels.astype(float) - mean) / std).transpose(2, 0, 1)
    assert np.abs(network[0, :, :30, :50] - expected).max() < 1e-5
    assert not network[0, :, 30:].any()
    assert not network[0, :, :, 50:].any()


@pytest.mark.torch
def test_to_network_equals_the_published_preprocess():
    torch = pytest.importorskip("torch")
    pixels = np.random.default_rng(4).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    frame = Frame((40, 64), 64)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    x = (x - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    expected = torch.nn.functional.pad(x, (0, 0, 0, 24)).numpy()
    assert np.abs(frame.to_network(pixels, mean, std) - expected).max() < 1e-6


def test_a_mask_prompt_is_linear_in_cover():
    mask = np.zeros((64, 128), dtype=bool)
    mask[:, :66] = True
    logits = Frame((64, 128), 128).mask_to_low_res(mask, (32, 32))
    assert logits.dtype == np.float32
    cover = np.zeros((128, 128))
    cover[:64] = mask
    expected = (cover.reshape(32, 4, 32, 4).mean(axis=(1, 3)) * 2 - 1) * MASK_PROMPT_LOGIT
    assert np.abs(logits - expected).max() < 1e-5
    assert set(np.unique(logits)) == {-8.0, 0.0, 8.0}


@pytest.mark.parametrize("size", [(300, 200), (77, 333), (2000, 1000)])
def test_a_mask_prompt_comes_back_as_the_mask(size):
    y, x = np.mgrid[: size[0], : size[1]]
    mask = ((y / size[0] - 0.5) ** 2 + (x / size[1] - 0.4) ** 2) < 0.08
    frame = Frame(size, 1024, 32)
    rows, columns = frame.network_size
    back = frame.logits_to_masks(frame.mask_to_low_res(mask, (rows // 4, columns // 4)))
    assert (back & mask).sum() / (back | mask).sum() > 0.98


def test_crop_shifts():
    box = (10, 20, 40, 60)
    assert crop_to_image([[1, 2]], box).tolist() == [[11, 22]]
    assert crop_to_image([1, 2, 3, 4], box).tolist() == [11, 22, 13, 24]
    assert image_to_crop(crop_to_image([[1.5, 2.5]], box), box).tolist() == [[1.5, 2.5]]
    inside = np.random.default_rng(5).random((2, 40, 30)) < 0.5
    placed = uncrop_masks(inside, box, (80, 70))
    assert np.array_equal(placed[:, 20:60, 10:40], inside)
    assert placed.sum() == inside.sum()
    with pytest.raises(InputError, match="crop box"):
        uncrop_masks(inside, (0, 0, 5, 5), (80, 70))


def test_the_half_pixel_is_the_networks_to_add():
    assert HALF_PIXEL == 0.5
    assert Frame((100, 100), 1024).points_to_network([0, 0]).tolist() == [0, 0]


@pytest.mark.parametrize(
    "call",
    [
        lambda: Frame((0, 5)),
        lambda: Frame((5, 100_000)),
        lambda: Frame((5, 5), 0),
        lambda: Frame((5, 5), 64, 0),
        lambda: Frame((5, 5), 64, "circle"),
        lambda: Frame((5, 5), 64, 32, "stretch"),
        lambda: Frame((5, 5), 64, "square", "crop"),
        lambda: Frame((5, 5), 64, "square", "stretch", "none"),
        lambda: Frame((5, 5)).points_to_network([1, 2, 3]),
        lambda: Frame((5, 5)).boxes_to_network([1, 2, 3]),
        lambda: crop_boxes((5, 5), 99),
        lambda: crop_boxes((5, 5), 1, 1.0),
        lambda: crop_to_image([1, 2, 3], (0, 0, 1, 1)),
    ],
)
def test_bad_input(call):
    with pytest.raises(InputError):
        call()
