"""What is imported when: nothing at `import anymask`, no torch in default use. Each case in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "cv2", "onnxruntime", "numpy", "PIL", "onnx", "transformers", "scipy", "matplotlib")

DEFAULT_USE = """
import sys
import anymask, numpy as np
segmenter = anymask.load({model!r}, threads=1, cache=True)
pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
embedding = segmenter.embed(pixels)
embedding.save({folder!r} + "/a.emb.safetensors")
embedding = anymask.Embedding.load({folder!r} + "/a.emb.safetensors")
masks = segmenter.segment(embedding, points=[(9, 9)], labels=[1])
again = segmenter.segment(embedding, box=(1, 1, 30, 30), mask=masks[0].low_res_logits, multimask=False)
many = segmenter.segment_many(embedding, [anymask.Prompt(points=[(5, 5)]), anymask.Prompt(box=(1, 1, 9, 9))])
masks[0].save({folder!r} + "/a.png"); masks[0].rle; masks[0].polygons(); masks.to_records()
"""

FAKE_USE = """
import sys
import numpy as np
from anymask.predict.segmenter import Segmenter
from anymask.runtime.fake_backend import FakeBackend
Segmenter(FakeBackend()).segment(np.zeros((9, 9, 3), dtype=np.uint8), points=[(5, 5)])
"""


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_default_use_never_imports_torch(nano_folder: Path, tmp_path: Path) -> None:
    code = DEFAULT_USE.format(model=str(nano_folder), folder=str(tmp_path))
    seen = run(
        code + "print('torch' in sys.modules, 'onnx' in sys.modules, 'onnxruntime' in sys.modules)",
        ANYMASK_CACHE_DIR=str(tmp_path / "cache"),
    )
    assert seen == "False False True"


def test_default_use_works_where_torch_cannot_be_imported(nano_folder: Path, tmp_path: Path) -> None:
    """As after a plain `pip install .`."""
    absent = "import sys; sys.modules['torch'] = sys.modules['onnx'] = None\n"
    run(
        absent + DEFAULT_USE.format(model=str(nano_folder), folder=str(tmp_path)),
        ANYMASK_CACHE_DIR=str(tmp_path / "cache"),
    )


def test_the_fake_backend_needs_no_engine() -> None:
    assert run(FAKE_USE + "print('torch' in sys.modules, 'onnxruntime' in sys.modules)") == "False False"


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = f"import sys, anymask; print([name for name in {HEAVY} if name in sys.modules])"
    assert run(code) == "[]"


@pytest.mark.parametrize(
    "module", ["anymask.runtime.registry", "anymask.runtime.onnx_backend", "anymask.predict.loading"]
)
def test_the_layers_import_no_engine(module: str) -> None:
    code = f"import sys, {module}; print([name for name in ('torch', 'onnxruntime', 'onnx') if name in sys.modules])"
    assert run(code) == "[]"


def test_the_import_takes_less_than_three_tenths_of_a_second() -> None:
    """Processor time, which is what a person waits for on a machine that is not busy; the best of five processes."""
    code = "import time; start = time.process_time(); import anymask; print(time.process_time() - start)"
    assert min(float(run(code)) for _ in range(5)) < 0.3
