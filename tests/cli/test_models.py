"""`anymask models` and its commands, over a server on this machine that stands in for the origins."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from file_server import Act, serving

torch = pytest.importorskip("torch")

from anymask.model import families  # noqa: E402
from anymask.model.families import build_network, load_network, published_config, save_network  # noqa: E402
from anymask.model.variants import TINY_TEST  # noqa: E402
from anymask.runtime import catalogue  # noqa: E402
from anymask.runtime.catalogue import CATALOGUE  # noqa: E402
from anymask.runtime.registry import load_backend  # noqa: E402

NAME = "edge_sam_3x"


@pytest.fixture(autouse=True)
def _a_small_network(monkeypatch):
    """Put a SAM of 84 thousand parameters into its family, as if it were published; the rest stays as it is."""
    sam = next(family for family in families.FAMILIES if family.name == "sam")
    small = dataclasses.replace(
        sam,
        infer=lambda state: TINY_TEST if len(state) < 200 else sam.infer(state),
        published={**sam.published, "tiny_test": TINY_TEST},
    )
    others = (family for family in families.FAMILIES if family is not sam)
    monkeypatch.setattr(families, "FAMILIES", (*others, small))


@pytest.fixture(scope="module")
def published(random_sam) -> bytes:
    """A checkpoint with random weights, as `torch.save` writes it."""
    file = io.BytesIO()
    torch.save(random_sam.state_dict(), file)
    return file.getvalue()


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    """The cache folder of this test."""
    monkeypatch.setenv("ANYMASK_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def origin(published, monkeypatch):
    """A server with ``published``, put into the catalogue in place of the real one."""
    with serving(published) as server:
        digest = hashlib.sha256(published).hexdigest()
        ours = dataclasses.replace(
            catalogue.find(NAME),
            config="tiny_test",
            url=server.url,
            sha256=digest,
            size=len(published),
            aliases=("three_x",),
        )
        rest = tuple(entry for entry in CATALOGUE if entry.name != NAME)
        monkeypatch.setattr(catalogue, "CATALOGUE", (ours, *rest))
        yield server


def test_the_list_tells_what_is_here_and_what_is_not(run, cache, tmp_path, random_sam):
    outcome = run("models")
    assert outcome.status == 0
    rows = {line.split()[0]: line for line in outcome.out.splitlines()[1:] if line}
    for entry in CATALOGUE:
        for told in (
            f"{entry.parameters / 1e6:.1f} M",
            f"{entry.size / 1e6:.1f}",
            entry.licence,
            entry.origin,
        ):
            assert told in rows[entry.name]
        assert ("no (*)" in rows[entry.name]) == (entry.sha256 is None)
    assert "anymask models pull" in outcome.out
    (cache / "models").mkdir(parents=True)
    save_network(random_sam, TINY_TEST, cache / "models" / "vit_b.safetensors")
    (line,) = [line for line in run("models").out.splitlines() if line.startswith("vit_b ")]
    assert "installed" in line


def test_the_list_says_how_large_the_embedded_model_is(run, cache, tmp_path):
    (line,) = [line for line in run("models").out.splitlines() if line.startswith("nano ")]
    folder = Path(line.split(maxsplit=6)[-1])
    training = json.loads((folder / "manifest.json").read_text())["training"]
    assert f"{training['parameters'] / 1e6:.1f} M" in line
    assert "Apache-2.0" in line
    assert (folder / "MODEL_CARD.md").read_text().startswith("---\nlicense: apache-2.0\n")

    silent = cache / "models" / "mine"
    shutil.copytree(folder, silent)
    manifest = json.loads((silent / "manifest.json").read_text())
    del manifest["training"]
    (silent / "manifest.json").write_text(json.dumps(manifest))
    (line,) = [line for line in run("models").out.splitlines() if line.startswith("mine ")]
    assert " M " not in line
    (silent / "manifest.json").write_text("{")
    outcome = run("models")
    assert outcome.status == 0
    assert any(line.startswith("mine ") for line in outcome.out.splitlines())


def test_the_list_as_json(run, cache):
    told = json.loads(run("models", "--json").out)
    assert [entry["name"] for entry in told["published"]] == [entry.name for entry in CATALOGUE]
    assert [entry["sha256"] for entry in told["published"]] == [entry.sha256 for entry in CATALOGUE]
    assert not any(entry["here"] for entry in told["published"])
    assert all(set(entry) == {"name", "engine", "origin", "location"} for entry in told["models"])


def test_pull_makes_a_model_that_is_known_by_name(run, cache, origin, published):
    outcome = run("models", "pull", "three_x")
    assert outcome.status == 0, outcome.err
    path = cache / "models" / f"{NAME}.safetensors"
    assert str(path) in outcome.out
    assert "S-Lab" in outcome.out
    network, config = load_network(path)
    assert config == TINY_TEST
    original = torch.load(io.BytesIO(published), weights_only=True)
    assert all(torch.equal(tensor, original[name]) for name, tensor in network.state_dict().items())
    assert not [item for item in (cache / "downloads").iterdir() if not item.name.endswith(".lock")]
    again = run("models", "pull", NAME)
    assert again.status == 0
    assert "here already" in again.out
    assert len(origin.asked) == 1
    checked = run("models", "check", NAME, "--json")
    assert json.loads(checked.out)["network"] == "sam, tiny_test"
    gone = run("models", "remove", "three_x")
    assert gone.status == 0
    assert not path.exists()
    assert run("models", "remove", NAME).status == 7


def test_keep_keeps_the_published_file(run, cache, origin, published):
    assert run("models", "pull", NAME, "--keep").status == 0
    kept = cache / "downloads" / f"{NAME}.pth"
    assert kept.read_bytes() == published
    told = json.loads(run("models", "check", kept, "--json").out)
    assert (told["published"], told["sha256"]) == (NAME, hashlib.sha256(published).hexdigest())


def test_pull_without_torch_keeps_the_file_and_says_what_to_do(run, cache, origin, published, monkeypatch):
    with monkeypatch.context() as absent:
        absent.setitem(sys.modules, "torch", None)
        outcome = run("models", "pull", NAME)
        assert outcome.status == 12
        assert outcome.err.count("\n") == 1
        assert "anymask[torch]" in outcome.err
    kept = cache / "downloads" / f"{NAME}.pth"
    assert kept.read_bytes() == published
    assert run("models", "pull", NAME).status == 0  # later, with torch: nothing is fetched again
    assert len(origin.asked) == 1


def test_pull_goes_on_with_a_cut_download(run, cache, origin, monkeypatch):
    monkeypatch.setattr("anymask.runtime.fetch.time.sleep", lambda _: None)
    origin.acts = [Act(cut=100_000), Act(status=503), Act(status=503), Act(status=503), Act(status=503)]
    outcome = run("models", "pull", NAME)
    assert outcome.status == 15
    assert outcome.err.count("\n") == 1
    assert "goes on there" in outcome.err
    assert run("models", "pull", NAME).status == 0
    assert origin.asked[-1]["range"] == "bytes=100000-"


@pytest.mark.parametrize(
    ("acts", "words"),
    [
        ([Act(status=404)], "404"),
        ([Act(status=403)], "403"),
        ([Act(said=10)], "10 bytes"),
        ([Act(status=302, location="file:///x")], "web"),
    ],
)
def test_pull_that_fails_is_one_sentence(run, cache, origin, acts, words):
    origin.acts = acts
    outcome = run("models", "pull", NAME)
    assert outcome.status == 15
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1
    assert words in outcome.err
    assert not (cache / "models").exists()


def test_pull_of_another_file_is_refused(run, cache, origin):
    origin.data = origin.data[:-1] + b"?"
    outcome = run("models", "pull", NAME)
    assert outcome.status == 15
    assert "should have" in outcome.err
    assert not (cache / "models").exists()


def test_pull_offline(run, cache, origin, monkeypatch):
    monkeypatch.setenv("ANYMASK_OFFLINE", "1")
    outcome = run("models", "pull", NAME)
    assert outcome.status == 15
    assert "ANYMASK_OFFLINE" in outcome.err
    assert origin.asked == []


def test_pull_from_elsewhere_needs_its_digest(run, cache, origin, random_sam):
    older = io.BytesIO()
    torch.save(random_sam.state_dict(), older, _use_new_zipfile_serialization=False)
    other = older.getvalue()
    with serving(other) as mirror:
        refused = run("models", "pull", NAME, "--url", mirror.url)
        assert refused.status == 15  # the published digest holds there too
        digest = hashlib.sha256(other).hexdigest()
        contradiction = run("models", "pull", NAME, "--sha256", digest)
        assert contradiction.status == 2
        assert "--url" in contradiction.err
        assert run("models", "pull", NAME, "--url", mirror.url, "--sha256", digest).status == 0
    assert origin.asked == []


@pytest.mark.parametrize("name", [entry.name for entry in CATALOGUE if entry.sha256 is None])
def test_pull_without_a_known_digest_asks_for_one(run, cache, name):
    outcome = run("models", "pull", name)
    assert outcome.status == 2
    assert f"anymask models pull {name} --sha256 DIGEST" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("pull", "nobody"), 7, "known are vit_b"),
        (("pull", "../../etc/passwd"), 7, "known are"),
        (("pull", NAME, "--sha256", "12"), 2, "64 hexadecimal"),
        (("pull", NAME, "--url", "file:///etc/passwd.pth"), 2, "https://"),
        (("pull", NAME, "--url", "https://user:pw@host/a.pth"), 2, "password"),
        (("pull", NAME, "--url", "https://host/readme.html"), 2, "must end in"),
        (("pull",), 2, "name"),
        (("remove", "../models"), 2, "no name"),
        (("remove", "nobody"), 7, "nothing"),
        (("check", "nobody"), 7, "nobody"),
        (("check", "vit_h"), 7, "anymask models pull vit_h"),
        (("convert", "absent.pth"), 7, "absent.pth"),
        (("frobnicate",), 2, "frobnicate"),
    ],
)
def test_bad_input_is_one_sentence(run, cache, arguments, status, words):
    outcome = run("models", *arguments)
    assert outcome.status == status
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1
    assert words in outcome.err
    assert not cache.exists() or not any(cache.rglob("*.safetensors"))


def test_a_published_name_that_is_not_here_says_how_to_get_it(photo, cache, capsys):
    from anymask.cli.main import main

    for name, published_name in (("vit_b", "vit_b"), ("default", "vit_h"), ("vit_t", "mobile_sam")):
        assert main(["segment", str(photo), "--point", "1,1", "--model", name]) == 7
        assert f"get it with: anymask models pull {published_name}" in capsys.readouterr().err


def test_convert_finds_the_network_and_names_the_result(run, cache, tmp_path, published):
    (tmp_path / "mine.pth").write_bytes(published)
    outcome = run("models", "convert", "mine.pth")
    assert outcome.status == 0, outcome.err
    assert "--model mine" in outcome.out
    _, config = load_network(cache / "models" / "mine.safetensors")
    assert config == TINY_TEST
    again = run("models", "convert", "mine.pth")
    assert again.status == 2
    assert "--force" in again.err
    assert run("models", "convert", "mine.pth", "--force").status == 0
    assert run("models", "convert", "mine.pth", "--out", "here.safetensors").status == 0
    assert (tmp_path / "here.safetensors").read_bytes() == (
        cache / "models" / "mine.safetensors"
    ).read_bytes()
    assert run("models", "convert", "mine.pth", "--out", "here.onnx").status == 2


def test_convert_a_nano_of_ones_own(run, cache, photo, random_nano, monkeypatch):
    """From a file as a training run leaves it to masks by its name."""
    monkeypatch.setattr("anymask.predict.loading.load_backend", load_backend)
    save_network(random_nano, random_nano.config, "own.safetensors")
    assert "nano, nano" in run("models", "check", "./own.safetensors").out
    for model, convert in (("./own.safetensors", False), ("own", True)):
        if convert:
            assert "--model own" in run("models", "convert", "own.safetensors").out
        outcome = run(
            "segment", str(photo), "--point", "5,5", "--model", model, "--json", "--out", model[-3:]
        )
        assert outcome.status == 0, outcome.err
        assert json.loads(outcome.out)["model"]["name"] == "nano"


def test_convert_as_another_network_names_every_key(run, cache, tmp_path, published):
    (tmp_path / "mine.pth").write_bytes(published)
    outcome = run("models", "convert", "mine.pth", "--as", "mobile_sam")
    assert outcome.status == 9
    *details, sentence = outcome.err.splitlines()
    assert sentence.startswith("anymask: mine.pth does not fit")
    expected = set(build_network(published_config("mobile_sam")).state_dict())
    held = set(torch.load(io.BytesIO(published), weights_only=True))
    told = {detail.split(": ")[1] for detail in details if detail.strip().startswith("missing")}
    assert told == expected - held
    told = {detail.split(": ")[1] for detail in details if detail.strip().startswith("unexpected")}
    assert told == held - expected
    assert not list((cache / "models").iterdir())
    assert run("models", "convert", "mine.pth", "--as", "nobody").status == 9


def test_convert_does_not_take_the_embedded_name(run, cache, tmp_path, published):
    (tmp_path / "nano.pth").write_bytes(published)
    outcome = run("models", "convert", "nano.pth")
    assert outcome.status == 2
    assert "--out" in outcome.err


def test_convert_and_check_a_folder(run, cache, tmp_path, random_sam):
    import safetensors.torch

    from anymask.model.checkpoints.transformers_names import to_transformers

    folder = tmp_path / "tiny-sam"
    folder.mkdir()
    weights = to_transformers(random_sam.state_dict())
    weights.pop("shared_image_embedding.positional_embedding")
    safetensors.torch.save_file(
        {name: tensor.detach().clone().contiguous() for name, tensor in weights.items()},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text('{"model_type": "sam"}')
    assert json.loads(run("models", "check", folder, "--json").out)["network"] == "sam, tiny_test"
    assert run("models", "convert", folder).status == 0
    network, _ = load_network(cache / "models" / "tiny-sam.safetensors")
    assert all(
        torch.equal(value, random_sam.state_dict()[name]) for name, value in network.state_dict().items()
    )


def test_check_sees_damage(run, cache, tmp_path, published):
    (tmp_path / "mine.pth").write_bytes(published)
    assert run("models", "convert", "mine.pth").status == 0
    path = cache / "models" / "mine.safetensors"
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    outcome = run("models", "check", "mine")
    assert outcome.status == 9
    assert outcome.err.count("\n") == 1
    assert "damaged" in outcome.err


def test_check_of_graphs(run, cache, model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "graphs")
    assert "manifest" in run("models", "check", folder).out
    (folder / "decoder.onnx").write_bytes(b"x")
    assert run("models", "check", folder).status == 9


def test_a_checkpoint_in_an_archive(run, cache, published, monkeypatch):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights.pt", published)
        archive.writestr("__MACOSX/._weights.pt", b"noise")
    with serving(packed.getvalue()) as server:
        url = server.url.replace("weights.pth", "weights.pt.zip")
        entry = dataclasses.replace(
            catalogue.find(NAME), config="tiny_test", url=url, member="weights.pt", sha256=None
        )
        monkeypatch.setattr(catalogue, "CATALOGUE", (entry,))
        digest = hashlib.sha256(packed.getvalue()).hexdigest()
        outcome = run("models", "pull", NAME, "--sha256", digest, "--keep")
    assert outcome.status == 0, outcome.err
    assert (cache / "downloads" / f"{NAME}.pt").read_bytes() == published


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"other.pt": b"x"}, "0 members"),
        ({"weights.pt": b"\0" * 10**7}, "would unpack"),
        ({"../weights.pt": b"x"}, "0 members"),
    ],
)
def test_archives_that_are_not_what_they_say(members, words, tmp_path):
    from anymask.errors import WeightsError
    from anymask.runtime.archive import unpack_member

    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    (tmp_path / "weights.pt").write_bytes(b"the older file")
    with pytest.raises(WeightsError, match=words):
        unpack_member(tmp_path / "a.zip", "weights.pt", tmp_path / "weights.pt")
    assert (tmp_path / "weights.pt").read_bytes() == b"the older file"
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "weights.pt"}


def test_an_archive_that_is_damaged_or_cut(tmp_path):
    from anymask.errors import WeightsError
    from anymask.runtime.archive import unpack_member

    good = io.BytesIO()
    noise = bytes(torch.randint(0, 256, (50_000,), dtype=torch.uint8).tolist())
    with zipfile.ZipFile(good, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.pt", noise)
    whole = good.getvalue()
    damaged = [whole[:100], whole[:-30], b"", b"noise"]
    for place in (40, 20_000, len(whole) - 56):
        data = bytearray(whole)
        data[place] ^= 0x55
        damaged.append(bytes(data))
    for data in damaged:
        (tmp_path / "a.zip").write_bytes(data)
        with pytest.raises(WeightsError):
            unpack_member(tmp_path / "a.zip", "w.pt", tmp_path / "w.pt")
        assert not (tmp_path / "w.pt").exists()
    (tmp_path / "a.zip").write_bytes(whole)
    assert unpack_member(tmp_path / "a.zip", "w.pt", tmp_path / "w.pt").read_bytes() == noise
