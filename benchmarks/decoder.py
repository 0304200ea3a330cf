"""How long SAM's mask decoder takes from a ready embedding, by engine and number of prompts; agreement and memory.

    python benchmarks/decoder.py                    # the CPU, two threads; writes benchmarks/results/decoder.json
    python benchmarks/decoder.py --quick            # seconds, fewer rounds and prompts, no memory
    python benchmarks/decoder.py --device cuda

The decoder has ViT-B's sizes (those of L and H too) and random weights, the same ones everywhere; the peer is
transformers' `SamModel`, given the embedding, so prompt encoder and mask decoder are timed. Engines take turns, round
after round and in opposite order every other round, so that a drift of the machine's speed falls on all alike. "image"
is what the fast decoder computes once per image, and is not in the columns of prompts. Peak memory is the largest
resident set of a process of its own; there the peer decodes 64 prompts a call, the fast decoder as many as in the
timing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

PEER, PLAIN, FAST = "transformers SamModel", "plain torch", "fast, torch"
IMAGE_SIZE, EMBEDDING = 1024, (1, 256, 64, 64)
PEER_PROMPTS = 64
"""Prompts of one peer call in the memory measurement: what everything mode uses."""

Answer = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


class Engine:
    """A way to decode: ``prepare`` once per image, then ``decode`` points and labels in chunks."""

    def __init__(
        self, prepare: Callable[[Any], Any], decode: Callable[[Any, Any, Any], Answer], chunk: int
    ) -> None:
        self._prepare, self._decode, self._chunk = prepare, decode, chunk
        self.image: Any = None

    def prepare(self, embedding: Any) -> None:
        self.image = self._prepare(embedding)

    def answers(self, points: Any, labels: Any) -> Iterator[Answer]:
        """Logits and scores, chunk by chunk; nothing is kept of a chunk."""
        for start in range(0, len(points), self._chunk):
            chunk = slice(start, start + self._chunk)
            yield self._decode(self.image, points[chunk], labels[chunk])


def clicks(count: int) -> tuple[Any, Any]:
    """One foreground click per prompt, and the padding point that goes with it."""
    rng = np.random.default_rng(count)
    points = np.zeros((count, 2, 2), dtype=np.float32)
    points[:, 0] = rng.uniform(0, IMAGE_SIZE, (count, 2))
    return points, np.tile(np.asarray([[1, -1]], dtype=np.float32), (count, 1))


def embedding() -> Any:
    return np.random.default_rng(1).standard_normal(EMBEDDING, dtype=np.float32)


def make_network() -> tuple[Any, Any]:
    """A SAM with the decoder's real sizes and the smallest encoder, and its sizes."""
    import dataclasses

    from anymask.model.variants import VIT_B
    from sam_parity import randomised_sam

    config = dataclasses.replace(VIT_B, embed_dim=48, depth=1, num_heads=2, global_attn_indexes=(0,))
    return randomised_sam(config, 7).requires_grad_(False), config


def peer_engine(network: Any, config: Any, device: str, chunk: int) -> Engine:
    import torch
    import transformers

    from sam_parity import transformers_peer

    eager = transformers_peer(network, config)
    peer = transformers.SamModel._from_config(eager.config, attn_implementation="sdpa")
    peer.load_state_dict(eager.state_dict())
    peer.eval().to(device)

    @torch.inference_mode()
    def decode(image: Any, points: Any, labels: Any) -> Answer:
        out = peer(
            image_embeddings=image,
            input_points=torch.from_numpy(points[None, :, :1]).to(device),
            input_labels=torch.from_numpy(labels[None, :, :1]).long().to(device),
            multimask_output=True,
        )
        return out.pred_masks[0].float().cpu().numpy(), out.iou_scores[0].float().cpu().numpy()

    return Engine(lambda array: torch.from_numpy(array).to(device), decode, chunk)


def torch_engine(
    network: Any, fast: bool, device: str, chunk: int, bf16: bool = False, compiled: bool = False
) -> Engine:
    import torch

    from anymask.model.prompt_tensors import PromptTensors
    from anymask.model.sam.fast_decoder import FastDecoder

    decoder = FastDecoder(network).to(device) if fast else network.to(device)
    part = (
        torch.compile(decoder.prompt_part, dynamic=True)
        if compiled
        else getattr(decoder, "prompt_part", None)
    )

    @torch.inference_mode()
    def prepare(array: Any) -> Any:
        tensor = torch.from_numpy(array).to(device)
        return decoder.image_part(tensor) if fast else tensor

    @torch.inference_mode()
    def decode(image: Any, points: Any, labels: Any) -> Answer:
        where, what = torch.from_numpy(points).to(device), torch.from_numpy(labels).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            if part is not None:
                logits, scores = part(image, where, what)
            else:
                logits, scores = network.decode(image, PromptTensors.from_padded(where, what))
        return logits[:, 1:].float().cpu().numpy(), scores[:, 1:].float().cpu().numpy()

    return Engine(prepare, decode, chunk)


