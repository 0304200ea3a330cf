"""The door for foreign checkpoints: what may come in, and that nothing in a file is run."""

from __future__ import annotations

import builtins
import collections
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
import safetensors.torch  # noqa: E402

from anymask.errors import ModelFormatError, WeightsError  # noqa: E402
from anymask.model.checkpoints.convert import (  # noqa: E402
    convert_checkpoint,
    load_checkpoint,
    read_checkpoint,
)
from anymask.model.checkpoints.transformers_names import from_transformers, to_transformers  # noqa: E402
from anymask.model.families import infer_config, load_network  # noqa: E402
from anymask.model.sam.network import build_sam  # noqa: E402
from anymask.model.variants import TINY_TEST, VARIANTS  # noqa: E402
from anymask.model.weights import file_sha256  # noqa: E402


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path, how: str) -> None:
        self.path, self.how = str(path), how

    def __reduce__(self):
        return {
            "open": (open, (self.path, "w")),
            "system": (os.system, (f"touch '{self.path}'",)),
            "exec": (builtins.exec, (f"open({self.path!r}, 'w').close()",)),
            "eval": (builtins.eval, (f"open({self.path!r}, 'w')",)),
            "getattr": (Path(self.path).touch, ()),
            "popen": (subprocess.Popen, (["touch", self.path],)),
            "mkdir": (os.mkdir, (self.path,)),
        }[self.how]


HOWS = ("open", "system", "exec", "eval", "getattr", "popen", "mkdir")


def _weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    return build_sam(TINY_TEST).state_dict()


def _write(payload: object, path: Path, layout: str) -> None:
    if layout == "zip":
        torch.save(payload, path)
    elif layout == "legacy":
        torch.save(payload, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(payload, protocol=2))


@pytest.mark.parametrize("layout", ["zip", "legacy", "bare pickle"])
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("place", ["alone", "among weights", "in a wrapper", "as a key's value twice"])
def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, layout, how, place, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # the way round that torch itself offers
    flag, path = tmp_path / "canary", tmp_path / "model.pth"
    canary = Canary(flag, how)
    payload = {
        "alone": canary,
        "among weights": {"image_encoder.pos_embed": torch.zeros(2), "extra": canary},
        "in a wrapper": {"model": {"w": torch.zeros(1)}, "optimizer": canary},
        "as a key's value twice": collections.OrderedDict(a=canary, b=canary),
    }[place]
    _write(payload, path, layout)
    assert not flag.exists()
    with pytest.raises(WeightsError, match=r"refused.*nothing in it was run"):
        load_checkpoint(path)
    assert not flag.exists()
    target = tmp_path / "out.safetensors"
    with pytest.raises(WeightsError):
        convert_checkpoint(path, target)
    assert not flag.exists()
    assert not target.exists()


def test_the_canary_sings_where_nothing_guards(tmp_path):
    """The control: these payloads are real, each of them acts in an ordinary unpickler."""
    for how in HOWS:
        flag = tmp_path / how
        result = pickle.loads(pickle.dumps(Canary(flag, how)))
        if how == "popen":
            result.wait()
        assert flag.exists(), how


@pytest.mark.filterwarnings("ignore:.*TorchScript archive")
def test_a_torchscript_archive_is_refused(tmp_path):
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("script/code/x.py", "raise SystemExit")
        archive.writestr("script/constants.pkl", b"\x80\x02}.")
        archive.writestr("script/data.pkl", b"\x80\x02}.")
        archive.writestr("script/version", "3\n")
    with pytest.raises(WeightsError, match="refused"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content", [b"", b"\x80", b"PK\x03\x04 not a zip", b"<html>404</html>", os.urandom(500)]
)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_damaged_files_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        load_checkpoint(tmp_path / name)


def test_other_kinds_and_absent_files_are_refused(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"x")
    with pytest.raises(ModelFormatError, match=r"\.pth"):
        load_checkpoint(tmp_path / "a.onnx")
    with pytest.raises(WeightsError, match="No such file"):
        load_checkpoint(tmp_path / "absent.pth")


