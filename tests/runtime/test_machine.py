"""What is known of the processor."""

from __future__ import annotations

import pytest

from anymask.runtime import machine


@pytest.mark.parametrize(
    ("kind", "flags", "bits"),
    [
        ("x86_64", "sse4_2 avx2 fma", 7),
        ("x86_64", "avx2 avx512f avx512bw", 7),
        ("AMD64", "", 7),
        ("x86_64", "avx2 avx512f avx512_vnni", 8),
        ("x86_64", "avx2 avx_vnni", 8),
        ("arm64", "", 8),
        ("aarch64", "", 8),
    ],
)
def test_weights_fit_the_sums_of_the_processor(
    monkeypatch: pytest.MonkeyPatch, kind: str, flags: str, bits: int
) -> None:
    monkeypatch.setattr(machine.platform, "machine", lambda: kind)
    monkeypatch.setattr(machine, "processor", lambda: f"{kind} Some Processor {flags}")
    machine.int8_weight_bits.cache_clear()
    try:
        assert machine.int8_weight_bits() == bits
    finally:
        machine.int8_weight_bits.cache_clear()