def export(network: Any, folder: Path) -> None:
    """``image.onnx`` and ``prompts.onnx`` (points only), as small files beside each other."""
    import warnings

    import torch

    from anymask.model.sam.fast_decoder import FastDecoder

    decoder = FastDecoder(network)
    names = list(decoder.image_part.names)
    image = torch.from_numpy(embedding())
    prompts = tuple(torch.from_numpy(array) for array in clicks(3))
    free = {name: {0: "prompts"} for name in ("low_res_logits", "predicted_iou")}
    free |= {name: {0: "prompts", 1: "slots"} for name in ("points", "labels")}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = decoder.image_part(image)
        torch.onnx.export(
            decoder.image_part, (image,), str(folder / "image.onnx"), input_names=["embedding"],
            output_names=names, opset_version=17, dynamo=False,
        )  # fmt: skip
        torch.onnx.export(
            decoder.prompt_part, (parts, *prompts), str(folder / "prompts.onnx"),
            input_names=[*names, "points", "labels"], output_names=["low_res_logits", "predicted_iou"],
            dynamic_axes=free, opset_version=17, dynamo=False,
        )  # fmt: skip


def graph_engine(folder: Path, kind: str, threads: int, chunk: int) -> Engine:
    """The two graphs in onnxruntime ("ort") or OpenVINO ("f32", "bf16"); needs no torch."""
    make = _onnxruntime_graph if kind == "ort" else _openvino_graph
    image, prompts = (make(folder / f"{name}.onnx", kind, threads) for name in ("image", "prompts"))

    def decode(parts: Any, points: Any, labels: Any) -> Answer:
        answer = prompts(parts | {"points": points, "labels": labels})
        return answer["low_res_logits"][:, 1:], answer["predicted_iou"][:, 1:]

    return Engine(lambda array: image({"embedding": array}), decode, chunk)


