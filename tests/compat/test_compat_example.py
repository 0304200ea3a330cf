"""The ported program runs with another model than nano's own, given as its checkpoint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

EXAMPLE = Path(__file__).parents[2] / "examples" / "port_from_segment_anything.py"


def test_the_ported_program_takes_a_checkpoint(nano_folder: Path, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, EXAMPLE, "nano", nano_folder],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("three masks (3, 400, 600)")
    mask = np.asarray(Image.open(tmp_path / "port_mask.png"))
    assert (mask.shape, set(np.unique(mask)) <= {0, 255}) == ((400, 600), True)


def test_only_its_import_is_ours():
    """Put the published name back, and nothing in the program speaks of us but nano."""
    code = EXAMPLE.read_text().split('"""', 2)[2]
    assert [line for line in code.splitlines() if "anymask" in line] == [
        "from anymask.compat import SamAutomaticMaskGenerator, SamPredictor, sam_model_registry"
    ]
