"""How long an image encoder takes, by engine and precision, with the same random weights; agreement, memory, share of
the processor's peak.

    python benchmarks/encoder.py                         # ViT-B at 1024 pixels: about half an hour on two cores
    python benchmarks/encoder.py --model mobile_sam      # or vit_l, vit_h: several GB for each engine, name fewer
    python benchmarks/encoder.py --quick                 # 256 pixels, one round: only to see that everything runs
    python benchmarks/encoder.py --device cuda           # torch and the peer, batches of 1 and 8

Figures go to benchmarks/results/encoder_MODEL_DEVICE.json. Every engine is a process of its own that waits for its
turn, so peak memory is its own too (VmHWM: weights, engine and activations, opening included). Engines take turns, in
opposite order every other round, so that a drift of the machine's speed falls on all alike; the first turn of each is
not counted, and in a turn runs of less than three seconds are made five times, of which the median counts. The peer
is transformers' `SamModel` as it comes; families that it has not are compared with our network as published, in plain
torch.

Agreement is with the published network in float32, on photographs: largest difference and relative L2 of the embedding,
and the IoU of masks that our decoder draws from it for clicks on a grid. Random weights make few masks with wide
margins, so these IoUs are pessimistic. "of peak" divides the published products' arithmetic by the fastest torch.mm of
the same precision measured between the rounds (for int8, by bfloat16's where the processor has it); an engine with
better products than torch's comes out above 100 %. Engines of bfloat16 are left out where the processor has none.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

PEER, PLAIN = "transformers SamModel", "torch, as published"
CPU_ENGINES = (
    PEER,
    PLAIN,
    "torch",
    "torch bf16",
    "onnxruntime",
    "openvino",
    "openvino bf16",
    "onnxruntime int8",
    "openvino int8",
)
CUDA_ENGINES = (PEER, PLAIN, "torch", "torch bf16", "torch bf16 compiled")
ROOT = Path(__file__).parent.parent
READY = "ready"
SHORT_S, SHORT_RUNS = 3.0, 5
"""A run shorter than this many seconds is made so many times in its turn, and their median is taken: the first one has
caches and memory that others have used since."""


def sizes_of(model: str, side: int | None) -> Any:
    """The published sizes, for another side where one is given."""
    from anymask.model.families import published_config

    config = published_config(model)
    return config if side is None else dataclasses.replace(config, image_size=side)


def random_network(config: Any) -> Any:
    """A network of these sizes with seeded weights that neither die nor explode."""
    import torch

    from anymask.model.families import build_network
    from anymask.model.variants import SamConfig
    from sam_parity import randomised_sam

    if type(config) is SamConfig:
        return randomised_sam(config, seed=0)
    torch.manual_seed(0)
    return build_network(config).eval()


def prepare(folder: Path, config: Any, engines: Sequence[str]) -> None:
    """Weights, the peer's configuration and exported graphs, in a process that ends after it."""
    from anymask.model.export.network import export_network
    from anymask.model.families import save_network
    from anymask.runtime import agreement
    from anymask.runtime.int8_export import convert_to_int8

    network = random_network(config)
    save_network(network, config, folder / "weights.safetensors")
    if any(name.startswith(("onnx", "openvino")) for name in engines):
        export_network(network, config, folder / "graphs")
    del network
    agreement.MEDIAN_IOU["int8"] = 0.0  # type: ignore[index] # how far it agrees is measured here, not demanded
    if "onnxruntime int8" in engines:
        convert_to_int8(folder / "graphs", folder / "onnxruntime int8")
    if "openvino int8" in engines:
        from anymask.runtime.openvino_export import convert_to_openvino

        convert_to_openvino(folder / "graphs", folder / "openvino int8", "int8")


def open_engine(name: str, folder: Path, threads: int, device: str) -> Callable[[Any], Any]:
    """Pixels N x 3 x S x S -> embeddings; arrays on the CPU, tensors on a GPU."""
    if name.startswith("onnxruntime"):
        from anymask.runtime.onnx_backend import OnnxBackend

        onnx = OnnxBackend(folder / (name if name.endswith("int8") else "graphs"), threads)
        return lambda pixels: onnx.encode(pixels)["embedding"]
    if name.startswith("openvino"):
        from anymask.runtime.openvino_backend import OpenVinoBackend

        int8, bf16 = (name.endswith(precision) for precision in ("int8", "bf16"))
        openvino = OpenVinoBackend(folder / (name if int8 else "graphs"), threads, "bf16" if bf16 else None)
        return lambda pixels: openvino.encode(pixels)["embedding"]
    import torch

    from anymask.runtime.torch_backend import TorchBackend, load_any

    torch.set_num_threads(threads)
    network, config = load_any(folder / "weights.safetensors")
    if name == PEER:
        return open_peer(network, config, device)
    backend = TorchBackend(
        network,
        config,
        device,
        precision="bf16" if "bf16" in name else "fp32",
        compiled="compiled" in name,
        as_published=name == PLAIN,
    )
    if device == "cpu":
        return lambda pixels: backend.encode(pixels)["embedding"]
    dtype = torch.bfloat16 if "bf16" in name else torch.float32

    def encode(pixels: Any) -> Any:
        with torch.inference_mode():
            return backend._encode(pixels.to(dtype))[0]

    return encode