def _onnxruntime_graph(path: Path, kind: str, threads: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.enable_mem_pattern = False
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    wanted = [node.name for node in session.get_inputs()]
    given = [node.name for node in session.get_outputs()]
    return lambda values: dict(zip(given, session.run(None, {n: values[n] for n in wanted}), strict=True))


def _openvino_graph(path: Path, kind: str, threads: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": kind, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()
    wanted = [port.get_any_name() for port in compiled.inputs]
    given = [(port.get_any_name(), port) for port in compiled.outputs]

    def run(values: dict[str, Any]) -> dict[str, Any]:
        answer = request.infer({name: values[name] for name in wanted}, share_inputs=True)
        return {name: answer[port] for name, port in given}

    return run


def engines(device: str, threads: int, chunk: int, folder: Path) -> dict[str, Engine]:
    """Every engine by name, the peer first; graphs are written to `folder`."""
    network, config = make_network()
    whole = 1 << 20  # all prompts in one call
    made = {
        PEER: peer_engine(network, config, device, whole),
        PLAIN: torch_engine(network, False, device, whole),
        FAST: torch_engine(network, True, device, chunk),
    }
    if device != "cpu":
        made["fast, torch bf16"] = torch_engine(network, True, device, chunk, bf16=True)
        made["fast, torch compiled"] = torch_engine(network, True, device, chunk, compiled=True)
        return made
    export(network, folder)
    for name, kind in (("onnxruntime", "ort"), ("OpenVINO", "f32"), ("OpenVINO bf16", "bf16")):
        made[f"fast, {name}"] = graph_engine(folder, kind, threads, chunk)
    return made


def race(made: dict[str, Engine], counts: Sequence[int], rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds by engine: "image", and every number of prompts."""
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in made}
    image, jobs = embedding(), {str(count): clicks(count) for count in counts}
    for turn in range(-1, rounds):  # the first round warms up
        for label in ("image", *jobs):
            for name in list(made)[:: 1 if turn % 2 else -1]:
                engine = made[name]
                start = time.perf_counter()
                if label == "image":
                    engine.prepare(image)
                else:
                    for _ in engine.answers(*jobs[label]):
                        pass
                if turn >= 0:
                    seconds[name].setdefault(label, []).append(time.perf_counter() - start)
    return {
        name: {label: round(1000 * statistics.median(times), 2) for label, times in labels.items()}
        for name, labels in seconds.items()
    }


def agreement(made: dict[str, Engine], count: int) -> dict[str, dict[str, float]]:
    """Every engine's answers against the peer's: largest differences, pixels on the other side, median mask IoU."""
    points, labels = clicks(count)
    answers = {name: list(engine.answers(points, labels)) for name, engine in made.items()}
    joined = {
        name: [np.concatenate(part) for part in zip(*parts, strict=True)] for name, parts in answers.items()
    }
    logits, scores = joined.pop(PEER)
    result = {}
    for name, (ours, our_scores) in joined.items():
        either, both = ((ours > 0) | (logits > 0)).sum((2, 3)), ((ours > 0) & (logits > 0)).sum((2, 3))
        flipped = (ours > 0) != (logits > 0)
        result[name] = {
            "logits": float(np.abs(ours - logits).max()),
            "logits_spread": float(logits.std()),
            "scores": float(np.abs(our_scores - scores).max()),
            "flipped_share": float(flipped.mean()),
            "flipped_farthest": float(np.abs(logits[flipped]).max(initial=0.0)),
            "median_iou": float(np.median(both / np.maximum(either, 1))),
        }
    return result


def arithmetic() -> dict[str, float]:
    """Multiplications and additions of matrix products, in GFLOP: per prompt of 16, and once per image."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from anymask.model.prompt_tensors import PromptTensors
    from anymask.model.sam.fast_decoder import FastDecoder

    network, config = make_network()
    image = torch.from_numpy(embedding())
    points, labels = (torch.from_numpy(array) for array in clicks(16))
    fast, peer = FastDecoder(network), peer_engine(network, config, "cpu", 16)
    peer.prepare(embedding())

    def count(call: Callable[[], Any]) -> float:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            call()
        return float(counter.get_total_flops()) / 1e9

    parts = fast.image_part(image)
    return {
        PEER: round(count(lambda: list(peer.answers(*clicks(16)))) / 16, 3),
        PLAIN: round(count(lambda: network.decode(image, PromptTensors.from_padded(points, labels))) / 16, 3),
        "fast": round(count(lambda: fast.prompt_part(parts, points, labels)) / 16, 3),
        "fast, image": round(count(lambda: fast.image_part(image)), 3),
    }


def peak_memory(name: str, count: int, options: argparse.Namespace, folder: Path) -> float:
    """Megabytes of a process of its own that decodes `count` prompts."""
    command = [sys.executable, __file__, "--alone", name, "--graphs", str(folder), "--prompts", str(count)]
    command += ["--threads", str(options.threads), "--chunk", str(options.chunk)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.strip().splitlines()[-1])


def alone(name: str, count: int, options: argparse.Namespace) -> None:
    """What `peak_memory` runs: print the largest resident set in MB."""
    if name in (PEER, PLAIN, FAST):
        import torch

        torch.set_num_threads(options.threads)
        network, config = make_network()
        if name == PEER:
            engine = peer_engine(network, config, "cpu", PEER_PROMPTS)
        else:
            engine = torch_engine(
                network, name == FAST, "cpu", PEER_PROMPTS if name == PLAIN else options.chunk
            )
    else:
        kind = {"fast, onnxruntime": "ort", "fast, OpenVINO": "f32", "fast, OpenVINO bf16": "bf16"}[name]
        engine = graph_engine(options.graphs, kind, options.threads, options.chunk)
    engine.prepare(embedding())
    for _ in engine.answers(*clicks(count)):
        pass
    status = Path("/proc/self/status").read_text()
    print(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1000)


def show(document: dict[str, Any], counts: Sequence[int]) -> None:
    """The figures as a table: milliseconds, and how many times faster than the peer."""
    times, peer = document["milliseconds"], document["milliseconds"][PEER]
    print(f"{'engine':24}{'image':>9}" + "".join(f"{count:>18}" for count in counts))
    for name, row in times.items():
        cells = (f"{row[str(c)]:>9.1f} ms x{peer[str(c)] / row[str(c)]:<4.1f}" for c in counts)
        print(f"{name:24}{row['image']:>9.1f}" + " ".join(cells))
    for name, row in document["agreement"].items():
        print(f"{name:24} " + ", ".join(f"{key} {value:.2g}" for key, value in row.items()))
    for name, row in document.get("peak_memory_mb", {}).items():
        print(f"{name:24} " + ", ".join(f"{count} prompts {value:.0f} MB" for count, value in row.items()))
    if "gflop" in document:
        print("GFLOP:", ", ".join(f"{name} {value}" for name, value in document["gflop"].items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--chunk", type=int, default=4, help="prompts decoded together by the fast decoder")
    parser.add_argument("--prompts", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="1 and 4 prompts, two rounds, no memory")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "decoder.json")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    parser.add_argument("--graphs", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        alone(options.alone, options.prompts[0], options)
        return

    import torch

    torch.set_num_threads(options.threads)
    counts, rounds = ([1, 4], 2) if options.quick else (options.prompts, options.rounds)
    with tempfile.TemporaryDirectory() as temporary:
        made = engines(options.device, options.threads, options.chunk, Path(temporary))
        on_gpu = options.device != "cpu"
        packages = ("torch", "transformers", "onnxruntime", "openvino")
        document: dict[str, Any] = {
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads",
            "device": torch.cuda.get_device_name() if on_gpu else _cpu_name(),
            "versions": {name: version(name) for name in packages if not on_gpu or name in packages[:2]},
            "chunk": options.chunk,
            "rounds": rounds,
            "milliseconds": race(made, counts, rounds),
            "agreement": agreement(made, 4 if options.quick else 16),
        }
        if not options.quick:
            document["gflop"] = arithmetic()
        if not options.quick and not on_gpu:
            document["peak_memory_mb"] = {
                name: {str(n): peak_memory(name, n, options, Path(temporary)) for n in (64, 1024)}
                for name in made
            }
    show(document, counts)
    if not options.quick:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n")


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


if __name__ == "__main__":
    main()
