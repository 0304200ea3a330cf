"""From a training run, or weights that say their recipe, to a model folder: ONNX behind the parity gate.

python -m anymask.training.ship runs/nano_v0 src/anymask/assets/nano --weights weights/nano_v0.safetensors
python -m anymask.training.ship weights/nano_v5.safetensors src/anymask/assets/nano --half
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from anymask.errors import ModelError, WeightsError
from anymask.model.export.nano import export_nano
from anymask.model.families import load_network, sizes_fact
from anymask.model.nano.encoder import count_parameters
from anymask.model.nano.network import Nano, NanoConfig
from anymask.model.weights import read_weights, save_weights

from .checkpoint import load_average
from .recipes.run import one_sentence


def model_config(run: Path) -> NanoConfig:
    """The network's sizes as the run recorded them.

    Raises:
        WeightsError: the folder holds no readable run.
    """
    try:
        return NanoConfig.from_dict(json.loads((run / "config.json").read_text())["model"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ModelError) as error:
        raise WeightsError(f"{run} holds no run that can be read: {error}.") from None


def ship(
    run: Path,
    out: Path,
    name: str = "nano",
    long_side: int | None = None,
    weights: Path | None = None,
    half: bool = False,
) -> dict[str, Any]:
    """Export a run or a file of weights and return the facts written to the manifest.

    Args:
        run: folder of the run, whose averaged weights are taken, or a ``.safetensors`` file of nano's weights.
        out: folder of the model.
        name: the model's name in the registry.
        long_side: the network frame's longer side in pixels; the recipe's when not given.
        weights: file for the weights in half precision, to start another run from (`TrainConfig.init`), to
            run in torch (``--model FILE``) or to convert (``anymask models convert``).
        half: store the graphs' weights in half precision too.

    Raises:
        WeightsError: the folder holds no readable run, or the file no nano.
        ParityError: the graphs differ from torch; nothing was written.
    """
    model, training = _of_weights(run) if run.suffix == ".safetensors" else _of_run(run)
    if long_side is not None:
        model.config = dataclasses.replace(model.config, long_side=long_side)
    parity = export_nano(model, out, name, training, half)
    if weights is not None:
        weights.parent.mkdir(parents=True, exist_ok=True)
        facts = {key: str(value) for key, value in training.items() if key != "sources"}
        facts |= {"sources": " ".join(training["sources"]), **sizes_fact(model.config)}
        save_weights(
            {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()},
            weights,
            facts,
        )
    return {"training": training, "parity": dataclasses.asdict(parity)}


def _of_run(run: Path) -> tuple[Nano, dict[str, Any]]:
    """The averaged network of a run, and the manifest's facts of its training."""
    model = Nano(model_config(run))
    numbers = load_average(run / "last.safetensors", model)
    recorded = json.loads((run / "config.json").read_text())
    return model, {
        "recipe": recorded["name"],
        "steps": numbers["step"],
        "hours": round(numbers["seconds"] / 3600, 2),
        "parameters": count_parameters(model),
        "sources": recorded.get("sources", []),
    }


def _of_weights(path: Path) -> tuple[Nano, dict[str, Any]]:
    """The network in a file of weights, and what the file tells of its training."""
    model, _ = load_network(path)
    if not isinstance(model, Nano):
        raise WeightsError(f"{path} holds another network than nano; use anymask export.")
    told = read_weights(path)[1]
    try:
        return model, {
            "recipe": told["recipe"],
            "steps": int(told["steps"]),
            "hours": float(told["hours"]),
            "parameters": count_parameters(model),
            "sources": told["sources"].split(),
        }
    except (KeyError, ValueError):
        raise WeightsError(f"{path} does not say how its weights were trained; use anymask export.") from None


def main() -> None:
    """Parse the command line, export, and print what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of the run, or a file of weights")
    parser.add_argument("out", type=Path, help="folder for the model")
    parser.add_argument("--name", default="nano")
    parser.add_argument("--long-side", type=int, default=None, help="network frame's longer side in pixels")
    parser.add_argument(
        "--weights", type=Path, default=None, help="keep the weights here too, a .safetensors file"
    )
    parser.add_argument("--half", action="store_true", help="store the graphs' weights in half precision")
    options = parser.parse_args()
    with one_sentence():
        facts = ship(options.run, options.out, options.name, options.long_side, options.weights, options.half)
        print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