def open_peer(network: Any, config: Any, device: str) -> Callable[[Any], Any]:
    """transformers' SAM with our weights, its attention as it chooses."""
    import torch
    import transformers

    from anymask.model.checkpoints.transformers_names import to_transformers

    vision = {
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "global_attn_indexes": list(config.global_attn_indexes),
        "image_size": config.image_size,
        "mlp_dim": int(config.embed_dim * config.mlp_ratio),
    }
    peer = transformers.SamModel(
        transformers.SamConfig(vision_config=vision, prompt_encoder_config={"image_size": config.image_size})
    )
    peer.load_state_dict(to_transformers(network.state_dict()), strict=True)
    peer.eval().to(device)
    del network

    def encode(pixels: Any) -> Any:
        with torch.inference_mode():
            if device != "cpu":
                return peer.get_image_embeddings(pixels)
            return peer.get_image_embeddings(torch.from_numpy(pixels)).numpy()

    return encode


def work(name: str, folder: Path, threads: int, device: str) -> None:
    """An engine's process: opens it, then answers a line "BATCH" with seconds, or "save" with a file of embeddings."""
    encode = open_engine(name, folder, threads, device)
    pictures = np.load(folder / "pictures.npy")
    print(READY, flush=True)
    for line in sys.stdin:
        if line.strip() == "save":
            outputs = [encode(_on(picture[None], device)) for picture in pictures]
            np.save(folder / f"{name}.npy", np.concatenate([_host(output) for output in outputs]))
            print("saved", flush=True)
            continue
        batch = int(line)
        pixels = _on(np.resize(pictures, (batch, *pictures.shape[1:])), device)
        runs: list[float] = []
        while not runs or (runs[0] < SHORT_S and len(runs) < SHORT_RUNS):
            _wait(device)
            start = time.perf_counter()
            encode(pixels)
            _wait(device)
            runs.append(time.perf_counter() - start)
        print(json.dumps([statistics.median(runs), peak_mb(device)]), flush=True)


def _on(pixels: Any, device: str) -> Any:
    if device == "cpu":
        return np.ascontiguousarray(pixels)
    import torch

    return torch.from_numpy(np.ascontiguousarray(pixels)).to(device)


def _host(output: Any) -> Any:
    return output if isinstance(output, np.ndarray) else output.float().cpu().numpy()


def _wait(device: str) -> None:
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


def peak_mb(device: str) -> float:
    """The most memory this process has held: of the GPU, or of the machine."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1.024e-3


class Worker:
    """The parent's side of an engine's process."""

    def __init__(self, name: str, folder: Path, options: argparse.Namespace) -> None:
        self.name = name
        command = [sys.executable, __file__, "--worker", name, "--folder", str(folder)]
        command += ["--threads", str(options.threads), "--device", options.device]
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )
        self._expect()

    def ask(self, line: str) -> str:
        """Send a line and wait for the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self._expect()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _expect(self) -> str:
        assert self.process.stdout is not None
        answer = self.process.stdout.readline().strip()
        if not answer:
            self.errors.seek(0)
            raise SystemExit(f"{self.name} ended: {self.errors.read().decode(errors='replace')[-2000:]}")
        return answer


def has_bf16(device: str) -> bool:
    """Whether products of bfloat16 are the device's own; unknown without OpenVINO, then assumed."""
    from anymask.runtime.machine import installed

    if device != "cpu" or not installed("openvino"):
        return True
    from anymask.runtime.openvino_backend import open_core, runs_bf16

    return runs_bf16(open_core())


