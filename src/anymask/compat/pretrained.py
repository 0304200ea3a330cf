"""Folders in the habit of the hubs: ``config.json`` beside ``model.safetensors``, read and written offline.

A plain SAM is kept as transformers' `SamModel` reads it; a network of another family in our own safetensors format.
Nothing is ever fetched here.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from anymask.atomic import write_atomically
from anymask.compat.errors import CheckpointNotFoundError, need_torch
from anymask.compat.segmenter_model import SegmenterModel
from anymask.errors import ModelFormatError, NotFoundError
from anymask.predict.segmenter import Segmenter
from anymask.runtime.manifest import MANIFEST
from anymask.runtime.registry import load_backend, resolve

if TYPE_CHECKING:
    from anymask.compat.modeling import Sam
    from anymask.model.variants import SamConfig

__all__ = ["from_pretrained", "save_pretrained"]

CONFIG: Final = "config.json"
PREPROCESSOR: Final = "preprocessor_config.json"
WEIGHTS: Final = "model.safetensors"
OURS: Final = "anymask"
"""What ``config.json`` calls a network that transformers does not know."""

# section of transformers' config.json -> {its name: ours}
_SIZES: Final[Mapping[str, Mapping[str, str]]] = {
    "vision_config": {
        "hidden_size": "embed_dim",
        "num_hidden_layers": "depth",
        "num_attention_heads": "num_heads",
        "global_attn_indexes": "global_attn_indexes",
        "image_size": "image_size",
        "patch_size": "patch_size",
        "window_size": "window_size",
        "output_channels": "prompt_dim",
    },
    "prompt_encoder_config": {"mask_input_channels": "mask_channels"},
    "mask_decoder_config": {
        "num_hidden_layers": "decoder_depth",
        "num_attention_heads": "decoder_heads",
        "mlp_dim": "decoder_mlp_dim",
        "attention_downsample_rate": "attention_downsample_rate",
        "num_multimask_outputs": "num_multimask_outputs",
        "iou_head_depth": "iou_head_depth",
        "iou_head_hidden_dim": "iou_head_hidden_dim",
    },
}
# what our network cannot be built without
_FIXED: Final = {"qkv_bias": True, "use_abs_pos": True, "use_rel_pos": True, "hidden_act": "gelu"}


def from_pretrained(name_or_dir: str | os.PathLike[str]) -> Sam | SegmenterModel:
    """The model in a folder or file, or known by name; ready for `SamPredictor`.

    Args:
        name_or_dir: a folder with ``config.json`` and weights as transformers or `Sam.save_pretrained` write it, a
            folder of an exported model (with a manifest), a checkpoint, or a name that ``anymask models`` lists.

    Raises `CheckpointNotFoundError` for anything that is not here, an id of a hub among it, and `ModelError` or one of
    its children for a model that cannot be used.
    """
    path = Path(os.fspath(name_or_dir)).expanduser()
    if path.is_dir() and not (path / MANIFEST).is_file():
        return _from_folder(path)
    try:
        entry = resolve(name_or_dir)
    except NotFoundError as error:
        raise CheckpointNotFoundError(
            f"there is no local folder or model {os.fspath(name_or_dir)!r:.200}, and nothing is fetched here; "
            "get it first with `anymask models pull`, or give the folder"
        ) from error
    if entry.engine == "torch":
        return _from_weights(Path(str(entry.location)))
    return SegmenterModel(Segmenter(load_backend(name_or_dir)))


def _from_folder(folder: Path) -> Sam | SegmenterModel:
    """A folder with weights and, for transformers' names, the sizes in ``config.json``."""
    need_torch(f"the model in {str(folder)!r:.200}")
    from anymask.compat.modeling import Sam
    from anymask.model.checkpoints.convert import load_checkpoint
    from anymask.model.checkpoints.files import read_json

    if not (folder / CONFIG).is_file():
        raise ModelFormatError(
            f"{str(folder)!r:.200} is no model: give a folder with {CONFIG} and {WEIGHTS}, or with a {MANIFEST}"
        )
    config = read_json(folder / CONFIG)
    if config.get("model_type") == OURS:
        return _from_weights(folder / WEIGHTS)
    if config.get("model_type") != "sam":
        return _from_weights(folder)
    preprocessor = folder / PREPROCESSOR
    sizes = read_sizes(config, read_json(preprocessor) if preprocessor.is_file() else {}, folder.name)
    network, _ = load_checkpoint(folder, sizes)
    return Sam.of(network, sizes).eval()


def _from_weights(path: Path) -> Sam | SegmenterModel:
    """A checkpoint; a network with parts or preprocessing of its own runs behind a `Segmenter`."""
    need_torch(f"the model {path.name!r:.200}")
    from anymask.compat.build_sam import read_network
    from anymask.compat.modeling import Sam, has_published_parts
    from anymask.runtime.torch_backend import TorchBackend

    network, config = read_network(path)
    as_published = (config.resize, config.normalisation) == ("longest_side", "mean_std")
    if as_published and has_published_parts(network):
        return Sam.of(network, config).eval()
    return SegmenterModel(Segmenter(TorchBackend(network, config)))


