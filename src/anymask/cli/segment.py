"""``anymask segment``: photographs and one prompt in; masks, overlays and records out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anymask.cli import console
from anymask.errors import AnymaskError

if TYPE_CHECKING:
    from anymask.cli.results import Answer
    from anymask.predict.closer import CloserLook
    from anymask.predict.segmenter import Segmenter
    from anymask.types import Prompt


def segment(
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE", help="Photos: JPEG, PNG, WebP or TIFF; - reads a list of paths."),
    ],
    point: Annotated[
        list[str] | None,
        typer.Option("--point", metavar="x,y", help="A click on the object, in pixels; repeatable."),
    ] = None,
    background: Annotated[
        list[str] | None,
        typer.Option("--background", metavar="x,y", help="A click beside the object; repeatable."),
    ] = None,
    box: Annotated[str | None, typer.Option(metavar="x1,y1,x2,y2", help="A box around the object.")] = None,
    mask: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A rough mask: black and white, of the image's size.")
    ] = None,
    all_candidates: Annotated[
        bool, typer.Option("--all-candidates", help="Write three nested answers, not only the best.")
    ] = False,
    closer: Annotated[
        bool, typer.Option("--closer", help="Look again at the object alone: sharper, slower.")
    ] = False,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where results go; made when missing.")] = Path(
        "out"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    model: Annotated[
        str | None, typer.Option(metavar="NAME|PATH", help="The model; see anymask models.  [default: nano]")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(metavar="N", help="Threads for one image; 0 chooses.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="auto, onnx, openvino or torch.  [default: auto]")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="NAME", help="fp32, bf16 or int8.  [default: fp32]")
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="cpu, or for torch e.g. cuda.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more, on standard error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Segment one object in each photo.

    Point at it with clicks, a box, a rough mask or any mix; the same prompt is used for every image. For each image
    NAME this writes NAME_mask.png (0 outside, 255 inside), NAME_overlay.png (for looking at) and NAME.json (an SA-1B
    record). An image that fails is reported and the others go on.
    """
    from anymask.cli.arguments import check_output_folder, image_paths, parse_prompt, result_names

    console.set_verbosity(verbose=verbose, quiet=quiet)
    prompt = parse_prompt(point or [], background or [], box, mask)
    check_output_folder(out)
    paths = image_paths(images)
    segmenter = _load(model, backend, device, threads, precision)
    look = _closer_look(segmenter) if closer else None
    job = _Job(segmenter, look, prompt, out, all_candidates=all_candidates, talk=not as_json)
    results = job.run(paths, result_names(paths))
    if as_json:
        console.print_json(_document(segmenter, closer, results, job.failures))
    if job.failures:
        if len(paths) > 1:
            console.complain(f"{len(job.failures)} of {len(paths)} images failed")
        statuses = {failure.exit_status for failure in job.failures}
        raise typer.Exit(statuses.pop() if len(statuses) == 1 else AnymaskError.exit_status)