def matrix_peak(device: str, threads: int, side: int = 2048) -> dict[str, float]:
    """GFLOP/s of torch.mm, the best of several, by precision; without bf16 where a processor has none."""
    import torch

    torch.set_num_threads(threads)
    if device != "cpu":
        side = 8192
    peaks = {}
    precisions = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if not has_bf16(device):  # imitated, a hundred times slower
        del precisions["bf16"]
    for name, dtype in precisions.items():
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        seconds = []
        for _ in range(6):
            _wait(device)
            start = time.perf_counter()
            torch.mm(a, b)
            _wait(device)
            seconds.append(time.perf_counter() - start)
        peaks[name] = 2 * side**3 / min(seconds) / 1e9
    return peaks


def arithmetic(config: Any) -> float:
    """GFLOP of the published encoder's products on one image, two for a multiplication and an addition."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from anymask.model.families import build_network

    with torch.device("meta"):
        network = build_network(config).eval()
        pixels = torch.zeros(1, 3, config.image_size, config.image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.encode_features(pixels)
    return counter.get_total_flops() / 1e9


def load_pictures(data: Path | None, config: Any, count: int) -> np.ndarray[Any, Any]:
    """Photographs in the network's frame, N x 3 x S x S."""
    from anymask.frame import Frame
    from anymask.image import read_image

    photo = ROOT / "examples" / "photo.jpg"
    paths = [photo] if data is None else sorted(p for p in data.iterdir() if p.suffix in (".jpg", ".png"))
    arrays = []
    for path in paths[:count]:
        picture = read_image(path)
        frame = Frame(picture.size, config.image_size, "square", config.resize, config.normalisation)
        arrays.append(frame.to_network(picture.pixels, config.pixel_mean, config.pixel_std)[0])
    return np.stack(arrays)


def mask_ious(
    network: Any, config: Any, wanted: np.ndarray[Any, Any], seen: np.ndarray[Any, Any]
) -> list[float]:
    """IoU of each mask drawn from the two embeddings, for 16 clicks on a grid."""
    import torch

    from anymask.model.prompt_tensors import PromptTensors

    places = torch.linspace(0.2, 0.8, 4) * config.image_size
    grid = torch.cartesian_prod(places, places)
    prompts = PromptTensors.of(grid[:, None], torch.ones(16, 1, dtype=torch.long))
    ious = []
    with torch.no_grad():
        for one, other in zip(wanted, seen, strict=True):
            first, second = (
                network.decode_features({"embedding": torch.from_numpy(e[None])}, prompts)[0] > 0
                for e in (one, other)
            )
            both, either = (first & second).sum((-2, -1)), (first | second).sum((-2, -1))
            ious += torch.where(either > 0, both / either.clamp(min=1), 1.0).flatten().tolist()
    return ious


