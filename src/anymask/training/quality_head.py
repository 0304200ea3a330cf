"""A new quality head for a trained nano, all else frozen: its answers to many prompts are judged once, then fitted.

In the training loop the head learns beside the masks, from answers that change under it, at an eighth of the loss. Here
the answers stand still: what is known of each (`anymask.model.nano.quality`) and its true IoU are kept in memory, a
kilobyte an answer, and a head sees them many times within minutes. Pictures are seen whole, as in use, at the
network's frame; those that the recipes hold back are never drawn.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anymask.data.sa1b import open_shards
from anymask.errors import WeightsError
from anymask.model.families import load_network, sizes_fact
from anymask.model.nano.encoder import count_parameters, normalise
from anymask.model.nano.network import PIXEL_MEAN, PIXEL_STD, Nano
from anymask.model.weights import load_strict, read_weights, save_weights

from .augmentation import LOW_RES_STRIDE
from .interaction import first_prompt, next_prompt
from .losses import mask_iou
from .samples import Batch, BatchSource
from .sampling_config import SamplingConfig

LATEST = 2
"""The version of the head that is taught."""


@dataclass(frozen=True)
class HeadConfig:
    """How a head is taught. Recipes are values of this type.

    Attributes:
        name: what the weights will call their recipe.
        weights: file of the nano that gets the head.
        long_side: the frame's longer side in pixels, a multiple of 32.
        pictures: how many are drawn.
        central_share: share of first clicks that go to the object's middle.
        clicks: rounds of clicking each mask; its box is asked beside.
        epochs: how often the fit sees each prompt.
        batch: prompts of a step of the fit.
        dropout: share of hidden units that a step of the fit leaves out.
    """

    name: str
    weights: str
    long_side: int
    pictures: int = 2000
    central_share: float = 0.65
    clicks: int = 3
    epochs: int = 16
    batch: int = 512
    lr: float = 1e-3
    weight_decay: float = 0.05
    dropout: float = 0.25
    seed: int = 0
    sampling: SamplingConfig = field(
        default_factory=lambda: SamplingConfig(images=4, masks=5, scale=(0.9, 1.1), hold_back=25)
    )

    def views(self) -> SamplingConfig:
        """``sampling`` at frames of ``long_side``: square, wide and tall."""
        short = round(self.long_side * 0.75 / 32) * 32
        sizes = ((self.long_side,) * 2, (short, self.long_side), (self.long_side, short))
        return replace(self.sampling, phases=((0, sizes),))


@dataclass(frozen=True)
class Judged:
    """Answers and how good they were: clues (P, 4, clues), IoU with the truth (P, 4), of P prompts; float32."""

    clues: Tensor
    iou: Tensor


@torch.no_grad()
def judge(model: Nano, batches: Iterable[Batch], config: HeadConfig) -> Judged:
    """Ask a frozen nano for every mask of the batches: clicks in rounds, each where the answer is wrong, and a box.

    Raises:
        ValueError: no batch is given.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(config.seed)
    clues: list[Tensor] = []
    ious: list[Tensor] = []
    for batch in (batch.to(device) for batch in batches):
        features = model.encode(normalise(batch.pixels, PIXEL_MEAN, PIXEL_STD))
        for image, coverage in enumerate(batch.coverage):
            mine = {name: value[image : image + 1] for name, value in features.items()}
            truth = (coverage.unsqueeze(1) > 127).float()
            truth = truth[truth.sum((1, 2, 3)) > 0]
            if len(truth) == 0:
                continue
            box = first_prompt(truth, LOW_RES_STRIDE, 1.0, 0.0, generator)
            state = first_prompt(truth, LOW_RES_STRIDE, 0.0, config.central_share, generator)
            for turn in range(-1, config.clicks):
                asked = box if turn < 0 else state
                logits, known = model.mask_decoder.answers(
                    mine, asked.points, asked.labels, asked.mask_input, asked.has_mask
                )
                clues.append(known.half().cpu())
                ious.append(mask_iou(logits, truth).cpu())
                if 0 <= turn < config.clicks - 1:
                    state = next_prompt(state, logits[:, :1], truth, LOW_RES_STRIDE, True, generator)
    if not clues:
        raise ValueError("no batch has a mask to ask for")
    return Judged(torch.cat(clues).float(), torch.cat(ious).float())


