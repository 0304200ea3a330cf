"""Two processes take the steps that one process with both their batches would take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed import TCPStore

from anymask.model.weights import read_safetensors

SCRIPT = """
import dataclasses, sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {helpers!r}]
from test_loop import CONFIG
from anymask.training.loop import train
config = dataclasses.replace(CONFIG, steps=4)
train(config, {data!r}, Path({out!r}))
"""


def _run(script: Path, rank: int, port: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    return subprocess.Popen([sys.executable, str(script)], env=environment, stderr=subprocess.PIPE)


@pytest.fixture
def store() -> TCPStore:
    """Where the members meet, kept here as torchrun's agent keeps it.

    The system chooses the port and it is never let go, so nobody else can take it; and it outlives every member, so
    that the first to end does not cut the other off.
    """
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def test_two_processes_train_one_model(shards: Path, tmp_path: Path, store: TCPStore) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        SCRIPT.format(
            tests=str(Path(__file__).parent),
            helpers=str(Path(__file__).parents[1] / "helpers"),
            data=str(shards),
            out=str(tmp_path / "out"),
        )
    )
    members = [_run(script, rank, store.port) for rank in range(2)]
    for member in members:
        _, errors = member.communicate(timeout=120)
        assert member.returncode == 0, errors.decode()[-2000:]
    tensors, _ = read_safetensors(tmp_path / "out" / "tiny" / "last.safetensors")
    assert not torch.equal(tensors["generator.0"], tensors["generator.1"])
    assert all(torch.isfinite(v).all() for k, v in tensors.items() if k.startswith("model."))


def test_averaged_gradients_are_the_mean_of_both_members(tmp_path: Path, store: TCPStore) -> None:
    script = tmp_path / "mean.py"
    script.write_text(
        "import torch\n"
        "from anymask.training.parallel import join_team\n"
        "team = join_team(torch.device('cpu'))\n"
        "p = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2))]\n"
        "p[0].grad = torch.tensor([1.0, 2.0, 3.0]) * (team.rank + 1)\n"
        "p[1].grad = torch.full((2, 2), 10.0 * team.rank)\n"
        "team.average_gradients(p)\n"
        "assert torch.equal(p[0].grad, torch.tensor([1.5, 3.0, 4.5])), p[0].grad\n"
        "assert torch.equal(p[1].grad, torch.full((2, 2), 5.0)), p[1].grad\n"
        "assert team.agree(team.leads) and not team.agree(not team.leads)\n"
        "assert [int(s[0]) for s in team.gather_states(torch.tensor([team.rank], dtype=torch.uint8))] == [0, 1]\n"
        "team.wait()\n"
    )
    members = [_run(script, rank, store.port) for rank in range(2)]
    for member in members:
        _, errors = member.communicate(timeout=120)
        assert member.returncode == 0, errors.decode()[-2000:]
