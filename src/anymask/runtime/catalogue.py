"""The published checkpoints that can be fetched by name, as data.

Digests are those that at least two public files by different people state for the file at the origin; where no second
one was found there is none here, and `anymask models pull` asks for one. Licences are the ones that stand in the
origin's repository. Which sizes of network a checkpoint fills is named by `config`, as in `anymask.model.families`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["CATALOGUE", "Checkpoint", "find"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One published file of weights.

    Attributes:
        name: as `anymask models` knows it.
        family: the kind of network, `Family.name`.
        config: the published sizes it fills, a key of `Family.published`.
        parameters: trainable numbers in the network.
        size: bytes of the file; where the origin states none, four for each number in it.
        licence: as its origin states it.
        origin: page of the people who made it.
        url: where the file is fetched.
        sha256: of that file, or None where it could not be verified.
        member: the weights' name inside when the file is a zip archive around them.
        aliases: other names it is known by.
    """

    name: str
    family: str
    config: str
    parameters: int
    size: int
    licence: str
    origin: str
    url: str
    sha256: str | None
    member: str | None = None
    aliases: tuple[str, ...] = ()

    @property
    def megabytes(self) -> float:
        """Size in millions of bytes."""
        return self.size / 1e6


_APACHE: Final = "Apache-2.0"
_S_LAB: Final = "S-Lab License 1.0 (non-commercial)"
_SAM: Final = "https://github.com/facebookresearch/segment-anything"
_SAM_FILES: Final = "https://dl.fbaipublicfiles.com/segment_anything"
_HQ: Final = "https://github.com/SysCV/sam-hq"
_HQ_FILES: Final = "https://huggingface.co/lkeab/hq-sam/resolve/main"
_EDGE: Final = "https://github.com/chongzhou96/EdgeSAM"
_EDGE_FILES: Final = "https://huggingface.co/spaces/chongzhou/EdgeSAM/resolve/main/weights"
_EFFICIENT: Final = "https://github.com/yformer/EfficientSAM"
_EFFICIENT_FILES: Final = f"{_EFFICIENT}/raw/d525f622e6f640acf5a0fc37c7ca1f243da5bde0/weights"
_MOBILE: Final = "https://github.com/ChaoningZhang/MobileSAM"
_REPVIT: Final = "https://github.com/THU-MIG/RepViT"

