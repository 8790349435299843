"""Volumes straight from image files, without a workspace: the contract behind `presage.volume_sources`.

A model that is to embed a folder of images may not import the readers of the image formats. Each reader registers
itself by entry point under the name of its format; what it returns equals, byte for byte, what a store would hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from presage_platform.errors import InputError
from presage_platform.volumes.recipe import VolumeRecipe
from presage_platform.volumes.record import VolumeRecord

SOURCE_GROUP = "presage.volume_sources"


@dataclass(frozen=True, slots=True)
class FoundVolume:
    """One volume candidate of a source; `volume` is there for the one that represents its study."""

    series_key: str
    study_uid: str
    series_uid: str
    verdict: str
    reasons: tuple[str, ...]
    rank: int | None
    rank_reason: str | None
    image_dt: datetime | None
    volume: VolumeRecord | None


class VolumeSource(Protocol):
    """A reader of one format of image files; needs no database."""

    def read(self, path: Path, recipe: VolumeRecipe, *, timezone: str = "UTC") -> Iterator[FoundVolume]:
        """Yield every candidate under `path` in order of study and series key, chosen ones with their volume."""


def volume_source(name: str) -> VolumeSource:
    """Return the source that an installed package registered under `name` (`dicom`, `nifti`)."""
    found = {entry.name: entry for entry in entry_points(group=SOURCE_GROUP)}
    if name not in found:
        raise InputError(
            f"no reader for {name} images is installed: expected one of {', '.join(sorted(found)) or 'none'}"
        )
    source: VolumeSource = found[name].load()
    return source
