"""Hostile weights: nothing of them runs, none is loaded, each ends in a sentence, and the process lives on.

One process reads them all, with a bound on its memory. The control tests show that the files are what they are meant to
be: the payloads act in an ordinary unpickler, and the same files without the one thing wrong in them load.
"""

from __future__ import annotations

import contextlib
import copyreg
import json
import os
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
import hostile_checkpoints as hostile  # noqa: E402
import hostile_folders  # noqa: E402
import hostile_pickles as hp  # noqa: E402
import safetensors.torch  # noqa: E402

from anymask.errors import AnymaskError, ModelError, WeightsError, error_classes  # noqa: E402
from anymask.model.checkpoints.convert import convert_checkpoint, load_checkpoint, read_checkpoint  # noqa: E402
from anymask.model.families import load_network, save_network  # noqa: E402
from anymask.model.sam.network import Sam  # noqa: E402
from anymask.model.variants import TINY_TEST  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor"),
    pytest.mark.filterwarnings("ignore:Duplicate name"),
]

EMBEDDED = Path(__file__).parents[2] / "src" / "anymask" / "assets" / "nano"
MEMORY = 2 * 2**30

READER = """
import json, os, resource, sys
import torch, onnxruntime
torch.set_num_threads(1)
from anymask.errors import AnymaskError
from anymask.model.checkpoints.convert import convert_checkpoint
from anymask.model.families import load_network
from anymask.model.variants import TINY_TEST
from anymask.runtime.registry import load_backend
from anymask.settings import Settings

convert_checkpoint(sys.argv[3], sys.argv[2] + "/warm.safetensors", TINY_TEST)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[4]), resource.RLIM_INFINITY))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
settings = Settings(threads=1)
outcomes = {}
for number, (name, path, how) in enumerate(json.load(open(sys.argv[1]))):
    target = f"{sys.argv[2]}/{number}.safetensors"
    acts = {
        "convert": [lambda: convert_checkpoint(path, target, TINY_TEST), lambda: load_backend(path, settings)],
        "load": [lambda: load_backend(path, settings)],
    }[how]
    outcomes[name] = []
    for act in acts:
        try:
            act()
        except AnymaskError as error:
            outcomes[name].append([type(error).__name__, str(error)])
        except BaseException as error:
            outcomes[name].append(["!" + type(error).__name__, str(error)])
        else:
            outcomes[name].append(["loaded", ""])
    if os.path.exists(target):
        outcomes[name].append(["written", target])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"outcomes": outcomes, "grown": (after - before) * 1024}))
"""


