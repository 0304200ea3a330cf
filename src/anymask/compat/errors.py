"""Errors that are ours and the published code's at once: a program that catches either goes on working.

The published code asserts what it wants of its arguments and raises `RuntimeError` before an image is set.
"""

from __future__ import annotations

from typing import Any

from anymask.errors import ImageFormatError, InputError, MissingExtraError, NotFoundError

__all__ = [
    "CheckpointNotFoundError",
    "ImageDtypeError",
    "NoImageError",
    "PublishedAssertionError",
    "need_torch",
]


class PublishedAssertionError(InputError, AssertionError):
    """An argument is not what the published code asserts."""


class NoImageError(InputError, RuntimeError):
    """A mask or embedding was asked for before an image was set."""


class ImageDtypeError(ImageFormatError, TypeError):
    """An image is no array, or not one of uint8."""


class CheckpointNotFoundError(NotFoundError, FileNotFoundError):
    """There is no such checkpoint or folder."""

    def __str__(self) -> str:
        return str(self.args[0])


def need_torch(what: str) -> Any:
    """The module torch, or `MissingExtraError` saying that ``what`` needs it."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(
            f"{what} needs torch; install it with: pip install 'anymask[torch]'"
        ) from error
    return torch
