"""From a training run to a model folder: averaged weights -> ONNX behind the parity gate.

python -m anymask.training.ship runs/nano_v0 src/anymask/assets/nano --weights weights/nano_v0.safetensors
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from anymask.errors import ModelError, WeightsError
from anymask.model.export.nano import export_nano
from anymask.model.families import sizes_fact
from anymask.model.nano.encoder import count_parameters
from anymask.model.nano.network import Nano, NanoConfig
from anymask.model.weights import save_weights

from .checkpoint import load_average


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
    """Export the averaged weights of a run and return the facts written to the manifest.

    Args:
        run: folder of the run.
        out: folder of the model.
        name: the model's name in the registry.
        long_side: the network frame's longer side in pixels; the recipe's when not given.
        weights: file for the averaged weights in half precision, to start another run from (`TrainConfig.init`), to
            run in torch (``--model FILE``) or to convert (``anymask models convert``).
        half: store the graphs' weights in half precision too.
    """
    config = model_config(run)
    if long_side is not None:
        config = dataclasses.replace(config, long_side=long_side)
    model = Nano(config)
    numbers = load_average(run / "last.safetensors", model)
    recorded = json.loads((run / "config.json").read_text())
    training = {
        "recipe": recorded["name"],
        "steps": numbers["step"],
        "hours": round(numbers["seconds"] / 3600, 2),
        "parameters": count_parameters(model),
        "sources": recorded.get("sources", []),
    }
    parity = export_nano(model, out, name, training, half)
    if weights is not None:
        weights.parent.mkdir(parents=True, exist_ok=True)
        facts = {key: str(value) for key, value in training.items() if key != "sources"}
        facts |= {"sources": " ".join(training["sources"]), **sizes_fact(config)}
        save_weights(
            {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()},
            weights,
            facts,
        )
    return {"training": training, "parity": dataclasses.asdict(parity)}


def main() -> None:
    """Parse the command line, export, and print what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("out", type=Path, help="folder for the model")
    parser.add_argument("--name", default="nano")
    parser.add_argument("--long-side", type=int, default=None, help="network frame's longer side in pixels")
    parser.add_argument(
        "--weights", type=Path, default=None, help="keep the averaged weights here too, a .safetensors file"
    )
    parser.add_argument("--half", action="store_true", help="store the graphs' weights in half precision")
    options = parser.parse_args()
    facts = ship(options.run, options.out, options.name, options.long_side, options.weights, options.half)
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
