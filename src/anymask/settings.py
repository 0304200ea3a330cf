"""Settings: literal defaults, overridden by a TOML file, overridden by the environment.

The file is ``$ANYMASK_CONFIG`` or ``~/.config/anymask/config.toml`` (missing is fine unless named
explicitly); its keys are the field names below.  The environment uses ``ANYMASK_`` and the field name in
capitals, for instance ``ANYMASK_THREADS=4``.  Other ``ANYMASK_*`` variables are left to whoever set them.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

from anymask.errors import SettingsError
from anymask.limits import MAX_SETTINGS_BYTES, MAX_THREADS

__all__ = ["BACKENDS", "PRECISIONS", "Settings", "load_settings"]

BACKENDS: Final = ("auto", "onnx", "openvino", "torch")
PRECISIONS: Final = ("fp32", "bf16", "int8")
_PREFIX: Final = "ANYMASK_"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user may set.  Raises ``SettingsError`` naming the key and the value seen."""

    model: str = "nano"
    """Name in the model registry or path of a model."""
    backend: str = "auto"
    """One of ``BACKENDS``; ``auto`` takes the fastest engine that is installed and agrees with the others."""
    precision: str = "fp32"
    """One of ``PRECISIONS``; what is not ``fp32`` is faster and a little less exact."""
    device: str = "cpu"
    """``cpu``, or a device name the backend knows, such as ``cuda`` or ``cuda:1``."""
    threads: int = 0
    """Threads for one inference; 0 leaves the choice to the backend."""
    cache_dir: Path = Path("~/.cache/anymask")
    """Where models and embeddings are cached; ``~`` is expanded."""
    cache_bytes: int = 2 * 1024**3
    """Largest size of the embedding cache on disk; 0 turns it off."""
    offline: bool = False
    """Refuse every download."""
    graphs: bool = True
    """Export a checkpoint that is used on the CPU once into the cache folder, and run it from there."""

    def __post_init__(self) -> None:
        for name in ("model", "backend", "precision", "device"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise SettingsError(f"setting {name!r} must be a non-empty text, got {value!r}")
        if self.backend not in BACKENDS:
            raise SettingsError(
                f"setting 'backend' must be one of {', '.join(BACKENDS)}, got {self.backend!r}"
            )
        if self.precision not in PRECISIONS:
            raise SettingsError(
                f"setting 'precision' must be one of {', '.join(PRECISIONS)}, got {self.precision!r}"
            )
        _check_whole("threads", self.threads, MAX_THREADS)
        _check_whole("cache_bytes", self.cache_bytes, 2**63 - 1)
        for name in ("offline", "graphs"):
            if not isinstance(getattr(self, name), bool):
                raise SettingsError(f"setting {name!r} must be true or false, got {getattr(self, name)!r}")
        if not isinstance(self.cache_dir, (str, Path)) or not str(self.cache_dir).strip():
            raise SettingsError(f"setting 'cache_dir' must be a path, got {self.cache_dir!r}")
        try:
            expanded = Path(self.cache_dir).expanduser()
        except RuntimeError as error:
            raise SettingsError(
                f"setting 'cache_dir' cannot be expanded, got {str(self.cache_dir)!r}"
            ) from error
        object.__setattr__(self, "cache_dir", expanded)


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Defaults, then the file, then the environment (``os.environ`` when none is given).

    Raises ``SettingsError`` for an unreadable file, an unknown key in it, or a bad value anywhere.
    """
    environ = os.environ if environ is None else environ
    settings = replace(Settings(), **_from_file(environ))  # type: ignore[arg-type]
    values: dict[str, object] = {}
    for field in fields(Settings):
        text = environ.get(_PREFIX + field.name.upper())
        if text is not None:
            values[field.name] = _from_text(field.name, text)
    return replace(settings, **values)  # type: ignore[arg-type]


def _check_whole(name: str, value: object, largest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
        raise SettingsError(f"setting {name!r} must be a whole number from 0 to {largest}, got {value!r}")


def _from_text(name: str, text: str) -> object:
    """An environment text as the type of the field's default."""
    default = getattr(Settings(), name)
    if isinstance(default, bool):
        words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}
        if text.strip().lower() not in words:
            raise SettingsError(f"{_PREFIX}{name.upper()} must be 1 or 0 (true or false), got {text!r}")
        return words[text.strip().lower()]
    if isinstance(default, int):
        if not (text.strip().isascii() and text.strip().isdigit() and len(text.strip()) < 20):
            raise SettingsError(f"{_PREFIX}{name.upper()} must be a whole number, 0 or more, got {text!r}")
        return int(text)
    return Path(text) if isinstance(default, Path) and text.strip() else text


def _from_file(environ: Mapping[str, str]) -> dict[str, object]:
    named = environ.get(_PREFIX + "CONFIG")
    path = Path(named) if named else Path(environ.get("HOME", "~"), ".config/anymask/config.toml")
    try:
        path = path.expanduser()
        if not named and not path.is_file():
            return {}
        with path.open("rb") as file:
            raw = file.read(MAX_SETTINGS_BYTES + 1)
    except (OSError, RuntimeError) as error:
        raise SettingsError(f"could not read the settings file {str(path)!r}: {error}") from error
    if len(raw) > MAX_SETTINGS_BYTES:
        raise SettingsError(f"the settings file {str(path)!r} is over {MAX_SETTINGS_BYTES} bytes")
    try:
        values = tomllib.loads(raw.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"the settings file {str(path)!r} is not TOML: {error}") from error
    known = [field.name for field in fields(Settings)]
    for key, value in values.items():
        if key not in known:
            raise SettingsError(
                f"unknown setting {key!r} = {value!r} in {str(path)!r}; the settings are {', '.join(known)}"
            )
    return values
