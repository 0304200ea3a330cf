"""Every error anymask raises on purpose, in one tree.

    AnymaskError                      exit  1   http 500   error
    ├── InputError                    exit  2   http 400   input
    │   ├── ImageError                exit  3   http 400   image
    │   │   ├── ImageFormatError      exit  3   http 415   image_format
    │   │   ├── ImageTooLargeError    exit  3   http 413   image_too_large
    │   │   └── ImageTruncatedError   exit  3   http 400   image_truncated
    │   ├── PromptError               exit  4   http 422   prompt
    │   ├── MaskError                 exit  5   http 422   mask
    │   │   └── RleError              exit  5   http 422   rle
    │   ├── EmbeddingError            exit  6   http 422   embedding
    │   │   └── EmbeddingMismatchError exit 6   http 409   embedding_mismatch
    │   ├── NotFoundError             exit  7   http 404   not_found
    │   ├── LimitError                exit  8   http 413   limit
    │   └── DatasetError              exit 14   http 422   dataset
    ├── ModelError                    exit  9   http 500   model
    │   ├── ModelFormatError          exit  9   http 500   model_format
    │   ├── WeightsError              exit  9   http 500   weights
    │   └── ParityError               exit 10   http 500   parity
    ├── OutputError                   exit 11   http 507   output
    ├── MissingExtraError             exit 12   http 501   missing_extra
    ├── SettingsError                 exit 13   http 500   settings
    └── FetchError                    exit 15   http 502   fetch
        ├── OfflineError              exit 15   http 503   offline
        └── ChecksumError             exit 15   http 502   checksum

A message is one sentence (or two) with what was wrong, the value seen, and the mend. The exit status is the
command line's; it is the same for a whole family so that a script can branch on "the image was bad". The code
is stable text for machines (``--json`` output, HTTP problem bodies). Exit status 2 is also what the command
line gives for a bad option.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

__all__ = [
    "AnymaskError",
    "ChecksumError",
    "DatasetError",
    "EmbeddingError",
    "EmbeddingMismatchError",
    "FetchError",
    "ImageError",
    "ImageFormatError",
    "ImageTooLargeError",
    "ImageTruncatedError",
    "InputError",
    "LimitError",
    "MaskError",
    "MissingExtraError",
    "ModelError",
    "ModelFormatError",
    "NotFoundError",
    "OfflineError",
    "OutputError",
    "ParityError",
    "PromptError",
    "RleError",
    "SettingsError",
    "WeightsError",
    "error_classes",
]


class AnymaskError(Exception):
    """Base of every error anymask raises on purpose; anything else that escapes is a bug."""

    exit_status: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    code: ClassVar[str] = "error"


class InputError(AnymaskError):
    """Something the caller gave is not acceptable."""

    exit_status = 2
    http_status = 400
    code = "input"


class ImageError(InputError):
    """The image cannot be used."""

    exit_status = 3
    code = "image"


class ImageFormatError(ImageError):
    """The bytes are not in a format on the allow-list, or the array has the wrong shape or dtype."""

    http_status = 415
    code = "image_format"


class ImageTooLargeError(ImageError):
    """The image is over a limit of ``anymask.limits``; known before any pixel was decoded."""

    http_status = 413
    code = "image_too_large"


class ImageTruncatedError(ImageError):
    """The file starts like an image but its data is cut short or damaged."""

    code = "image_truncated"


class PromptError(InputError):
    """A point, label, box or mask prompt is malformed or does not fit the image."""

    exit_status = 4
    http_status = 422
    code = "prompt"


class MaskError(InputError):
    """A mask, box list or polygon is malformed."""

    exit_status = 5
    http_status = 422
    code = "mask"


class RleError(MaskError):
    """A run-length encoding is malformed, truncated, or does not add up to its size."""

    code = "rle"


class EmbeddingError(InputError):
    """An embedding, in memory or in a file, is malformed."""

    exit_status = 6
    http_status = 422
    code = "embedding"


class EmbeddingMismatchError(EmbeddingError):
    """A good embedding, but made by another model, another preprocessing or from another image."""

    http_status = 409
    code = "embedding_mismatch"


class NotFoundError(InputError):
    """A named file, model or record does not exist."""

    exit_status = 7
    http_status = 404
    code = "not_found"


class LimitError(InputError):
    """A request asks for more than ``anymask.limits`` allows, where no narrower error says it better."""

    exit_status = 8
    http_status = 413
    code = "limit"


class DatasetError(InputError):
    """A dataset's shard or record is missing, damaged or not in the stated format."""

    exit_status = 14
    http_status = 422
    code = "dataset"


class ModelError(AnymaskError):
    """A model cannot be loaded or run."""

    exit_status = 9
    code = "model"


class ModelFormatError(ModelError):
    """A model file is of an unknown kind, or its manifest is missing or malformed."""

    code = "model_format"


class WeightsError(ModelError):
    """Weights are damaged, or have missing, unused or misshapen keys."""

    code = "weights"


class ParityError(ModelError):
    """Two implementations that must agree do not, beyond the stated bound."""

    exit_status = 10
    code = "parity"


class OutputError(AnymaskError):
    """A result could not be written; nothing half-written is left behind."""

    exit_status = 11
    http_status = 507
    code = "output"


class MissingExtraError(AnymaskError):
    """An optional package is needed; the message names the extra to install."""

    exit_status = 12
    http_status = 501
    code = "missing_extra"


class SettingsError(AnymaskError):
    """A setting in the file or the environment is unknown or has a bad value."""

    exit_status = 13
    code = "settings"


class FetchError(AnymaskError):
    """A download failed: the server, the network, or what came is not what was asked for."""

    exit_status = 15
    http_status = 502
    code = "fetch"


class OfflineError(FetchError):
    """A download is needed and downloads are off."""

    http_status = 503
    code = "offline"


class ChecksumError(FetchError):
    """What came has another SHA-256 than was asked for; it is not kept."""

    code = "checksum"


def error_classes() -> Iterator[type[AnymaskError]]:
    """Every class of the tree, parents before children, in the order drawn above."""

    def walk(cls: type[AnymaskError]) -> Iterator[type[AnymaskError]]:
        yield cls
        for child in cls.__subclasses__():
            if child.__module__ == __name__:
                yield from walk(child)

    return walk(AnymaskError)
