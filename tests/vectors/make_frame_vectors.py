"""Write frame.json: what every implementation of the frame must give, computed without the package.

    python tests/vectors/make_frame_vectors.py > tests/vectors/frame.json

Sizes follow the published text (`ResizeLongestSide.get_preprocess_shape`, `generate_crop_boxes` of
segment_anything) in plain floating point, with one stated difference: no side shrinks to 0.  Coordinates are
exact fractions.  Upsampled logits are exact fractions too: bilinear with half-pixel centres written as the
definition, once to the network size and once to the image size.  Stretched frames ("stretched", their logits in
"stretched_logits") are bicubic with a = -3/4 in one step, as `EfficientSam.predict_masks` asks of torch.
"""

import itertools
import json
import math
from fractions import Fraction

SIZES = [
    (1, 1),
    (480, 640),
    (1500, 2250),
    (1365, 2048),
    (683, 1024),
    (1024, 1024),
    (1, 5000),
    (5000, 1),
    (3, 4096),
    (65535, 3),
    (799, 533),
    (7, 5),
    (2000, 2001),
]
PLANS = [(1024, "square"), (1024, 32), (512, 32), (256, "square"), (100, 7)]


def resized(height, width, long_side):
    scale = long_side * 1.0 / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def padded(size, long_side, pad):
    if pad == "square":
        return long_side, long_side
    return tuple(math.ceil(Fraction(side, pad)) * pad for side in size)


def frame_case(size, long_side, pad):
    height, width = size
    new_height, new_width = resized(height, width, long_side)
    corners = [(0, 0), (width, height), (width / 2, height / 4), (0.5, 0.5), (width - 0.25, 0.125)]
    points = [
        [float(Fraction(x) * new_width / width), float(Fraction(y) * new_height / height)] for x, y in corners
    ]
    return {
        "image_size": [height, width],
        "long_side": long_side,
        "pad": pad,
        "resized_size": [new_height, new_width],
        "network_size": list(padded((new_height, new_width), long_side, pad)),
        "points_image": [list(map(float, corner)) for corner in corners],
        "points_network": points,
    }


def crops_case(size, layers, ratio):
    height, width = size
    boxes, levels = [[0, 0, width, height]], [0]
    for layer in range(layers):
        per_side = 2 ** (layer + 1)
        overlap = int(ratio * min(size) * (2 / per_side))
        crop_width = math.ceil((overlap * (per_side - 1) + width) / per_side)
        crop_height = math.ceil((overlap * (per_side - 1) + height) / per_side)
        lefts = [int((crop_width - overlap) * i) for i in range(per_side)]
        tops = [int((crop_height - overlap) * i) for i in range(per_side)]
        for x0, y0 in itertools.product(lefts, tops):
            if x0 < width and y0 < height:
                boxes.append([x0, y0, min(x0 + crop_width, width), min(y0 + crop_height, height)])
                levels.append(layer + 1)
    return {
        "image_size": [height, width],
        "n_layers": layers,
        "overlap_ratio": ratio,
        "boxes": boxes,
        "layers": levels,
    }


def bilinear_axis(count, new_count):
    """For each new cell: the two old cells it lies between and the share of the second."""
    rows = []
    for index in range(new_count):
        at = max(Fraction(0), (Fraction(2 * index + 1, 2)) * count / new_count - Fraction(1, 2))
        low = min(int(at), count - 1)
        rows.append((low, min(low + 1, count - 1), at - low))
    return rows


def bilinear(grid, height, width):
    ys, xs = bilinear_axis(len(grid), height), bilinear_axis(len(grid[0]), width)
    return [
        [
            (grid[a][c] * (1 - u) + grid[a][d] * u) * (1 - v) + (grid[b][c] * (1 - u) + grid[b][d] * u) * v
            for c, d, u in xs
        ]
        for a, b, v in ys
    ]


def logits_case(size, long_side, pad, stride):
    height, width = size
    new_height, new_width = resized(height, width, long_side)
    network_height, network_width = padded((new_height, new_width), long_side, pad)
    rows, columns = network_height // stride, network_width // stride
    low_res = [[Fraction((r * 7 + c * 5 + r * c) % 17 - 8) for c in range(columns)] for r in range(rows)]
    network = bilinear(low_res, network_height, network_width)
    image = bilinear([row[:new_width] for row in network[:new_height]], height, width)
    return {
        "image_size": [height, width],
        "long_side": long_side,
        "pad": pad,
        "low_res": [[float(v) for v in row] for row in low_res],
        "image": [[round(float(v), 9) for v in row] for row in image],
    }


def stretched_case(size, side):
    height, width = size
    corners = [(0, 0), (width, height), (width / 2, height / 4), (0.5, 0.5), (width - 0.25, 0.125)]
    return {
        "image_size": [height, width],
        "long_side": side,
        "points_image": [list(map(float, corner)) for corner in corners],
        "points_network": [
            [float(Fraction(x) * side / width), float(Fraction(y) * side / height)] for x, y in corners
        ],
    }


def cubic_weight(distance):
    a, x = Fraction(-3, 4), abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else Fraction(0)


def cubic_axis(count, new_count):
    """For each new cell: four old cells around it, the edge ones repeated, and their shares."""
    rows = []
    for index in range(new_count):
        at = Fraction(2 * index + 1, 2) * count / new_count - Fraction(1, 2)
        first = math.floor(at) - 1
        rows.append([(min(max(i, 0), count - 1), cubic_weight(at - i)) for i in range(first, first + 4)])
    return rows


def stretched_logits_case(size, side, stride):
    height, width = size
    cells = side // stride
    low_res = [[Fraction((r * 7 + c * 5 + r * c) % 17 - 8) for c in range(cells)] for r in range(cells)]
    ys, xs = cubic_axis(cells, height), cubic_axis(cells, width)
    image = [[sum(low_res[r][c] * v * u for r, v in y for c, u in x) for x in xs] for y in ys]
    return {
        "image_size": [height, width],
        "long_side": side,
        "low_res": [[float(v) for v in row] for row in low_res],
        "image": [[round(float(v), 9) for v in row] for row in image],
    }


def main():
    vectors = {
        "frames": [frame_case(size, *plan) for size in SIZES for plan in PLANS],
        "crops": [
            crops_case(size, layers, ratio)
            for size in SIZES[:12]
            if min(size) > 0
            for layers, ratio in [(0, 512 / 1500), (1, 512 / 1500), (2, 0.25)]
        ],
        "logits": [
            logits_case((10, 13), 32, "square", 4),
            logits_case((40, 21), 32, "square", 4),
            logits_case((10, 13), 32, 8, 4),
            logits_case((3, 29), 16, 8, 2),
            logits_case((32, 32), 32, "square", 8),
        ],
        "stretched": [stretched_case(size, side) for size in SIZES for side in (1024, 100)],
        "stretched_logits": [
            stretched_logits_case((10, 13), 32, 4),
            stretched_logits_case((40, 21), 32, 4),
            stretched_logits_case((3, 5), 32, 4),
        ],
    }
    print(json.dumps(vectors, separators=(",", ":")).replace('},{"image_size"', '},\n{"image_size"'))


if __name__ == "__main__":
    main()
