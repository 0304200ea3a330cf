"""Names and paths lead to models, and everything else to a sentence that helps."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from anymask.errors import AnymaskError, ModelError, ModelFormatError, NotFoundError, WeightsError
from anymask.model.families import save_network
from anymask.model.sam.network import Sam
from anymask.model.variants import TINY_TEST
from anymask.model.weights import save_weights
from anymask.runtime.onnx_backend import OnnxBackend
from anymask.runtime.registry import known_models, load_backend, resolve
from anymask.runtime.torch_backend import TorchBackend
from anymask.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A cache folder of its own."""
    return Settings(cache_dir=tmp_path / "cache", threads=1)


@pytest.fixture(scope="module")
def sam_file(random_sam: Sam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights with their sizes."""
    path = tmp_path_factory.mktemp("sam") / "tiny.safetensors"
    save_network(random_sam, TINY_TEST, path)
    return path


def test_a_folder_and_its_manifest_are_one_model(nano_folder: Path, settings: Settings) -> None:
    for path in (nano_folder, str(nano_folder), nano_folder / "manifest.json"):
        backend = load_backend(path, settings)
        assert isinstance(backend, OnnxBackend)
        assert backend.spec.name == "small"


def test_weights_are_a_torch_model(sam_file: Path, settings: Settings) -> None:
    backend = load_backend(str(sam_file), settings)
    assert isinstance(backend, TorchBackend)
    assert (backend.spec.name, backend.spec.long_side, backend.spec.pad) == ("tiny_test", 128, "square")


def test_installed_models_have_names(nano_folder: Path, sam_file: Path, settings: Settings) -> None:
    models = settings.cache_dir / "models"
    models.mkdir(parents=True)
    shutil.copytree(nano_folder, models / "mine")
    shutil.copy(sam_file, models / "vit_tiny.safetensors")
    (models / "notes.txt").write_text("no model")
    (models / "half").mkdir()
    names = {entry.name: (entry.engine, entry.origin) for entry in known_models(settings)}
    assert names["mine"] == ("onnx", "installed")
    assert names["vit_tiny"] == ("torch", "installed")
    assert not {"notes", "notes.txt", "half"} & set(names)
    assert load_backend("mine", settings).spec.name == "small"
    assert load_backend("vit_tiny", settings).spec.name == "tiny_test"


def test_an_unknown_name_lists_the_known_ones(nano_folder: Path, settings: Settings) -> None:
    shutil.copytree(nano_folder, settings.cache_dir / "models" / "mine")
    with pytest.raises(NotFoundError, match=r"'nan0'.*mine"):
        resolve("nan0", settings)


@pytest.mark.parametrize(
    "name", ["", " ", "vit_z", "./gone", "gone/model.safetensors", "gone.pth", "~/gone", "a\0/b"]
)
def test_what_is_not_there(
    name: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError):
        load_backend(name, settings)


def test_a_bare_name_never_is_a_path(
    nano_folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A folder in the working directory cannot take the place of a model's name."""
    shutil.copytree(nano_folder, tmp_path / "vit_z")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError):
        resolve("vit_z", settings)
    assert resolve("./vit_z", settings).origin == "path"


def test_what_is_no_model(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    for path in (tmp_path, tmp_path / "photo.jpg"):
        with pytest.raises(ModelFormatError, match="is no model"):
            load_backend(path, settings)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.pt", "a.bin"])
@pytest.mark.parametrize("data", [b"", b"junk", b"PK\x03\x04" + b"\0" * 50])
def test_weights_that_are_none(name: str, data: bytes, tmp_path: Path, settings: Settings) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(WeightsError) as error:
        load_backend(tmp_path / name, settings)
    assert "Traceback" not in str(error.value)


def test_damaged_weights(sam_file: Path, tmp_path: Path, settings: Settings) -> None:
    whole = sam_file.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 25):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        (tmp_path / "bad.safetensors").write_bytes(damaged)
        with pytest.raises(ModelError):
            load_backend(tmp_path / "bad.safetensors", settings)


def test_weights_without_their_sizes(random_sam: Sam, tmp_path: Path, settings: Settings) -> None:
    save_weights(random_sam, tmp_path / "bare.safetensors")
    with pytest.raises(ModelFormatError, match="no published SAM has 2 blocks of 24 channels"):
        load_backend(tmp_path / "bare.safetensors", settings)


def test_the_engine_must_fit_the_file(nano_folder: Path, sam_file: Path, settings: Settings) -> None:
    for path, engine in ((nano_folder, "torch"), (sam_file, "onnx"), (sam_file, "openvino")):
        with pytest.raises(ModelError, match=engine):
            load_backend(path, settings, engine)
    with pytest.raises(ModelError, match="torch"):
        load_backend(nano_folder, Settings(backend="torch"))
    assert isinstance(load_backend(sam_file, Settings(backend="torch", threads=1)), TorchBackend)


def test_devices_that_are_not_there(nano_folder: Path, sam_file: Path) -> None:
    for path, device in (
        (nano_folder, "cuda"),
        (sam_file, "cuda:99"),
        (sam_file, "abacus"),
        (sam_file, "meta:x"),
    ):
        with pytest.raises(AnymaskError, match=device):
            load_backend(path, Settings(device=device, threads=1))


def test_without_torch_the_message_names_the_extra(
    sam_file: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(AnymaskError, match=r"anymask\[torch\]"):
        load_backend(sam_file, settings)
