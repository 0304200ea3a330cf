"""A nano of someone's own: weights that say their sizes, loaded, converted and exported like any other checkpoint."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from small_nano import SMALL_NANO, seeded_nano  # noqa: E402

import anymask  # noqa: E402
from anymask.errors import ModelError, ModelFormatError  # noqa: E402
from anymask.model.checkpoints.convert import convert_checkpoint  # noqa: E402
from anymask.model.export.network import export_network  # noqa: E402
from anymask.model.export.published_decoder import export_published_decoder  # noqa: E402
from anymask.model.families import (  # noqa: E402
    build_network,
    family_of,
    infer_config,
    load_network,
    save_network,
    sizes_fact,
)
from anymask.model.nano.encoder import NanoEncoderConfig  # noqa: E402
from anymask.model.nano.network import KNOWN_BLOCKS, Nano, NanoConfig  # noqa: E402
from anymask.model.network import NetworkConfig  # noqa: E402
from anymask.model.weights import save_weights  # noqa: E402
from anymask.runtime.onnx_backend import OnnxBackend  # noqa: E402
from anymask.runtime.torch_backend import TorchBackend  # noqa: E402


def on_meta(config: NanoConfig) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return build_network(config).state_dict()


def test_it_is_a_family_with_sizes_that_survive_json() -> None:
    assert isinstance(SMALL_NANO, NetworkConfig)
    assert family_of(SMALL_NANO).parse(json.loads(json.dumps(SMALL_NANO.to_dict()))) == SMALL_NANO


@pytest.mark.parametrize("blocks", KNOWN_BLOCKS)
def test_keys_tell_the_nanos_that_were_trained_here(blocks: tuple[int, int, int, int]) -> None:
    """Their files hold no sizes; the frame is the recipes'."""
    config = NanoConfig(448, NanoEncoderConfig(blocks=blocks))
    assert infer_config(on_meta(config)) == config


def test_keys_of_another_nano_do_not_tell_its_heads() -> None:
    with pytest.raises(ModelFormatError, match=r"nano of \(1, 1, 1, 1\) blocks.*ship"):
        infer_config(on_meta(SMALL_NANO))


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (None, {"long_side": 0}, "above 0"),
        (None, {"long_side": "448"}, "above 0"),
        (None, {"colour": 3}, "long_side, encoder and decoder"),
        ("encoder", {"heads": 5}, "multiple of heads"),
        ("encoder", {"channels": [8, 16, 24]}, "4 entries"),
        ("encoder", {"kernel": 4}, "odd"),
        ("encoder", {"colour": 3}, "unknown"),
        ("decoder", {"heads": 3}, "twice the decoder's heads"),
        ("decoder", {"depth": -1}, "above 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(part: str | None, change: dict, message: str) -> None:
    data = json.loads(json.dumps(SMALL_NANO.to_dict()))
    (data if part is None else data[part]).update(change)
    with pytest.raises(ModelError, match=message):
        NanoConfig.from_dict(data)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_weights_and_what_is_converted_from_them_run_by_their_path(
    stored: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same masks as from its graphs, whose engine is another."""
    monkeypatch.setenv("ANYMASK_CACHE_DIR", str(tmp_path / "cache"))
    nano = seeded_nano()
    state = {
        key: value.to(stored) if value.is_floating_point() else value
        for key, value in nano.state_dict().items()
    }
    nano.load_state_dict(state)
    save_weights(state, tmp_path / "own.safetensors", sizes_fact(nano.config) | {"recipe": "own"})
    convert_checkpoint(tmp_path / "own.safetensors", tmp_path / "kept.safetensors")
    export_network(*load_network(tmp_path / "kept.safetensors"), tmp_path / "graphs", "own")
    assert OnnxBackend(tmp_path / "graphs").spec.name == "own"
    picture = np.random.default_rng(3).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    expected = anymask.load(tmp_path / "graphs").segment(picture, points=[(60, 40)])
    assert float(np.abs(expected[0].low_res_logits).max()) > 0.5, "the comparison would not see a fault"
    for name in ("own", "kept"):
        segmenter = anymask.load(tmp_path / f"{name}.safetensors")
        assert isinstance(segmenter.backend, TorchBackend)
        assert segmenter.spec.long_side == SMALL_NANO.long_side
        for ours, theirs in zip(segmenter.segment(picture, points=[(60, 40)]), expected, strict=True):
            assert abs(ours.score - theirs.score) <= 1e-4
            assert np.abs(ours.low_res_logits - theirs.low_res_logits).max() <= 1e-3


def test_the_sizes_in_the_file_are_held_against_its_keys(tmp_path: Path) -> None:
    nano = seeded_nano()
    other = dataclasses.replace(SMALL_NANO, encoder=dataclasses.replace(SMALL_NANO.encoder, stem_channels=9))
    save_network(nano, other, tmp_path / "own.safetensors")
    with pytest.raises(anymask.AnymaskError, match=r"misshapen: image_encoder\.stem"):
        load_network(tmp_path / "own.safetensors")


def test_it_has_no_published_decoder(tmp_path: Path) -> None:
    nano: Nano = seeded_nano()
    with pytest.raises(ModelError, match="published decoder's contract"):
        export_published_decoder(nano, nano.config, tmp_path / "decoder.onnx")  # type: ignore[arg-type]