def measure(engines: Sequence[str], folder: Path, config: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Every figure of every engine, by batch."""
    workers = [Worker(name, folder, options) for name in engines]
    batches = (1,) if options.device == "cpu" else (1, 8)
    seconds: dict[str, dict[int, list[float]]] = {w.name: {b: [] for b in batches} for w in workers}
    memory, peaks = dict.fromkeys(engines, 0.0), []
    for turn in range(-1, options.rounds):
        peaks.append(matrix_peak(options.device, options.threads))
        for worker in workers if turn % 2 else workers[::-1]:
            for batch in batches:
                took, memory[worker.name] = json.loads(worker.ask(str(batch)))
                if turn >= 0:
                    seconds[worker.name][batch].append(took)
                print(f"round {turn + 1}: {worker.name}, batch {batch}: {took:.2f} s", file=sys.stderr)
    for worker in workers:
        worker.ask("save")
        worker.close()
    top = {name: max(peak[name] for peak in peaks) for name in peaks[0]}
    work_of_one = arithmetic(config)
    figures: dict[str, Any] = {"peak_gflops": top, "gflop_per_image": work_of_one, "engines": {}}
    for name in engines:
        precision = "fp32" if not name.endswith(("bf16", "int8", "compiled")) else "bf16"
        figures["engines"][name] = {
            "seconds": {str(b): runs for b, runs in seconds[name].items()},
            "median_s": {str(b): statistics.median(runs) for b, runs in seconds[name].items()},
            "images_per_s": {str(b): b / statistics.median(runs) for b, runs in seconds[name].items()},
            "of_peak": {
                str(b): work_of_one * b / statistics.median(runs) / top.get(precision, top["fp32"])
                for b, runs in seconds[name].items()
            },
            "peak_mb": memory[name],
        }
    return figures


def add_agreement(figures: dict[str, Any], engines: Sequence[str], folder: Path, config: Any) -> None:
    """Differences of every engine's embeddings from the published network's."""
    network = random_network(config)
    if tuple(network.feature_names) != ("embedding",):
        return
    wanted = np.load(folder / f"{PLAIN}.npy")
    for name in engines:
        seen = np.load(folder / f"{name}.npy")
        ious = mask_ious(network, config, wanted, seen)
        figures["engines"][name]["agreement"] = {
            "max_error": float(np.abs(seen - wanted).max()),
            "relative_l2": float(np.linalg.norm(seen - wanted) / np.linalg.norm(wanted)),
            "median_iou": float(np.median(ious)),
            "smallest_iou": min(ious),
        }


def show(figures: dict[str, Any], base: str) -> None:
    """The table."""
    engines = figures["engines"]
    print(
        f"{figures['model']} at {figures['image_size']} pixels, {figures['threads']} threads, {figures['device']}"
    )
    print(
        f"{figures['gflop_per_image']:.0f} GFLOP an image; torch.mm at best {figures['peak_gflops']} GFLOP/s"
    )
    print(
        f"{'':<24}{'batch':>6}{'s':>9}{'faster':>8}{'of peak':>9}{'MB':>8}{'of it':>7}{'rel L2':>10}{'IoU':>8}"
    )
    for name, row in engines.items():
        for batch, median in row["median_s"].items():
            told = row.get("agreement", {"relative_l2": float("nan"), "median_iou": float("nan")})
            print(
                f"{name:<24}{batch:>6}{median:>9.3f}{engines[base]['median_s'][batch] / median:>7.2f}x"
                f"{row['of_peak'][batch]:>9.0%}{row['peak_mb']:>8.0f}"
                f"{row['peak_mb'] / engines[base]['peak_mb']:>7.0%}"
                f"{told['relative_l2']:>10.1e}{told['median_iou']:>8.4f}"
            )


def machine(device: str) -> dict[str, Any]:
    """Where and with what this was measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    facts: dict[str, Any] = {
        "processor": f"{platform.machine()} {name}".strip(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
    }
    if device != "cpu":
        import torch

        facts["gpu"] = torch.cuda.get_device_name()
    for package in ("torch", "transformers", "onnxruntime", "openvino"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = None
    return facts


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vit_b", help="vit_b, vit_l, vit_h or mobile_sam (default: vit_b)")
    parser.add_argument("--engines", nargs="*", default=None, metavar="NAME", help=f"of {CPU_ENGINES}")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--data", type=Path, default=None, help="a folder of photographs (default: the example)"
    )
    parser.add_argument("--pictures", type=int, default=4, help="photographs for the agreement (default: 4)")
    parser.add_argument("--quick", action="store_true", help="256 pixels and one round; writes nothing")
    parser.add_argument("--json", type=Path, default=None, help="where the figures go")
    for hidden in ("--worker", "--folder", "--prepare", "--side"):
        parser.add_argument(hidden, default=None, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run, print, and write JSON."""
    options = read_options()
    if options.worker is not None:
        work(options.worker, Path(options.folder), options.threads, options.device)
        return
    side = 256 if options.quick and options.model.startswith("vit") else None
    config = sizes_of(options.model, side if options.side is None else int(options.side))
    on_cpu = options.device == "cpu"
    engines = list(options.engines or (CPU_ENGINES if on_cpu else CUDA_ENGINES))
    if config.family != "sam":
        engines = [name for name in engines if name != PEER]
    if not has_bf16(options.device):
        engines = [name for name in engines if "bf16" not in name]
    if PLAIN not in engines:
        engines.append(PLAIN)
    if options.prepare is not None:
        prepare(Path(options.prepare), config, engines)
        return
    if options.quick:
        options.rounds, options.pictures = 1, 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        np.save(folder / "pictures.npy", load_pictures(options.data, config, options.pictures))
        command = [sys.executable, __file__, "--prepare", temporary, "--model", options.model]
        command += ["--side", str(config.image_size), "--device", options.device, "--engines", *engines]
        subprocess.run(command, check=True)
        facts = machine(options.device)
        figures = measure(engines, folder, config, options)
        add_agreement(figures, engines, folder, config)
    figures = {
        "date": datetime.date.today().isoformat(),
        "machine": facts,
        "model": options.model,
        "image_size": config.image_size,
        "threads": options.threads,
        "device": options.device,
        **figures,
    }
    show(figures, PEER if PEER in engines else PLAIN)
    default = ROOT / "benchmarks" / "results" / f"encoder_{options.model}_{options.device}.json"
    target = options.json or (None if options.quick else default)
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