@dataclass
class _Job:
    """One prompt over many images; failures are gathered, not thrown."""

    segmenter: Segmenter
    look: CloserLook | None
    prompt: Prompt
    folder: Path
    all_candidates: bool
    talk: bool

    def __post_init__(self) -> None:
        self.failures: list[AnymaskError] = []

    def run(self, paths: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
        """A result for each image, in order; an error counts as one."""
        jobs = list(enumerate(zip(paths, names, strict=True)))
        return [
            self._one(number, path, name)
            for number, (path, name) in console.with_progress(jobs, "segmenting")
        ]

    def _one(self, number: int, path: str, name: str) -> dict[str, Any]:
        from anymask.cli.results import write_answer

        try:
            answer = self._answer(path)
            files = write_answer(answer, self.folder, name, number, numbered=self.all_candidates)
        except AnymaskError as error:
            self.failures.append(error)
            console.complain(f"{path}: {error}")
            return {"image": path, "error": {"code": error.code, "message": str(error)}}
        if self.talk:
            _tell(answer, files)
        return _result(answer, files)

    def _answer(self, path: str) -> Answer:
        from anymask.cli.results import Answer
        from anymask.image import read_image

        image = read_image(path)
        self.prompt.validate_for(image.width, image.height)
        start = time.perf_counter()
        embedding = self.segmenter.embed(image)
        encoded = time.perf_counter()
        masks = self.segmenter.segment_many(embedding, [self.prompt], multimask=self._is_ambiguous())[0]
        kept = masks if self.all_candidates else masks[:1]
        if self.look is not None:
            kept = self.look.look_closer(image, self.prompt, kept)
        decoded = time.perf_counter()
        return Answer(path, image, self.prompt, kept, 1e3 * (encoded - start), 1e3 * (decoded - encoded))

    def _is_ambiguous(self) -> bool:
        """One click may mean a part or the whole: choose among three; for anything more the model has one answer."""
        prompt = self.prompt
        one_click = prompt.points is not None and len(prompt.points) == 1
        return self.all_candidates or (one_click and prompt.box is None and prompt.mask is None)


def _load(
    model: str | None, backend: str | None, device: str | None, threads: int | None, precision: str | None
) -> Segmenter:
    """The segmenter, warmed up where that is cheap, so that times told are those of any later image too."""
    import numpy as np

    from anymask.predict.loading import load
    from anymask.runtime.engine import engine_of

    start = time.perf_counter()
    segmenter = load(model, backend=backend, device=device, threads=threads, precision=precision)
    if segmenter.spec.pad != "square":
        segmenter.segment(np.zeros((1, 16, 3), dtype=np.uint8), points=[(0, 0)])
    spec = segmenter.spec
    console.explain(
        f"model {spec.name}, digest {spec.digest}, {engine_of(segmenter.backend)}, "
        f"ready in {1e3 * (time.perf_counter() - start):.0f} ms"
    )
    return segmenter


def _closer_look(segmenter: Segmenter) -> CloserLook:
    from anymask.predict.closer import CloserLook

    return CloserLook(segmenter)


def _tell(answer: Answer, files: dict[str, Path]) -> None:
    """A few lines for people."""
    height, width = answer.image.size
    console.say(f"{answer.path}  {width} x {height}")
    for number, mask in enumerate(answer.masks, start=1):
        first = "score " if len(answer.masks) == 1 else f"score {number}"
        x0, y0, x1, y1 = mask.box_xyxy
        where = f"box {x0},{y0},{x1},{y1}" if mask.area else "nothing found"
        share = 100.0 * mask.area / (height * width)
        console.say(f"  {first}  {mask.score:.3f}   area {mask.area} px ({share:.1f} %)   {where}")
    console.say(f"  encode  {answer.encode_ms:.0f} ms   decode {answer.decode_ms:.0f} ms")
    console.say(f"  files   {'  '.join(str(path) for path in files.values())}")


def _result(answer: Answer, files: dict[str, Path]) -> dict[str, Any]:
    """The same for machines."""
    masks = [
        {"score": mask.score, "area": mask.area, "box_xyxy": list(mask.box_xyxy), "mask": str(path)}
        for mask, (kind, path) in zip(answer.masks, files.items(), strict=False)
        if kind.startswith("mask")
    ]
    return {
        "image": answer.path,
        "width": answer.image.width,
        "height": answer.image.height,
        "encode_ms": round(answer.encode_ms, 3),
        "decode_ms": round(answer.decode_ms, 3),
        "masks": masks,
        "overlay": str(files["overlay"]),
        "record": str(files["record"]),
    }


def _document(
    segmenter: Segmenter, closer: bool, results: list[dict[str, Any]], failures: Sequence[AnymaskError]
) -> dict[str, Any]:
    from anymask import __version__
    from anymask.runtime.engine import engine_of

    spec, engine = segmenter.spec, engine_of(segmenter.backend)
    return {
        "anymask": __version__,
        "model": {"name": spec.name, "digest": spec.digest},
        "closer": closer,
        "engine": {"name": engine.name, "precision": engine.precision, "device": engine.device},
        "results": results,
        "failed": len(failures),
    }
