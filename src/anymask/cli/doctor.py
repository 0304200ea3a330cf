"""``anymask doctor``: can this installation segment, and if not, why."""

from __future__ import annotations

import platform
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from anymask.cli import console
from anymask.errors import AnymaskError, OutputError

if TYPE_CHECKING:
    from anymask.settings import Settings

PACKAGES: Final = (
    "numpy",
    "pillow",
    "opencv-python-headless",
    "onnxruntime",
    "openvino",
    "safetensors",
    "typer",
    "rich",
    "torch",
)
ENGINES: Final = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    model: Annotated[
        str | None, typer.Option(metavar="NAME|PATH", help="The model to check.  [default: nano]")
    ] = None,
) -> None:
    """Check the installation: versions, model, engines, cache folder."""
    import anymask
    from anymask.runtime.machine import cores
    from anymask.settings import load_settings

    settings = load_settings()
    findings: dict[str, Any] = {
        "anymask": anymask.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": cores(),
        "threads": settings.threads,
        "packages": {name: _version(name) for name in PACKAGES},
        "backends": [name for name, module in ENGINES.items() if find_spec(module) is not None],
    }
    problems: list[AnymaskError] = []
    for name, check in (("model", _check_model), ("cache", _check_cache)):
        try:
            findings[name] = check(settings, model)
        except AnymaskError as error:
            problems.append(error)
            findings[name] = {"ok": False, "error": {"code": error.code, "message": str(error)}}
    findings["ok"] = not problems
    if as_json:
        console.print_json(findings)
    else:
        _tell(findings)
    for problem in problems:
        console.complain(str(problem))
    if problems:
        raise typer.Exit(problems[0].exit_status)


def _check_model(settings: Settings, model: str | None) -> dict[str, Any]:
    """Load the model, which verifies its files, and ask it once."""
    import numpy as np

    from anymask.predict.loading import load
    from anymask.runtime.engine import engine_of
    from anymask.runtime.registry import resolve

    wanted = settings.model if model is None else model
    entry = resolve(wanted, settings)
    start = time.perf_counter()
    segmenter = load(wanted)
    loaded = time.perf_counter()
    segmenter.segment(np.zeros((32, 32, 3), dtype=np.uint8), points=[(16, 16)])
    answered = time.perf_counter()
    engine = engine_of(segmenter.backend)
    return {
        "ok": True,
        "name": segmenter.spec.name,
        "digest": segmenter.spec.digest,
        "engine": engine.name,
        "precision": engine.precision,
        "location": str(entry.location),
        "load_ms": round(1e3 * (loaded - start), 3),
        "first_answer_ms": round(1e3 * (answered - loaded), 3),
    }


def _check_cache(settings: Settings, _model: str | None) -> dict[str, Any]:
    """Whether a file can be made in the cache folder, or in the nearest one above it that exists."""
    folder = nearest = settings.cache_dir
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        with tempfile.NamedTemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise OutputError(
            f"the cache folder {str(folder)!r} cannot be written: {error.strerror}; set ANYMASK_CACHE_DIR"
        ) from error
    return {"ok": True, "folder": str(folder)}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _tell(findings: dict[str, Any]) -> None:
    model, cache = findings["model"], findings["cache"]
    packages = ", ".join(f"{name} {seen}" for name, seen in findings["packages"].items() if seen)
    console.say(f"anymask   {findings['anymask']} on Python {findings['python']}, {findings['system']}")
    console.say(f"packages  {packages}")
    console.say(f"backends  {', '.join(findings['backends']) or 'none'}; {findings['processors']} processors")
    if model["ok"]:
        console.say(
            f"model     {model['name']}, verified, digest {model['digest'][:12]}, in {model['location']}"
        )
        console.say(f"          runs on {model['engine']} in {model['precision']}")
        console.say(
            f"          loaded in {model['load_ms']:.0f} ms, first answer in {model['first_answer_ms']:.0f} ms"
        )
    if cache["ok"]:
        console.say(f"cache     {cache['folder']} can be written")
    console.say("all is well" if findings["ok"] else "something is wrong, see below")
