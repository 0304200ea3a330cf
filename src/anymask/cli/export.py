"""``anymask export``: a model as graphs for onnxruntime or OpenVINO, or its decoder under the published contract."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from anymask.cli import console
from anymask.errors import AnymaskError, InputError, LimitError, MissingExtraError, ModelError

if TYPE_CHECKING:
    from anymask.settings import Settings
    from anymask.types import Image

FORMATS: Final = ("onnx", "openvino")
PRECISIONS: Final = ("fp32", "bf16", "int8")


def export(
    model: Annotated[str, typer.Argument(metavar="NAME|PATH", help="The model; see anymask models.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the files go; made when missing.")],
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="onnx or openvino.")] = "onnx",
    precision: Annotated[
        str,
        typer.Option(metavar="NAME", help="fp32; int8 (the encoder); bf16 (for openvino)."),
    ] = "fp32",
    calibrate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|DIR",
            help="For int8 in openvino: photographs that the scales of the 8 bits are taken from; may be given several "
            "times.  [default: a drawn picture]",
        ),
    ] = None,
    published_decoder: Annotated[
        bool,
        typer.Option(
            "--published-decoder",
            help="Write only decoder.onnx with the inputs and outputs of the published ONNX decoder.",
        ),
    ] = False,
    threads: Annotated[
        int | None, typer.Option(metavar="N", help="Threads for the checks; 0 chooses.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Export a model, once it is proven that the files answer like the model.

    Writes encoder, decoder and manifest to --out; give that folder as --model. Refused, with nothing written, when the
    files do not agree with the model.
    """
    from dataclasses import replace

    from anymask.settings import load_settings

    _check(to, precision, published_decoder, bool(calibrate))
    settings = load_settings()
    if threads is not None:
        settings = replace(settings, threads=threads)
    if published_decoder:
        facts = _export_decoder(model, out, settings)
    else:
        facts = _export_model(model, out, to, precision, calibrate or (), settings)
    files = {file.name: file.stat().st_size for file in sorted(out.iterdir()) if file.is_file()}
    if as_json:
        console.print_json({"folder": str(out), "files": files, "agreement": facts})
        return
    for name, size in files.items():
        console.say(f"{out / name}  {size / 1e6:.1f} MB")
    for name, value in facts.items():
        console.say(f"  {name:<14} {value:.3g}")


def _check(to: str, precision: str, published_decoder: bool, calibrated: bool) -> None:
    if to not in FORMATS:
        raise InputError(f"--to must be one of {', '.join(FORMATS)}, got {to!r:.40}")
    if precision not in PRECISIONS:
        raise InputError(f"--precision must be one of {', '.join(PRECISIONS)}, got {precision!r:.40}")
    if to == "onnx" and precision == "bf16":
        raise InputError("onnxruntime has no bf16 on a CPU; use --to openvino, or --precision int8")
    if calibrated and (to, precision) != ("openvino", "int8"):
        raise InputError(
            "--calibrate is for --to openvino --precision int8; onnxruntime takes its scales as it runs"
        )
    if published_decoder and (to, precision) != ("onnx", "fp32"):
        raise InputError("--published-decoder is an ONNX file in fp32; leave --to and --precision out")


def _export_model(
    model: str, out: Path, to: str, precision: str, calibrate: Sequence[str], settings: Settings
) -> dict[str, float]:
    """ONNX in fp32 first, in a temporary place when that is not what was asked for."""
    from dataclasses import asdict

    from anymask.runtime.registry import resolve

    entry = resolve(model, settings)
    pictures = _pictures(calibrate, out)
    with tempfile.TemporaryDirectory(prefix=".anymask-", dir=_parent(out)) as folder:
        wanted = (to, precision) == ("onnx", "fp32")
        if entry.engine == "onnx":
            if wanted:
                raise ModelError(
                    f"the model {entry.name!r} is kept as graphs already, in {str(entry.location)!r}"
                )
            source = Path(str(entry.location))
        else:
            source = out if wanted else Path(folder, entry.name)
            parity = _from_checkpoint(Path(str(entry.location)), source, entry.name)
            if wanted:
                return parity
        if to == "openvino":
            from anymask.runtime.openvino_export import convert_to_openvino

            return asdict(convert_to_openvino(source, out, precision, settings.threads, pictures))
        from anymask.runtime.int8_export import convert_to_int8

        return asdict(convert_to_int8(source, out, settings.threads))


def _pictures(calibrate: Sequence[str], out: Path) -> Iterator[Image] | None:
    """The pictures of files and folders, read one by one; None without any."""
    from anymask.cli.auto.inputs import find_sources
    from anymask.image import read_image
    from anymask.limits import MAX_CALIBRATION_PICTURES

    if not calibrate:
        return None
    sources = find_sources(calibrate, False, out)
    if len(sources) > MAX_CALIBRATION_PICTURES:
        raise LimitError(
            f"--calibrate names {len(sources)} pictures, over the limit of {MAX_CALIBRATION_PICTURES}; some dozens "
            "that differ are enough"
        )
    for source in sources:  # a bad one is told of now and not after minutes of exporting
        try:
            read_image(source.path)
        except AnymaskError as error:
            raise type(error)(f"--calibrate {source.path!r:.200}: {error}") from error
    return (read_image(source.path) for source in sources)


def _from_checkpoint(path: Path, folder: Path, name: str) -> dict[str, float]:
    from dataclasses import asdict

    network, config = _network(path, name)
    from anymask.model.export.network import export_network

    return asdict(export_network(network, config, folder, name, training={"checkpoint": path.name}))


def _export_decoder(model: str, out: Path, settings: Settings) -> dict[str, float]:
    from anymask.runtime.registry import resolve

    entry = resolve(model, settings)
    if entry.engine != "torch":
        raise ModelError(
            f"--published-decoder is made from a checkpoint, and {entry.name!r} is kept as graphs"
        )
    network, config = _network(Path(str(entry.location)), entry.name)
    from anymask.model.export.published_decoder import export_published_decoder

    return {"largest difference": export_published_decoder(network, config, out / "decoder.onnx")}


def _network(path: Path, name: str) -> tuple[Any, Any]:
    try:
        from anymask.runtime.torch_backend import load_any
    except ImportError as error:
        raise MissingExtraError(
            f"the export of {name!r} needs torch; install it with: pip install 'anymask[torch]'"
        ) from error
    return load_any(path)


def _parent(out: Path) -> Path:
    from anymask.cli.arguments import check_output_folder
    from anymask.errors import OutputError

    check_output_folder(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"could not make {str(out.parent)!r}: {error.strerror}") from error
    return out.parent
