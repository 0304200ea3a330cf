"""A model's folder in the layout of Hugging Face's hub, read from the local disk and from nowhere else.

Weights are safetensors: ``model.safetensors``, or the shards that ``model.safetensors.index.json`` names. What
the checkpoint lacks is an error, where transformers would fill it with random numbers and a warning.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from anymask.errors import MissingExtraError, ModelError, ModelFormatError, NotFoundError, WeightsError

__all__ = ["HfFolder", "quiet_transformers", "require_transformers", "set_threads"]

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
WEIGHTS_INDEX: Final = "model.safetensors.index.json"
PROCESSORS: Final = ("processor_config.json", "preprocessor_config.json")
"""Where the way from image to network is stated; the first counts where it has an ``image_processor``."""
CARD: Final = "README.md"
MAX_JSON_BYTES: Final = 16 * 1024**2
NEEDED: Final = "install it with: pip install 'anymask[eval,torch]'"


@dataclass(frozen=True)
class HfFolder:
    """What a folder holds, known before anything is loaded.

    Attributes:
        path: the folder.
        config: ``config.json``.
        image_processor: how images are prepared; empty where the folder does not say.
        weights: the safetensors files, in the order of their names.
    """

    path: Path
    config: Mapping[str, Any]
    image_processor: Mapping[str, Any]
    weights: tuple[Path, ...]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> HfFolder:
        """The folder at a path; nothing is loaded or fetched.

        Raises:
            NotFoundError: there is no such folder.
            ModelFormatError: it is not a model's, or its weights are not safetensors.
        """
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise NotFoundError(
                f"there is no folder {str(path)!r:.200}; give a local copy, nothing is downloaded"
            )
        config = _read_json(folder / CONFIG)
        if config is None or not isinstance(config.get("model_type"), str):
            raise ModelFormatError(f"{str(folder)!r:.200} has no {CONFIG} that names a model_type")
        return cls(folder, config, _image_processor(folder), _weights(folder))

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name

    @property
    def model_type(self) -> str:
        """The architecture's name in transformers."""
        return str(self.config["model_type"])

    @property
    def file_bytes(self) -> int:
        """Size of the weights."""
        return sum(file.stat().st_size for file in self.weights)

    @cached_property
    def digest(self) -> str:
        """SHA-256 text over the weights' bytes, the configuration and the preparation of images."""
        state = hashlib.sha256(b"hugging face folder v1\n")
        state.update(json.dumps([self.config, self.image_processor], sort_keys=True).encode())
        for file in self.weights:
            with file.open("rb") as stream:
                state.update(hashlib.file_digest(stream, "sha256").digest())
        return state.hexdigest()

    def sources(self) -> frozenset[str] | None:
        """The datasets that the card (the head of ``README.md``) names; None where it names none."""
        try:
            from huggingface_hub import metadata_load
        except ImportError:
            return None
        try:
            facts = metadata_load(self.path / CARD)
        except (OSError, ValueError):
            return None
        named = (facts or {}).get("datasets")
        if isinstance(named, str):
            named = [named]
        if not isinstance(named, list) or not named:
            return None
        return frozenset(str(name) for name in named)

    def load(self, auto_class: str, device: str = "cpu") -> Any:
        """The model in float32 and evaluation mode, by the name of one of transformers' Auto classes.

        Raises:
            MissingExtraError: transformers or torch is not installed.
            ModelFormatError: transformers has no such class for the model's type, or cannot build it here.
            WeightsError: the weights lack something, or do not fit.
            ModelError: torch has no such device.
        """
        transformers = require_transformers(self)
        import torch

        try:
            place = torch.device(device)
            torch.zeros(1, device=place)
        except (RuntimeError, AssertionError) as error:
            raise ModelError(f"torch has no device {device!r} here; use device='cpu'") from error
        try:
            with quiet_transformers():
                model, found = getattr(transformers, auto_class).from_pretrained(
                    str(self.path),
                    local_files_only=True,
                    use_safetensors=True,
                    trust_remote_code=False,
                    dtype=torch.float32,
                    output_loading_info=True,
                )
        except Exception as error:  # transformers raises whatever a configuration makes it stumble over
            raise ModelFormatError(
                f"transformers {transformers.__version__} cannot load {str(self.path)!r:.200} "
                f"({self.model_type}) with {auto_class}: {_first_line(error)}"
            ) from error
        self._check_keys(found)
        return model.eval().requires_grad_(False).to(place)

    def _check_keys(self, found: Mapping[str, Any]) -> None:
        faults = [f"missing: {name}" for name in sorted(found.get("missing_keys") or ())]
        faults += [f"misshapen: {name}" for name in sorted(map(str, found.get("mismatched_keys") or ()))]
        if faults:
            shown = "; ".join(faults[:5]) + ("; ..." if len(faults) > 5 else "")
            raise WeightsError(
                f"the weights in {str(self.path)!r:.200} do not fill a {self.model_type}: "
                f"{len(faults)} keys are wrong ({shown}); fetch them again"
            )


def require_transformers(folder: HfFolder) -> Any:
    """The module transformers; raises `MissingExtraError` where it or torch is not installed."""
    try:
        import torch  # noqa: F401
        import transformers
    except ImportError as error:
        raise MissingExtraError(
            f"{str(folder.path)!r:.200} needs transformers and torch; {NEEDED}"
        ) from error
    return transformers


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """transformers without its progress bars and notices, as it was afterwards."""
    from transformers import utils

    logging: Any = utils.logging  # without types
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def set_threads(threads: int | None) -> None:
    """torch's threads, which are the whole process's; None or 0 leaves them as they are."""
    if threads:
        import torch

        torch.set_num_threads(threads)


def _image_processor(folder: Path) -> Mapping[str, Any]:
    """As transformers looks for it: a nested statement first, then the file of its own."""
    whole, own = (_read_json(folder / name) for name in PROCESSORS)
    nested = (whole or {}).get("image_processor")
    return nested if isinstance(nested, dict) else own or {}


def _weights(folder: Path) -> tuple[Path, ...]:
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    index = _read_json(folder / WEIGHTS_INDEX)
    if index is None:
        raise ModelFormatError(
            f"{str(folder)!r:.200} has no {WEIGHTS}; weights are read as safetensors only, so convert them first"
        )
    try:
        names = sorted({str(name) for name in index["weight_map"].values()})
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelFormatError(f"{WEIGHTS_INDEX} of {str(folder)!r:.200} has no weight_map") from error
    files = tuple(folder / name for name in names)
    if not files or any(Path(name).name != name or not (folder / name).is_file() for name in names):
        raise ModelFormatError(
            f"{str(folder)!r:.200} lacks some of the shards that its {WEIGHTS_INDEX} names"
        )
    return files


def _read_json(path: Path) -> dict[str, Any] | None:
    """An object of a JSON file; None where there is no file."""
    try:
        if not path.is_file():
            return None
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelFormatError(f"{str(path)!r:.200} is over {MAX_JSON_BYTES} bytes")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFormatError(f"{str(path)!r:.200} is not readable JSON: {_first_line(error)}") from error
    if not isinstance(data, dict):
        raise ModelFormatError(f"{str(path)!r:.200} does not hold a JSON object")
    return data


def _first_line(error: BaseException) -> str:
    return f"{(str(error).strip().splitlines() or [type(error).__name__])[0]:.200}"
