"""What a measurement or a compiled graph depends on besides the model: the processor and the engines' versions."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

_PACKAGES: Final = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}


@cache
def processor() -> str:
    """Name and flags of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    told = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "flags"))][:2]
    return f"{platform.machine()} {platform.processor()} {' '.join(told)}".strip()


_DOT_PRODUCTS: Final = {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"}


@cache
def int8_weight_bits() -> int:
    """How many bits of an int8 weight this processor's products can use: 8, or 7 where their sums would overflow.

    x86 without dot products of 8 bits adds pairs of them in 16 bits (``vpmaddubsw``), where two of full range do not
    fit and are cut off. Where the flags of an x86 cannot be read, 7 is sure.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686"):
        return 8
    return 8 if _DOT_PRODUCTS & set(processor().split()) else 7


def cores() -> int:
    """Logical processors that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@cache
def engine_versions() -> dict[str, str]:
    """The version of each engine by the name of its backend; empty where it is not installed."""
    versions = {}
    for name, package in _PACKAGES.items():
        try:
            versions[name] = version(package)
        except PackageNotFoundError:
            versions[name] = ""
    return versions


def installed(name: str) -> bool:
    """Whether the engine of the backend called ``name`` is installed; it is not imported."""
    return bool(engine_versions().get(name))
