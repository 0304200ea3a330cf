"""What peers that are networks of transformers share: loading, counting and running."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from anymask.errors import ModelError
from anymask.evaluation.peers.hf_folder import HfFolder, set_threads
from anymask.evaluation.peers.peer import Peer

__all__ = ["HfNetwork"]

Result = TypeVar("Result")


class HfNetwork(Peer):
    """A peer that is a network of transformers, from a local folder."""

    def __init__(self, folder: HfFolder, auto_class: str, device: str, threads: int | None) -> None:
        """Load the network.

        Args:
            folder: the model's files.
            auto_class: the class of transformers that builds it.
            device: ``cpu``, or another name that torch knows.
            threads: for torch in this whole process; None or 0 leaves them as they are.

        Raises:
            MissingExtraError, ModelFormatError, WeightsError, ModelError: see `HfFolder`.
        """
        self.folder = folder
        self.device = device
        self._model = folder.load(auto_class, device)
        set_threads(threads)

    @property
    def parameters(self) -> int:
        """Numbers that training set, shared ones counted once."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    def _run(self, call: Callable[[], Result]) -> Result:
        """Call without gradients; what torch or transformers refuses becomes a `ModelError`."""
        import torch

        try:
            with torch.inference_mode():
                return call()
        except (RuntimeError, ValueError, TypeError, ImportError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(f"the model {self.folder.name!r} could not be run: {reason:.200}") from error
