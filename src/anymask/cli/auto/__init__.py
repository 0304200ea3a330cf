"""``anymask auto``: masks of everything in many photos, in the formats of others; goes on after a stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from anymask.cli import console

__all__ = ["auto"]

_GRID: Final = "Where to look"
_KEEP: Final = "What to keep"
_WRITE: Final = "What is written"
_MODEL: Final = "Model and machine"


def auto(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE|DIR",
            help="Photos (JPEG, PNG, WebP, TIFF) or folders of them; - reads a list of paths.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The run's folder; made when missing.")] = Path(
        "out"
    ),
    recursive: Annotated[bool, typer.Option("--recursive", help="Look into subfolders too.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more, on standard error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    format_: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="sa1b, coco, png, yolo, labelmap, or several: sa1b,coco.  [default: sa1b]",
            rich_help_panel=_WRITE,
        ),
    ] = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Draw a picture to look at.", rich_help_panel=_WRITE)
    ] = False,
    copy_images: Annotated[
        bool,
        typer.Option(
            "--copy-images",
            help="Put the photos beside the masks of sa1b, coco and yolo.",
            rich_help_panel=_WRITE,
        ),
    ] = False,
    shards: Annotated[
        int | None,
        typer.Option(
            metavar="MB",
            help="SA-1B tar shards of photos and records, so large each.",
            rich_help_panel=_WRITE,
        ),
    ] = None,
    polygons: Annotated[
        bool,
        typer.Option("--polygons", help="coco: polygons where they hold the mask.", rich_help_panel=_WRITE),
    ] = False,
    tolerance: Annotated[
        float,
        typer.Option(metavar="PX", help="coco, yolo: thin outlines by so much.", rich_help_panel=_WRITE),
    ] = 0.0,
    on_top: Annotated[
        str,
        typer.Option(
            "--on-top", metavar="smaller|better", help="labelmap: which mask shows.", rich_help_panel=_WRITE
        ),
    ] = "smaller",
    effort: Annotated[
        str, typer.Option(metavar="fast|normal|thorough", help="Sets the rest.", rich_help_panel=_GRID)
    ] = "normal",
    roi: Annotated[
        str | None,
        typer.Option(metavar="x0,y0,x1,y1", help="Only in this box of each photo.", rich_help_panel=_GRID),
    ] = None,
    points_per_side: Annotated[
        int | None, typer.Option(metavar="N", help="Clicks in a row and in a column.", rich_help_panel=_GRID)
    ] = None,
    points_per_batch: Annotated[
        int | None,
        typer.Option(metavar="N", help="Clicks decoded together; memory only.", rich_help_panel=_GRID),
    ] = None,
    adaptive: Annotated[
        bool | None,
        typer.Option(
            "--adaptive/--full-grid", help="Do not click what is found already.", rich_help_panel=_GRID
        ),
    ] = None,
    enough_clicks: Annotated[
        int | None,
        typer.Option(metavar="N", help="Found so often is found, when adaptive.", rich_help_panel=_GRID),
    ] = None,
    least_promise: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Hopeless below this share of --pred-iou-thresh, when adaptive.",
            rich_help_panel=_GRID,
        ),
    ] = None,
    frame_side: Annotated[
        int | None,
        typer.Option(
            metavar="PX",
            help="The model sees photos at most so large; less is faster.",
            rich_help_panel=_GRID,
        ),
    ] = None,
    crop_n_layers: Annotated[
        int | None, typer.Option(metavar="N", help="Layers of crops for small things.", rich_help_panel=_GRID)
    ] = None,
    crop_overlap_ratio: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Overlap of the crops of layer 1.", rich_help_panel=_GRID),
    ] = None,
    crop_n_points_downscale_factor: Annotated[
        int | None,
        typer.Option(metavar="N", help="Fewer clicks per side, layer by layer.", rich_help_panel=_GRID),
    ] = None,
    pred_iou_thresh: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Least predicted IoU.", rich_help_panel=_KEEP)
    ] = None,
    stability_score_thresh: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Least stability.", rich_help_panel=_KEEP)
    ] = None,
    stability_score_offset: Annotated[
        float | None, typer.Option(metavar="X", help="How it is measured, in logits.", rich_help_panel=_KEEP)
    ] = None,
    box_nms_thresh: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Boxes that overlap more are duplicates.", rich_help_panel=_KEEP),
    ] = None,
    crop_nms_thresh: Annotated[
        float | None, typer.Option(metavar="SHARE", help="The same, between crops.", rich_help_panel=_KEEP)
    ] = None,
    min_mask_region_area: Annotated[
        int | None,
        typer.Option(metavar="PX", help="Fill and remove smaller holes and islands.", rich_help_panel=_KEEP),
    ] = None,
    max_area: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Drop masks of a larger share of the photo.", rich_help_panel=_KEEP
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH", help="See anymask models.  [default: nano]", rich_help_panel=_MODEL
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="onnx, openvino or torch.", rich_help_panel=_MODEL),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="cpu, or for torch e.g. cuda.", rich_help_panel=_MODEL)
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", help="Threads for one photo; 0 chooses.", rich_help_panel=_MODEL),
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", help="Photos at a time.", rich_help_panel=_MODEL)] = 1,
) -> None:
    """Find masks of everything in each photo, without clicks.

    Writes them below --out in each format asked for. Stopped or killed, run the same again: it goes on where it was,
    and the folder becomes what it would have been. A photo that fails is reported and the others go on.
    """
    from anymask.cli.auto.request import Request

    given: dict[str, Any] = {
        "points_per_side": points_per_side,
        "points_per_batch": points_per_batch,
        "pred_iou_thresh": pred_iou_thresh,
        "stability_score_thresh": stability_score_thresh,
        "stability_score_offset": stability_score_offset,
        "box_nms_thresh": box_nms_thresh,
        "crop_n_layers": crop_n_layers,
        "crop_nms_thresh": crop_nms_thresh,
        "crop_overlap_ratio": crop_overlap_ratio,
        "crop_n_points_downscale_factor": crop_n_points_downscale_factor,
        "min_mask_region_area": min_mask_region_area,
        "max_area_share": max_area,
        "adaptive": adaptive,
        "enough_clicks": enough_clicks,
        "least_promise": least_promise,
        "frame_side": frame_side,
    }
    console.set_verbosity(verbose=verbose, quiet=quiet)
    request = Request(
        images=images,
        out=out,
        recursive=recursive,
        formats=format_ or ["sa1b"],
        overlay=overlay,
        copy_images=copy_images,
        shards=shards,
        polygons=polygons,
        tolerance=tolerance,
        on_top=on_top,
        effort=effort,
        roi=roi,
        parameters={name: value for name, value in given.items() if value is not None},
        model=model,
        backend=backend,
        device=device,
        threads=threads,
        workers=workers,
    )
    status = request.tell_plan(as_json) if dry_run else request.run(as_json)
    if status:
        raise typer.Exit(status)
