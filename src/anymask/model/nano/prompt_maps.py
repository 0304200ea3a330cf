"""Prompts as pictures and as pooled features: the dense half of nano's prompt encoder.

Every prompt becomes two things. A small stack of *maps* at stride 8 says where the prompt is, so that
convolutions can grow a region from a click or stay inside a box. A *pooled feature* says what lies under the
prompt, so that the mask tokens start from the clicked object's appearance.

All maps are outer products of a function of x and a function of y: two matrix products, no gather, which keeps
the exported graph to operators that every runtime (WebAssembly too) has.

Shape legend: B prompts, N points, H x W the map's grid, C feature channels.
Coordinates are in pixels of the padded network frame; labels are 1 foreground, 0 background, 2 and 3 the box's
top-left and bottom-right corner, -1 padding (the convention of the published ONNX decoder).
"""

from __future__ import annotations

import torch
from torch import Tensor

MAP_CHANNELS = 12
"""Two signs x three widths of click, box interior and its two coordinates, previous mask and two flags."""

CLICK_SIGMAS = (5.0, 20.0, 80.0)
"""Widths of the click maps in network pixels: the pixel, its neighbourhood, its surroundings."""

_BOX_SOFTNESS = 3.0
"""Width in network pixels of the ramp at a box's edge."""


def grid_centres(length: int, stride: int, like: Tensor) -> Tensor:
    """Return the pixel coordinate of each cell's centre along one axis, shape (length,)."""
    steps = torch.arange(length, device=like.device, dtype=like.dtype)
    return (steps + 0.5) * float(stride)


def split_prompts(points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Separate clicks from box corners.

    Args:
        points: (B, N, 2) x, y in network pixels.
        labels: (B, N) float, values of the legend above.

    Returns:
        foreground (B, N) and background (B, N) weights in {0, 1}, box (B, 4) as x0, y0, x1, y1, and has_box (B, 1).
    """
    foreground = (labels == 1).to(points.dtype)
    background = (labels == 0).to(points.dtype)
    corner_0 = (labels == 2).to(points.dtype).unsqueeze(-1)
    corner_1 = (labels == 3).to(points.dtype).unsqueeze(-1)
    box = torch.cat([(points * corner_0).sum(1), (points * corner_1).sum(1)], dim=-1)
    return foreground, background, box, corner_0.sum(1)


def _click_maps(points: Tensor, weight: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Gaussian bumps at the weighted points, one map per width: (B, len(CLICK_SIGMAS), H, W)."""
    square_x = (xs - points[..., 0:1]) ** 2  # (B, N, W)
    square_y = (ys - points[..., 1:2]) ** 2  # (B, N, H)
    maps = []
    for sigma in CLICK_SIGMAS:
        falloff_x = torch.exp(square_x * (-0.5 / sigma**2)) * weight.unsqueeze(-1)
        falloff_y = torch.exp(square_y * (-0.5 / sigma**2))
        bumps = falloff_y.unsqueeze(-1) * falloff_x.unsqueeze(-2)  # (B, N, H, W)
        maps.append(bumps.amax(dim=1))
    return torch.stack(maps, dim=1)


def _box_profiles(box: Tensor, xs: Tensor, ys: Tensor) -> tuple[Tensor, Tensor]:
    """Soft indicators of the box along x (B, W) and along y (B, H)."""
    along_x = torch.sigmoid((xs - box[:, 0:1]) / _BOX_SOFTNESS) * torch.sigmoid(
        (box[:, 2:3] - xs) / _BOX_SOFTNESS
    )
    along_y = torch.sigmoid((ys - box[:, 1:2]) / _BOX_SOFTNESS) * torch.sigmoid(
        (box[:, 3:4] - ys) / _BOX_SOFTNESS
    )
    return along_x, along_y


def _box_maps(box: Tensor, has_box: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Interior and centred coordinates (-2 to 2, +-1 at the edges), zero without a box: (B, 3, H, W)."""
    along_x, along_y = _box_profiles(box, xs, ys)
    inside = along_y.unsqueeze(-1) * along_x.unsqueeze(-2)
    half_w = ((box[:, 2:3] - box[:, 0:1]) / 2).clamp(min=1.0)
    half_h = ((box[:, 3:4] - box[:, 1:2]) / 2).clamp(min=1.0)
    u = ((xs - (box[:, 0:1] + box[:, 2:3]) / 2) / half_w).clamp(-2.0, 2.0)
    v = ((ys - (box[:, 1:2] + box[:, 3:4]) / 2) / half_h).clamp(-2.0, 2.0)
    ones = torch.ones_like(inside)
    maps = torch.stack([inside, ones * u.unsqueeze(-2), ones * v.unsqueeze(-1)], dim=1)
    return maps * has_box[:, :, None, None]


def prompt_maps(
    points: Tensor, labels: Tensor, mask_input: Tensor, has_mask: Tensor, height: int, width: int, stride: int
) -> Tensor:
    """Draw all prompts as maps.

    Args:
        points: (B, N, 2) x, y in network pixels.
        labels: (B, N) float.
        mask_input: (B, 1, 2H, 2W) logits of a previous mask (ignored where has_mask is 0).
        has_mask: (B,) float, 1 where mask_input counts.
        height, width: H and W of the maps.
        stride: network pixels per map cell.

    Returns:
        (B, MAP_CHANNELS, H, W) float.
    """
    foreground, background, box, has_box = split_prompts(points, labels)
    xs, ys = grid_centres(width, stride, points), grid_centres(height, stride, points)
    mask_flag = has_mask.reshape(-1, 1, 1, 1)
    previous = torch.nn.functional.avg_pool2d(torch.tanh(mask_input * 0.25), 2) * mask_flag
    ones = torch.ones_like(previous)
    return torch.cat(
        [
            _click_maps(points, foreground, xs, ys),
            _click_maps(points, background, xs, ys),
            _box_maps(box, has_box, xs, ys),
            previous,
            ones * mask_flag,
            ones * has_box[:, :, None, None],
        ],
        dim=1,
    )


def _weighted_mean(features: Tensor, along_y: Tensor, along_x: Tensor) -> Tensor:
    """Mean of features (1 or B, C, H, W) under the outer products of (B, N, H) and (B, N, W): (B, N, C)."""
    rows = torch.matmul(features, along_x.transpose(1, 2).unsqueeze(1))  # (B, C, H, N)
    total = (rows * along_y.transpose(1, 2).unsqueeze(1)).sum(2)  # (B, C, N)
    norm = along_x.sum(-1) * along_y.sum(-1)  # (B, N)
    return total.transpose(1, 2) / norm.clamp(min=1e-6).unsqueeze(-1)


def features_under_points(features: Tensor, points: Tensor, stride: int) -> Tensor:
    """Local mean of the features around each point (triangle of one stride's half-width): (B, N, C)."""
    height, width = features.shape[-2], features.shape[-1]
    xs, ys = grid_centres(width, stride, points), grid_centres(height, stride, points)
    along_x = torch.relu(1.0 - (xs - points[..., 0:1]).abs() / stride)
    along_y = torch.relu(1.0 - (ys - points[..., 1:2]).abs() / stride)
    return _weighted_mean(features, along_y, along_x)


def features_under_box(features: Tensor, box: Tensor, stride: int) -> Tensor:
    """Mean of the features inside each box (B, 4): (B, 1, C)."""
    height, width = features.shape[-2], features.shape[-1]
    xs, ys = grid_centres(width, stride, box), grid_centres(height, stride, box)
    along_x, along_y = _box_profiles(box, xs, ys)
    return _weighted_mean(features, along_y.unsqueeze(1), along_x.unsqueeze(1))