def save_pretrained(model: Sam, folder: str | os.PathLike[str]) -> None:
    """See `Sam.save_pretrained`."""
    from safetensors.torch import save

    from anymask.model.checkpoints.transformers_names import to_transformers
    from anymask.model.families import infer_config, save_network
    from anymask.model.variants import SamConfig

    state_dict = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    config = infer_config(state_dict) if model.config is None else model.config
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    if type(config) is not SamConfig:
        save_network(model, config, target / WEIGHTS)
        _write_json(target / CONFIG, {"model_type": OURS, "family": config.family, **config.to_dict()})
        return
    # Clones, since safetensors refuses tensors that share memory and transformers names one matrix twice.
    tensors = {name: t.clone() for name, t in to_transformers(state_dict).items()}
    write_atomically(target / WEIGHTS, save(tensors, {"format": "pt"}))
    _write_json(target / PREPROCESSOR, _preprocessor(config))
    _write_json(target / CONFIG, write_sizes(config))


def read_sizes(config: Mapping[str, Any], preprocessor: Mapping[str, Any], name: str) -> SamConfig:
    """Our sizes of transformers' ``config.json``; what it leaves out is as in ViT-B, its own default.

    Raises `ModelFormatError` for a network that is no published SAM in kind, and `ModelError` for impossible sizes.
    """
    from anymask.model.variants import VIT_B

    sections = {section: config.get(section) or {} for section in _SIZES}
    if not all(isinstance(values, Mapping) for values in sections.values()):
        raise ModelFormatError(f"the {CONFIG} of {name!r:.200} is malformed: {list(_SIZES)} must be records")
    vision = sections["vision_config"]
    strange = [key for key, value in _FIXED.items() if vision.get(key, value) != value]
    if strange:
        raise ModelFormatError(
            f"the {CONFIG} of {name!r:.200} asks for another encoder than SAM's: {strange}"
        )
    sizes = VIT_B.to_dict() | {
        ours: sections[section][theirs]
        for section, names in _SIZES.items()
        for theirs, ours in names.items()
        if theirs in sections[section]
    }
    try:
        sizes["mlp_ratio"] = _mlp_ratio(vision, sizes["embed_dim"], VIT_B.mlp_ratio)
        for key, ours in (("image_mean", "pixel_mean"), ("image_std", "pixel_std")):
            if key in preprocessor:
                red, green, blue = (round(float(value) * 255, 6) for value in preprocessor[key])
                sizes[ours] = (red, green, blue)
        return type(VIT_B).from_dict(sizes | {"name": _published_name(sizes) or name})
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelFormatError(f"the configuration of {name!r:.200} is malformed: {error}") from error


def write_sizes(config: SamConfig) -> dict[str, Any]:
    """``config.json`` of transformers for our sizes."""
    sizes = config.to_dict()
    sections: dict[str, dict[str, Any]] = {
        section: {theirs: sizes[ours] for theirs, ours in names.items()} for section, names in _SIZES.items()
    }
    sections["vision_config"] |= {
        "mlp_ratio": config.mlp_ratio,
        "mlp_dim": int(config.embed_dim * config.mlp_ratio),
        "num_pos_feats": config.prompt_dim // 2,
    }
    sections["prompt_encoder_config"] |= {
        "hidden_size": config.prompt_dim,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "image_embedding_size": config.grid_size,
    }
    # The published decoder's norms have torch's epsilon; transformers' default is another.
    sections["mask_decoder_config"] |= {"hidden_size": config.prompt_dim, "layer_norm_eps": 1e-5}
    return {"architectures": ["SamModel"], "model_type": "sam", **sections}


def _preprocessor(config: SamConfig) -> dict[str, Any]:
    side, low_res = config.image_size, config.mask_input_size
    return {
        "image_processor_type": "SamImageProcessor",
        "processor_class": "SamProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"longest_edge": side},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in config.pixel_mean],
        "image_std": [value / 255 for value in config.pixel_std],
        "do_pad": True,
        "pad_size": {"height": side, "width": side},
        "mask_size": {"longest_edge": low_res},
        "mask_pad_size": {"height": low_res, "width": low_res},
    }


def _mlp_ratio(vision: Mapping[str, Any], embed_dim: int, usual: float) -> float:
    """Width of the encoder's perceptrons over that of its tokens; a stated width counts before a stated ratio."""
    if not vision.get("mlp_dim"):
        return float(vision.get("mlp_ratio", usual))
    width = int(vision["mlp_dim"])
    ratio = width / embed_dim
    return ratio if int(embed_dim * ratio) == width else math.nextafter(ratio, math.inf)


def _published_name(sizes: Mapping[str, Any]) -> str | None:
    """The name of the published encoder of these sizes."""
    from anymask.model.variants import VIT_B, VIT_H, VIT_L

    shape = (sizes["embed_dim"], sizes["depth"])
    return next(
        (known.name for known in (VIT_B, VIT_L, VIT_H) if (known.embed_dim, known.depth) == shape), None
    )


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    write_atomically(path, (json.dumps(data, indent=2) + "\n").encode())