CATALOGUE: Final[tuple[Checkpoint, ...]] = (
    Checkpoint(
        name="vit_b",
        family="sam",
        config="vit_b",
        parameters=93_735_472,
        size=375_042_383,
        licence=_APACHE,
        origin=_SAM,
        url=f"{_SAM_FILES}/sam_vit_b_01ec64.pth",
        sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    Checkpoint(
        name="vit_l",
        family="sam",
        config="vit_l",
        parameters=312_342_832,
        size=1_249_524_607,
        licence=_APACHE,
        origin=_SAM,
        url=f"{_SAM_FILES}/sam_vit_l_0b3195.pth",
        sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    Checkpoint(
        name="vit_h",
        family="sam",
        config="vit_h",
        parameters=641_090_608,
        size=2_564_550_879,
        licence=_APACHE,
        origin=_SAM,
        url=f"{_SAM_FILES}/sam_vit_h_4b8939.pth",
        sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        aliases=("default",),
    ),
    Checkpoint(
        name="medsam",
        family="sam",
        config="medsam",
        parameters=93_735_472,
        size=375_049_145,
        licence=_APACHE,
        origin="https://github.com/bowang-lab/MedSAM",
        url="https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
        sha256="34b34b78c1d18cb8c6bf84cf9c00e135d6d6c965699f3c0e31ef1bc9dcb5be74",
        aliases=("medsam_vit_b",),
    ),
    Checkpoint(
        name="mobile_sam",
        family="mobile_sam",
        config="mobile_sam",
        parameters=10_130_092,
        size=40_728_226,
        licence=_APACHE,
        origin=_MOBILE,
        url=f"{_MOBILE}/raw/f706ad9c4eb7f219c00d9050e46328518ffb65d2/weights/mobile_sam.pt",
        sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        aliases=("vit_t",),
    ),
    Checkpoint(
        name="efficient_sam_ti",
        family="efficient_sam",
        config="efficient_sam_ti",
        parameters=10_223_204,
        size=40_982_470,
        licence=_APACHE,
        origin=_EFFICIENT,
        url=f"{_EFFICIENT_FILES}/efficient_sam_vitt.pt",
        sha256="dff858b19600a46461cbb7de98f796b23a7a888d9f5e34c0b033f7d6eb9e4e6a",
    ),
    Checkpoint(
        name="efficient_sam_s",
        family="efficient_sam",
        config="efficient_sam_s",
        parameters=26_413_028,
        size=98_304_933,
        licence=_APACHE,
        origin=_EFFICIENT,
        url=f"{_EFFICIENT_FILES}/efficient_sam_vits.pt.zip",
        sha256=None,
        member="efficient_sam_vits.pt",
    ),
    Checkpoint(
        name="hq_sam_vit_b",
        family="hq_sam",
        config="hq_vit_b",
        parameters=94_806_576,
        size=379_335_069,
        licence=_APACHE,
        origin=_HQ,
        url=f"{_HQ_FILES}/sam_hq_vit_b.pth",
        sha256="14a9d662cd6f5a9c2dba6d40ab0058d88d287e4a18fd6fdc6ad5fb1a3fdeaa57",
    ),
    Checkpoint(
        name="hq_sam_vit_l",
        family="hq_sam",
        config="hq_vit_l",
        parameters=313_676_080,
        size=1_254_865_805,
        licence=_APACHE,
        origin=_HQ,
        url=f"{_HQ_FILES}/sam_hq_vit_l.pth",
        sha256=None,
    ),
    Checkpoint(
        name="hq_sam_vit_h",
        family="hq_sam",
        config="hq_vit_h",
        parameters=642_686_000,
        size=2_570_940_653,
        licence=_APACHE,
        origin=_HQ,
        url=f"{_HQ_FILES}/sam_hq_vit_h.pth",
        sha256="a7ac14a085326d9fa6199c8c698c4f0e7280afdbb974d2c4660ec60877b45e35",
    ),
    Checkpoint(
        name="hq_sam_tiny",
        family="hq_sam_tiny",
        config="hq_vit_tiny",
        parameters=10_578_604,
        size=42_526_881,
        licence=_APACHE,
        origin=_HQ,
        url=f"{_HQ_FILES}/sam_hq_vit_tiny.pth",
        sha256="0f32c075ccdd870ae54db2f7630e7a0878ede5a2b06d05d6fe02c65a82fb7196",
    ),
    Checkpoint(
        name="edge_sam",
        family="edge_sam",
        config="edge_sam",
        parameters=9_582_112,
        size=38_807_540,
        licence=_S_LAB,
        origin=_EDGE,
        url=f"{_EDGE_FILES}/edge_sam.pth",
        sha256=None,
    ),
    Checkpoint(
        name="edge_sam_3x",
        family="edge_sam",
        config="edge_sam_3x",
        parameters=9_582_112,
        size=38_807_540,
        licence=_S_LAB,
        origin=_EDGE,
        url=f"{_EDGE_FILES}/edge_sam_3x.pth",
        sha256="5a3e3261da9e2f4c8154410885689ae57d09cbf4cf5d0c848b9d80b6df336ece",
    ),
    Checkpoint(
        name="repvit_sam",
        family="repvit_sam",
        config="repvit_sam",
        parameters=27_223_480,
        size=109_503_496,
        licence=_APACHE,
        origin=_REPVIT,
        url=f"{_REPVIT}/releases/download/v1.0/repvit_sam.pt",
        sha256=None,
    ),
)


def find(name: str) -> Checkpoint | None:
    """The checkpoint called so, also by an alias."""
    for checkpoint in CATALOGUE:
        if name == checkpoint.name or name in checkpoint.aliases:
            return checkpoint
    return None
