"""What is wrong is said in our sentences and caught by either kind of `except`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from anymask.compat import (  # noqa: E402
    ResizeLongestSide,
    SamAutomaticMaskGenerator,
    SamPredictor,
    from_pretrained,
    sam_model_registry,
)
from anymask.errors import (  # noqa: E402
    AnymaskError,
    ImageFormatError,
    InputError,
    ModelError,
    NotFoundError,
    PromptError,
    WeightsError,
)
from anymask.predict.segmenter import Segmenter  # noqa: E402
from anymask.runtime.fake_backend import FakeBackend  # noqa: E402


@pytest.fixture(params=["network", "segmenter"])
def predictor(request, sam) -> SamPredictor:
    return SamPredictor(sam if request.param == "network" else Segmenter(FakeBackend()))


@pytest.mark.parametrize(
    "call",
    [
        lambda p: p.predict(np.array([[1, 1]]), np.array([1])),
        lambda p: p.predict_torch(None, None, boxes=torch.ones(1, 4)),
        lambda p: p.get_image_embedding(),
    ],
    ids=["predict", "predict_torch", "get_image_embedding"],
)
def test_an_image_comes_first(predictor, picture, call):
    with pytest.raises(RuntimeError, match=r"\.set_image\(\.\.\.\)") as caught:
        call(predictor)
    assert isinstance(caught.value, InputError)
    predictor.set_image(picture)
    predictor.reset_image()
    with pytest.raises(RuntimeError):
        call(predictor)


@pytest.mark.parametrize("image_format", ["rgb", "RGBA", "", None])
def test_another_order_of_channels(predictor, picture, image_format):
    with pytest.raises(AssertionError, match="RGB") as caught:
        predictor.set_image(picture, image_format)
    assert isinstance(caught.value, InputError)
    assert not predictor.is_image_set


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (np.zeros((9, 9), dtype=np.uint8), AssertionError),
        (np.zeros((9, 9, 4), dtype=np.uint8), AssertionError),
        (np.zeros((1, 9, 9, 3), dtype=np.uint8), AssertionError),
        (np.zeros((0, 9, 3), dtype=np.uint8), AssertionError),
        (np.zeros((9, 9, 3), dtype=np.float32), TypeError),
        ("photo.jpg", TypeError),
    ],
)
def test_another_kind_of_image(predictor, image, kind):
    with pytest.raises(kind) as caught:
        predictor.set_image(image)
    assert isinstance(caught.value, InputError)


@pytest.mark.parametrize("shape", [(3, 96, 128), (1, 3, 96, 127), (1, 4, 96, 128), (1, 3, 200, 128)])
def test_another_shape_of_pixels(sam, shape):
    with pytest.raises(AssertionError, match="BCHW with long side 128"):
        SamPredictor(sam).set_torch_image(torch.zeros(shape), (96, 128))


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"point_coords": np.array([[1, 1]])}, AssertionError),
        ({"point_coords": np.array([1, 1]), "point_labels": np.array([1])}, PromptError),
        ({"point_coords": np.array([[1, 1]]), "point_labels": np.array([1, 0])}, PromptError),
        ({"point_coords": np.array([[1, 1]]), "point_labels": np.array([7])}, PromptError),
        ({"box": np.ones((2, 4))}, PromptError),
        ({"box": np.ones(3)}, PromptError),
        ({"mask_input": np.ones((32, 32))}, PromptError),
        ({"mask_input": np.ones((3, 32, 32))}, PromptError),
        ({"mask_input": np.ones((1, 31, 32))}, AnymaskError),
    ],
)
def test_prompts_of_another_shape(predictor, picture, arguments, kind):
    predictor.set_image(picture)
    with pytest.raises(kind) as caught:
        predictor.predict(**arguments)
    assert isinstance(caught.value, AnymaskError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"points_per_side": None},
        {"point_grids": [np.array([[0.5, 0.5]])]},
        {"output_mode": "png"},
    ],
)
def test_arguments_of_the_generator_that_the_published_code_asserts(sam, arguments):
    with pytest.raises(AssertionError) as caught:
        SamAutomaticMaskGenerator(sam, **arguments)
    assert isinstance(caught.value, InputError)


@pytest.mark.parametrize(
    "arguments", [{"pred_iou_thresh": 2.0}, {"crop_n_layers": 99}, {"points_per_side": 0}]
)
def test_values_out_of_range_are_refused_at_birth(sam, arguments):
    with pytest.raises(InputError):
        SamAutomaticMaskGenerator(sam, **arguments)


def test_the_generator_wants_an_image(sam):
    with pytest.raises(TypeError) as caught:
        SamAutomaticMaskGenerator(sam).generate(np.zeros((9, 9, 3)))
    assert isinstance(caught.value, ImageFormatError)


def test_an_image_larger_than_the_frame_is_not_cut_silently(sam):
    with pytest.raises(ModelError, match="resize its long side first"):
        sam.preprocess(torch.zeros(3, 129, 100))


def test_an_image_of_another_kind_cannot_be_resized():
    with pytest.raises(TypeError, match="float64"):
        ResizeLongestSide(64).apply_image(np.zeros((4, 4, 3)))
    with pytest.raises(AssertionError, match="channels"):
        ResizeLongestSide(64).apply_image(np.zeros((4, 4, 5), dtype=np.uint8))


def test_a_checkpoint_that_is_not_there():
    with pytest.raises(FileNotFoundError, match=r"no checkpoint 'nowhere\.pth'") as caught:
        sam_model_registry["vit_b"](checkpoint="nowhere.pth")
    assert isinstance(caught.value, NotFoundError)
    assert str(caught.value).startswith("there is no checkpoint")


@pytest.mark.parametrize("name", ["facebook/sam-vit-base", "some-id", "./nowhere"])
def test_an_id_of_a_hub_is_no_folder(name):
    with pytest.raises(OSError, match="anymask models pull") as caught:
        from_pretrained(name)
    assert isinstance(caught.value, NotFoundError)


def test_a_name_that_is_not_in_the_registry():
    with pytest.raises(KeyError):
        sam_model_registry["vit_x"]


def test_a_checkpoint_of_another_model(sam, tmp_path):
    """Our tiny network kept under its sizes is none of the published ones."""
    from anymask.model.families import save_network

    save_network(sam, sam.config, tmp_path / "tiny.safetensors")
    with pytest.raises(WeightsError, match="is of 'tiny_test', not of 'vit_b'"):
        sam_model_registry["vit_b"](checkpoint=tmp_path / "tiny.safetensors")


WITHOUT_TORCH = """
import sys; sys.modules["torch"] = sys.modules["onnx"] = None
import numpy as np
import anymask
from anymask.compat import SamPredictor, SamAutomaticMaskGenerator, ResizeLongestSide, sam_model_registry
from anymask.errors import MissingExtraError
segmenter = anymask.load({model!r}, threads=1)
image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
predictor = SamPredictor(segmenter)
predictor.set_image(image)
masks, scores, logits = predictor.predict(np.array([[9, 9]]), np.array([1]))
predictor.predict(box=np.array([1, 1, 30, 30]), mask_input=logits[:1], multimask_output=False)
SamAutomaticMaskGenerator(segmenter, points_per_side=2).generate(image)
ResizeLongestSide(128).apply_image(image)
def refused(call):
    try:
        call()
    except MissingExtraError as error:
        assert "pip install 'anymask[torch]'" in str(error)
        return True
    return False
import anymask.compat
calls = (
    lambda: sam_model_registry["vit_b"](checkpoint="x.pth"),
    lambda: predictor.get_image_embedding(),
    lambda: predictor.device,
    lambda: predictor.predict_torch(None, None),
    lambda: ResizeLongestSide(4).apply_coords_torch(None, (4, 4)),
    lambda: anymask.compat.Sam,
    lambda: anymask.compat.SamOnnxModel,
)
print([refused(call) for call in calls], masks.shape, scores.shape, logits.shape)
"""


def test_a_segmenter_needs_no_torch(nano_folder: Path, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH.format(model=str(nano_folder))],
        capture_output=True,
        text=True,
        env={**os.environ, "ANYMASK_CACHE_DIR": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{[True] * 7} (3, 40, 60) (3,) (3, 24, 32)"


def test_importing_the_names_imports_no_torch():
    code = "import sys, anymask.compat; print('torch' in sys.modules, 'onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False False", done.stderr
