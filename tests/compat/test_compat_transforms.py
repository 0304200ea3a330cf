"""`ResizeLongestSide` against Pillow, torch and the published rule written down."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from block_pictures import make_picture  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from PIL import Image  # noqa: E402

from anymask.compat import ResizeLongestSide  # noqa: E402

SIZES = [(100, 160), (1200, 1800), (37, 301), (1024, 1024), (1024, 7), (5, 3)]


def published_size(height: int, width: int, side: int) -> tuple[int, int]:
    scale = side * 1.0 / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


@pytest.mark.parametrize("size", SIZES)
def test_images_are_pillow_s_bit_for_bit(size):
    image = make_picture(*size)
    height, width = published_size(*size, 1024)
    expected = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    resized = ResizeLongestSide(1024).apply_image(image)
    assert np.array_equal(resized, expected)
    assert resized.flags.writeable
    assert resized.flags.c_contiguous
    assert not np.shares_memory(resized, image)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_images_of_other_channels(channels):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, channels), dtype=np.uint8)
    expected = Image.fromarray(image[..., 0] if channels == 1 else image).resize(
        (64, 43), Image.Resampling.BILINEAR
    )
    assert np.array_equal(ResizeLongestSide(64).apply_image(image), np.asarray(expected))


def test_views_with_negative_strides():
    image = make_picture(64, 64)[..., ::-1]
    assert np.array_equal(ResizeLongestSide(64).apply_image(image), image)
    torch.as_tensor(ResizeLongestSide(64).apply_image(image))


@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.integers(16, 1024),
    st.integers(-50, 6000),
    st.integers(0, 6000),
)
def test_coordinates_are_the_published_ones(height, width, side, x, y):
    new_height, new_width = published_size(height, width, side)
    if min(new_height, new_width) == 0:  # where the published rule gives no pixels, ours gives one
        assert min(ResizeLongestSide.get_preprocess_shape(height, width, side)) == 1
        return
    transform = ResizeLongestSide(side)
    assert transform.get_preprocess_shape(height, width, side) == (new_height, new_width)
    points = np.array([[x, y], [y, x]])
    expected = np.stack([points[:, 0] * (new_width / width), points[:, 1] * (new_height / height)], axis=1)
    assert np.array_equal(transform.apply_coords(points, (height, width)), expected)
    boxes = transform.apply_boxes(points.reshape(4), (height, width))
    assert np.array_equal(boxes, expected.reshape(1, 4))
    in_torch = torch.tensor(points).to(torch.float)
    in_torch[..., 0] = in_torch[..., 0] * (new_width / width)
    in_torch[..., 1] = in_torch[..., 1] * (new_height / height)
    assert torch.equal(transform.apply_coords_torch(torch.tensor(points), (height, width)), in_torch)
    assert torch.equal(
        transform.apply_boxes_torch(torch.tensor(points).reshape(1, 4), (height, width)),
        in_torch.reshape(1, 4),
    )
    assert points.tolist() == [[x, y], [y, x]]  # nothing is changed in place


def test_images_in_torch_are_torch_s():
    image = torch.rand(2, 3, 30, 50)
    expected = torch.nn.functional.interpolate(
        image, (77, 128), mode="bilinear", align_corners=False, antialias=True
    )
    assert torch.equal(ResizeLongestSide(128).apply_image_torch(image), expected)