def fit(head: nn.Sequential, judged: Judged, config: HeadConfig) -> float:
    """Teach a head of fresh weights, in place, by squared error; returns the last epoch's mean.

    Clues are brought to one scale for the fit; the first layer takes it over at the end.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for layer in head:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        mean = judged.clues.mean((0, 1))
        spread = judged.clues.flatten(0, 1).std(0) + 1e-3
        optimiser = torch.optim.AdamW(head.parameters(), config.lr, weight_decay=config.weight_decay)
        steps = steps_of(config, len(judged.iou))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, steps, pct_start=0.1)
        errors = []
        for chosen in _draws(len(judged.iou), config.batch, steps):
            x = (judged.clues[chosen] - mean) / spread
            for layer in head:
                x = layer(x)
                if not isinstance(layer, nn.Linear):
                    x = F.dropout(x, config.dropout)
            loss = F.mse_loss(torch.sigmoid(x.squeeze(-1)), judged.iou[chosen])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            errors.append(float(loss.detach()))
    first = head[0]
    assert isinstance(first, nn.Linear)
    with torch.no_grad():
        first.weight.div_(spread)
        first.bias.sub_(first.weight @ mean)
    last = errors[-max(1, steps // config.epochs) :]
    return sum(last) / len(last)


def steps_of(config: HeadConfig, prompts: int) -> int:
    """Steps of the fit to so many prompts."""
    return max(2, config.epochs * prompts // config.batch)


def _draws(count: int, batch: int, steps: int) -> Iterator[Tensor]:
    """Numbers of the prompts of every step: shuffled anew whenever all were seen."""
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(order) < min(batch, count):
            order = torch.cat([order, torch.randperm(count)])
        yield order[:batch]
        order = order[batch:]


def with_new_head(model: Nano, long_side: int) -> Nano:
    """A copy for a frame of ``long_side``, with a fresh quality head of version `LATEST`; all else is the same."""
    decoder = replace(model.config.decoder, quality_version=LATEST)
    new = Nano(replace(model.config, long_side=long_side, decoder=decoder))
    head = {f"mask_decoder.quality.{k}": v for k, v in new.mask_decoder.quality.state_dict().items()}
    kept = {k: v for k, v in model.state_dict().items() if not k.startswith("mask_decoder.quality.")}
    load_strict(new, {**kept, **head}, origin="the model with its new head")
    return new.eval().requires_grad_(False)


def teach(config: HeadConfig, data: str | Path, out: Path, device: str = "cpu") -> dict[str, str]:
    """Read a nano, teach it a new head on shards of training data, and write it; returns what the file tells of it.

    The file holds half-precision weights, the sizes, and the facts that `anymask.training.ship` puts in a manifest.

    Raises:
        WeightsError: the weights are damaged or another network's.
        DatasetError: ``data`` holds no shards.
    """
    network, _ = load_network(config.weights)
    if not isinstance(network, Nano):
        raise WeightsError(f"only nano has such a quality head; {config.weights!r} is another network")
    shards = open_shards(data)
    start = time.monotonic()
    model = with_new_head(network, config.long_side).to(device)
    views = config.views()
    names = [shard.source for shard in shards]
    source = BatchSource(shards, names, views, config.seed)
    judged = judge(model, (source[i] for i in range(-(-config.pictures // views.images))), config)
    error = fit(model.mask_decoder.quality.cpu().requires_grad_(True), judged, config)
    seen = set(read_weights(config.weights)[1].get("sources", "").split()) | set(names)
    facts = {
        "recipe": config.name,
        "steps": str(steps_of(config, len(judged.iou))),
        "hours": f"{(time.monotonic() - start) / 3600:.2f}",
        "parameters": str(count_parameters(model)),
        "sources": " ".join(sorted(seen)),
        "prompts": str(len(judged.iou)),
        "squared_error": f"{error:.4f}",
        **sizes_fact(model.config),
    }
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(tensors, out, facts)
    return facts