@pytest.mark.parametrize(
    "payload",
    [
        [torch.zeros(1)],
        torch.zeros(3),
        {"w": torch.zeros(1), "epoch": 3},
        {1: torch.zeros(1)},
        {"w": torch.zeros(2, 2).to_sparse()},
        {"w": torch.zeros(2, device="meta")},
        {"w": {"deep": torch.zeros(1)}},
    ],
)
def test_only_dense_named_tensors_come_in(tmp_path, payload):
    torch.save(payload, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"a\.pth"):
        read_checkpoint(tmp_path / "a.pth")


def test_a_tensor_of_pretended_size_costs_no_memory(tmp_path):
    """A stride of zero announces 4 TB in a few bytes; the shape is refused before anything is read."""
    weights = _weights()
    weights["image_encoder.pos_embed"] = torch.zeros(1).expand(10**6, 10**6)
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"misshapen: image_encoder.pos_embed is \(1000000, 1000000\)"):
        load_checkpoint(tmp_path / "a.pth", TINY_TEST)


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "module"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_published_layouts_load(tmp_path, wrapper, suffix):
    weights = _weights()
    payload = {f"module.{n}": t for n, t in weights.items()} if wrapper == "module" else weights
    torch.save({wrapper: payload} if wrapper in ("model", "state_dict") else payload, tmp_path / f"a{suffix}")
    sam, config = load_checkpoint(tmp_path / f"a{suffix}", TINY_TEST)
    assert config is TINY_TEST
    assert not sam.training
    assert all(torch.equal(tensor, weights[name]) for name, tensor in sam.state_dict().items())


@pytest.mark.parametrize("names", ["published", "transformers"])
def test_conversion_keeps_every_value_and_says_where_from(tmp_path, names):
    weights = _weights()
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    foreign = to_transformers(weights) if names == "transformers" else weights
    foreign.pop("shared_image_embedding.positional_embedding", None)  # tied: files hold one of the two
    safetensors.torch.save_file(foreign, source)
    digest = convert_checkpoint(source, target, TINY_TEST)
    sam, config = load_network(target, digest)
    assert config == TINY_TEST
    assert all(torch.equal(tensor, weights[name]) for name, tensor in sam.state_dict().items())
    with safetensors.safe_open(target, "pt") as file:
        assert json.loads(file.metadata()["anymask"])["facts"]["source_sha256"] == file_sha256(source)


def test_tied_positions_that_differ_are_refused():
    foreign = to_transformers(_weights())
    foreign["shared_image_embedding.positional_embedding"] = torch.zeros(2, 16)
    with pytest.raises(WeightsError, match="differ"):
        from_transformers(foreign)


def test_wrong_keys_of_a_foreign_file_are_all_named(tmp_path):
    weights = _weights()
    del weights["mask_decoder.iou_token.weight"]
    weights["adapter.weight"] = torch.zeros(1)
    weights["prompt_encoder.no_mask_embed.weight"] = torch.zeros(1, 3)
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(WeightsError) as caught:
        convert_checkpoint(tmp_path / "a.pth", tmp_path / "b.safetensors", TINY_TEST)
    for text in (
        "missing: mask_decoder.iou_token.weight",
        "unexpected: adapter.weight",
        "misshapen: prompt_encoder.no_mask_embed.weight is (1, 3), should be (1, 32)",
    ):
        assert text in str(caught.value)
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
@pytest.mark.parametrize("names", ["published", "transformers"])
def test_the_variant_is_seen_in_the_keys(name, names):
    with torch.device("meta"):
        weights = build_sam(VARIANTS[name]).state_dict()
    if names == "transformers":
        positions = "prompt_encoder.shared_embedding.positional_embedding"
        weights = from_transformers({n: t for n, t in to_transformers(weights).items() if n != positions})
    assert infer_config(weights) == VARIANTS[name]


def test_other_image_sizes_are_inferred_and_strangers_refused():
    with torch.device("meta"):
        weights = build_sam(VARIANTS["vit_b"]).state_dict()
    weights["image_encoder.pos_embed"] = torch.zeros(1, 16, 16, 768, device="meta")
    assert infer_config(weights).image_size == 256
    weights["image_encoder.pos_embed"] = torch.zeros(1, 16, 16, 384, device="meta")
    with pytest.raises(ModelFormatError, match="12 blocks of 384"):
        infer_config(weights)
    with pytest.raises(ModelFormatError, match="no checkpoint of a known family"):
        infer_config({"conv.weight": torch.zeros(1)})


def test_importing_the_door_needs_no_transformers():
    code = "import sys, anymask.model.checkpoints.convert; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
