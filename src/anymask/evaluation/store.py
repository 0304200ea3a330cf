"""Results on disk, one line per image, so that a run which was stopped goes on and a finished one costs nothing.

A file is named by the digests of model and plan; a line is keyed by the digest of the image's bytes and records
(`Task.item_digest`). So a result is found again exactly when the same model was asked the same of the same data. A
line cut short by a crash is passed over, and lines are appended whole.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from anymask.errors import OutputError

__all__ = ["ResultStore"]

_MAX_BYTES: Final = 4 * 1024**3


class ResultStore:
    """Results of one model under one plan; ``folder`` is made when missing.

    Raises:
        OutputError: the folder or file cannot be used.
    """

    def __init__(self, folder: Path, model_digest: str, plan_digest: str) -> None:
        self.path = folder / f"{model_digest[:24]}-{plan_digest[:24]}.jsonl"
        self._results: dict[str, Any] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._read()
        except OSError as error:
            raise OutputError(f"results cannot be kept in {str(folder)!r}: {error.strerror}") from error

    def __len__(self) -> int:
        return len(self._results)

    def get(self, digest: str) -> Any | None:
        """The result for an image's digest, or None."""
        return self._results.get(digest)

    def digests(self) -> frozenset[str]:
        """Digests of all results kept."""
        return frozenset(self._results)

    def put(self, digest: str, result: Any) -> None:
        """Keep a result (plain JSON values) in memory and on disk.

        Raises:
            OutputError: the disk is full or the file cannot be written.
        """
        line = json.dumps({"data": digest, "result": result}, separators=(",", ":")) + "\n"
        try:
            with open(self.path, "ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"a result could not be written to {str(self.path)!r}: {error.strerror}"
            ) from error
        self._results[digest] = json.loads(line)["result"]

    def _read(self) -> None:
        if not self.path.exists():
            return
        if self.path.stat().st_size > _MAX_BYTES:
            raise OutputError(f"{str(self.path)!r} is over {_MAX_BYTES} bytes; delete it to measure again")
        data = self.path.read_bytes()
        for line in data.splitlines():
            try:
                entry = json.loads(line)
                self._results[entry["data"]] = entry["result"]
            except (ValueError, KeyError, TypeError):
                continue  # cut short by a crash
        if data and not data.endswith(b"\n"):  # so that the next line does not join the torn one
            with open(self.path, "ab") as file:
                file.write(b"\n")
