"""Which engine runs a model, and in which precision: for people and for machines."""

from __future__ import annotations

from dataclasses import dataclass

from anymask.runtime.backend import Backend


@dataclass(frozen=True)
class Engine:
    """The library that runs a model, the precision of its products, and the device."""

    name: str
    precision: str = "fp32"
    device: str = "cpu"

    def __str__(self) -> str:
        place = "" if self.device == "cpu" else f" on {self.device}"
        return f"{self.name} {self.precision}{place}"


def engine_of(backend: Backend) -> Engine:
    """What a backend says of itself; one that says nothing is known by the name of its class."""
    said = getattr(backend, "engine", None)
    return said if isinstance(said, Engine) else Engine(type(backend).__name__)