@pytest.fixture(scope="module")
def weights(random_sam: Sam) -> dict[str, Any]:
    """A SAM's, each tensor with memory of its own."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in random_sam.state_dict().items()}


@pytest.fixture(scope="module")
def reading(weights, tmp_path_factory) -> dict[str, Any]:
    """What became of all hostile files, read one after the other in one process."""
    folder = tmp_path_factory.mktemp("hostile")
    canary = folder / "canary"
    for name in ("code", "pickled", "safetensors", "sealed", "folders", "graphs", "out"):
        (folder / name).mkdir()
    convert = [
        *hostile.code_runners(folder / "code", weights, canary),
        *hostile.pickled(folder / "pickled", weights),
        *hostile.safetensors_files(folder / "safetensors", weights),
        *hostile_folders.folders(folder / "folders", weights, canary),
    ]
    load = [
        *hostile.sealed_files(folder / "sealed", weights),
        *hostile_folders.graphs(folder / "graphs", EMBEDDED),
    ]
    cases = [(name, str(path), "convert") for name, path in convert]
    cases += [(name, str(path), "load") for name, path in load]
    assert len({name for name, _, _ in cases}) == len(cases)
    torch.save(weights, folder / "good.pth")
    (folder / "cases.json").write_text(json.dumps(cases))
    before = set(folder.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", READER, "cases.json", "out", "good.pth", str(MEMORY)],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},  # the way round that torch itself offers
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    new = {path.name for path in folder.rglob("*")} - {path.name for path in before}
    return {
        **told,
        "canary": canary.exists(),
        "new": new,
        "folder": folder,
        "names": [case[0] for case in cases],
    }


def test_there_are_many(reading):
    assert len(reading["names"]) >= 300
    assert len(hp.payloads(Path("x"))) >= 25


def test_nothing_of_them_ran(reading):
    assert not reading["canary"]
    assert reading["new"] == {"warm.safetensors"}


def test_none_of_them_was_loaded_and_each_ended_in_an_error_of_ours(reading):
    ours = {cls.__name__ for cls in error_classes()}
    assert set(reading["outcomes"]) == set(reading["names"])
    wrong = {
        name: outcomes
        for name, outcomes in reading["outcomes"].items()
        if not outcomes or any(kind not in ours for kind, _ in outcomes)
    }
    assert not wrong


def test_each_error_is_a_sentence(reading):
    """One line, and a line for each key where keys are listed; no control characters, not without end."""
    for name, outcomes in reading["outcomes"].items():
        for _, message in outcomes:
            head, *details = message.split("\n  ")
            assert 20 < len(head) < 700, (name, head)
            assert head.isprintable(), (name, head)
            assert all(
                detail.split(":")[0] in ("missing", "unexpected", "misshapen", "not finite")
                for detail in details
            )
            assert "Traceback" not in message
            assert "object at 0x" not in message


def test_their_size_costs_no_memory(reading):
    """Bombs announce terabytes; reading all of them takes less than a tenth of a gigabyte beyond a good file."""
    assert reading["grown"] < 100 * 2**20


def test_the_reason_is_the_one_thing_wrong(reading):
    """What an attacker would look for is named, not met by chance."""
    reasons = {
        "a member called ../evil": "a member of its archive is called",
        "a bomb of 200 MB in 200 KB": "is compressed",
        "30,000 members": "more than 20000 members",
        "2**60 members": "more than 20000 members",
        "a TorchScript program": "TorchScript",
        "two keys that differ in module.": "the same but for",
        "a deep tuple as a key": "not plain tensors: <tuple>",
        "a quantised tensor": "not plain tensors: " + hostile.KEY,
        "a tensor of NaN": "not finite: " + hostile.KEY,
        "size of 4 TB by strides of zero": f"misshapen: {hostile.KEY} is (1000000, 1000000)",
        "a key too few": "missing: " + hostile.KEY,
        "a key too many": "unexpected: adapter",
        "index names '../outside.safetensors'": "no file of its folder",
        "a pipe for weights": "no ordinary file",
        "a device for weights": "no ordinary file",
        "sealed: depth of a billion": "the limit is 4096",
        "sealed: image_size of 4,096": "misshapen: image_encoder.pos_embed",
        "a graph with data elsewhere": "other files",
        "config of another model": "sam2_video",
    }
    for name, words in reasons.items():
        assert words in reading["outcomes"][name][0][1], (name, reading["outcomes"][name])


@pytest.mark.parametrize("name", sorted(hp.payloads(Path("x"))))
def test_the_payload_is_real(name, tmp_path):
    """The control: an ordinary unpickler makes the canary, from the same opcodes."""
    canary = tmp_path / "canary"
    copyreg.add_extension("os", "mkdir", hp.EXTENSION)
    try:
        with contextlib.suppress(Exception):  # some fail after they acted
            pickle.loads(hp.alone(hp.payloads(canary)[name]))
    finally:
        copyreg.remove_extension("os", "mkdir", hp.EXTENSION)
        copyreg.clear_extension_cache()
    deadline = time.monotonic() + 20
    while not canary.exists() and time.monotonic() < deadline:  # processes that nobody waits for
        time.sleep(0.01)
    assert canary.exists()


def test_the_same_files_without_harm_load(weights, tmp_path):
    """The control: our own writing of a checkpoint, opcode by opcode, is one that PyTorch reads."""
    codes, storages = hostile.entries(weights)
    plain = hostile.pickle_of(codes)
    files = {
        "zip.pth": hp.torch_zip(plain, storages),
        "wrapped.pt": hp.torch_zip(b"\x80\x02}" + hp.text("model") + plain[2:-1] + b"s.", storages),
        "attributes.bin": hp.torch_zip(  # a dictionary whose methods are hidden behind attributes of the same names
            plain[:2] + b"ccollections\nOrderedDict\n)R(" + plain[4:-1]
            + b"}(" + hp.text("items") + b"N" + hp.text("get") + b"N" + hp.text("keys") + b"K\x01ub.",
            storages,
        ),
    }  # fmt: skip
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        network, _ = load_checkpoint(tmp_path / name, TINY_TEST)
        assert all(torch.equal(tensor, weights[key]) for key, tensor in network.state_dict().items()), name


def test_the_older_layout_without_harm_loads(tmp_path):
    (tmp_path / "a.pth").write_bytes(hostile.older_layout(8, bytes(range(32))))
    read = read_checkpoint(tmp_path / "a.pth")
    expected = torch.frombuffer(bytearray(range(32)), dtype=torch.float32)
    assert torch.equal(read[hostile.KEY], expected)


def test_a_payload_behind_the_end_of_a_pickle_is_not_reached(weights, tmp_path):
    canary = tmp_path / "canary"
    codes, storages = hostile.entries(weights)
    data = hostile.pickle_of(codes) + hp.alone(hp.payloads(canary)["os.system"])
    (tmp_path / "a.pth").write_bytes(hp.torch_zip(data, storages))
    network, _ = load_checkpoint(tmp_path / "a.pth", TINY_TEST)
    assert all(torch.equal(tensor, weights[key]) for key, tensor in network.state_dict().items())
    assert not canary.exists()


@pytest.mark.parametrize("layout", ["one file", "shards", "pickle"])
def test_folders_without_harm_load(layout, weights, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "sam"}')
    names = list(weights)
    if layout == "one file":
        safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    elif layout == "pickle":
        torch.save(weights, tmp_path / "pytorch_model.bin")
    else:
        shards = {
            "model-00001-of-00002.safetensors": names[::2],
            "model-00002-of-00002.safetensors": names[1::2],
        }
        for shard, held in shards.items():
            safetensors.torch.save_file({name: weights[name] for name in held}, tmp_path / shard)
        weight_map = {name: shard for shard, held in shards.items() for name in held}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    network, _ = load_checkpoint(tmp_path, TINY_TEST)
    assert all(torch.equal(tensor, weights[key]) for key, tensor in network.state_dict().items())


def test_a_flipped_byte_anywhere_in_our_weights_is_refused(random_sam, tmp_path):
    """And what was there before stays, byte by byte."""
    ours, damaged, kept = (tmp_path / f"{name}.safetensors" for name in ("ours", "damaged", "kept"))
    save_network(random_sam, TINY_TEST, ours)
    whole = ours.read_bytes()
    header = int.from_bytes(whole[:8], "little") + 8
    chance = random.Random(0)
    places = {*range(8), header - 1, header, len(whole) - 1}
    places |= {*chance.sample(range(header), 100), *chance.sample(range(header, len(whole)), 100)}
    kept.write_bytes(b"the older file")
    for number, place in enumerate(sorted(places)):
        data = bytearray(whole)
        data[place] ^= 1 << chance.randrange(8)
        damaged.write_bytes(data)
        with pytest.raises(ModelError):
            load_network(damaged)
        if number % 25 == 0:
            with pytest.raises(AnymaskError):
                convert_checkpoint(damaged, kept, TINY_TEST) if place < 8 else load_network(damaged)
            assert kept.read_bytes() == b"the older file"
    load_network(ours)


def test_an_old_torch_reads_no_pickles(weights, tmp_path, monkeypatch):
    torch.save(weights, tmp_path / "a.pth")
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(AnymaskError, match=r"CVE-2026-24747.*torch>=2\.10"):
        load_checkpoint(tmp_path / "a.pth", TINY_TEST)
    monkeypatch.setattr(torch, "__version__", "2.10.0")
    load_checkpoint(tmp_path / "a.pth", TINY_TEST)


def test_a_storage_longer_than_its_member_is_seen_here_too(weights, tmp_path):
    """What today's torch refuses by itself is also refused by the check that stands after it."""
    from anymask.model.checkpoints.convert import _refuse_short_storages

    with pytest.raises(WeightsError, match="more values than the file holds"):
        _refuse_short_storages({"w": torch.zeros(1000)}, frozenset({8, 16}), "a.pth")
    _refuse_short_storages({"w": torch.zeros(1000)}, frozenset({4000}), "a.pth")
