"""The program itself, `doctor` and `models`, and the page about them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import anymask
from anymask.cli.main import main
from anymask.cli.reference import as_markdown
from anymask.errors import AnymaskError, error_classes

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def test_the_reference_page_has_not_drifted():
    assert PAGE.read_text() == as_markdown(), "run: python -m anymask.cli.reference > docs/reference/cli.md"


def test_the_reference_page_names_every_code_and_option():
    page = as_markdown()
    assert all(f"`{cls.code}`" in page for cls in error_classes())
    for option in (
        "--point",
        "--background",
        "--box",
        "--mask",
        "--all-candidates",
        "--out",
        "--json",
        "--threads",
    ):
        assert option in page


def test_version(run):
    outcome = run("--version")
    assert (outcome.status, outcome.out) == (0, f"anymask {anymask.__version__}\n")


def test_no_command_shows_the_help(run):
    assert run().out == run("--help").out == run("-h").out
    assert run().status == 0


def test_an_unknown_command(run):
    outcome = run("sgment")
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert "sgment" in outcome.err


@pytest.mark.parametrize("cls", [*error_classes()])
def test_every_error_ends_in_its_status(run, photo, monkeypatch, cls):
    def fail(*_):
        raise cls("this went wrong, do that instead")

    monkeypatch.setattr("anymask.predict.loading.load_backend", fail)
    outcome = run("segment", photo, "--point", "1,1")
    assert outcome.status == cls.exit_status != 0
    assert outcome.err == "anymask: this went wrong, do that instead\n"


def test_an_interrupt_ends_in_130(run, photo, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("anymask.image.read_image", interrupt)
    outcome = run("segment", photo, "--point", "1,1")
    assert (outcome.status, outcome.err) == (130, "anymask: interrupted\n")


def test_doctor_is_content_with_a_good_model(model_folder, capsys):
    assert main(["doctor", "--model", str(model_folder), "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert findings["ok"] is True
    assert findings["anymask"] == anymask.__version__
    assert findings["model"]["location"] == str(model_folder)
    assert len(findings["model"]["digest"]) == 64
    assert "onnx" in findings["backends"]
    assert findings["cache"]["ok"] is True
    assert findings["packages"]["numpy"]
    assert main(["doctor", "--model", str(model_folder)]) == 0
    assert "all is well" in capsys.readouterr().out


def test_doctor_sees_a_damaged_model(model_folder, tmp_path, capsys):
    folder = shutil.copytree(model_folder, tmp_path / "damaged")
    data = bytearray((folder / "decoder.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "decoder.onnx").write_bytes(data)
    assert main(["doctor", "--model", str(folder), "--json"]) == 9
    captured = capsys.readouterr()
    assert json.loads(captured.out)["model"]["error"]["code"] == "weights"
    assert captured.err.count("\n") == 1
    assert "decoder.onnx" in captured.err


def test_doctor_sees_a_cache_that_cannot_be_written(model_folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ANYMASK_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert main(["doctor", "--model", str(model_folder)]) == 11
    captured = capsys.readouterr()
    assert "ANYMASK_CACHE_DIR" in captured.err
    assert "something is wrong" in captured.out


def test_an_unknown_model(photo, capsys):
    assert main(["segment", str(photo), "--point", "1,1", "--model", "nobody"]) == 7
    assert "'nobody'" in capsys.readouterr().err


def test_models_lists_what_is_installed(model_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ANYMASK_CACHE_DIR", str(tmp_path))
    shutil.copytree(model_folder, tmp_path / "models" / "mine")
    assert main(["models", "--json"]) == 0
    (entry,) = [entry for entry in json.loads(capsys.readouterr().out)["models"] if entry["name"] == "mine"]
    assert entry == {
        "name": "mine", "engine": "onnx", "origin": "installed", "location": str(tmp_path / "models" / "mine"),
    }  # fmt: skip
    assert main(["models"]) == 0
    assert "mine" in capsys.readouterr().out


def test_an_error_is_never_silent():
    assert all(cls.exit_status > 0 for cls in [AnymaskError, *error_classes()])
