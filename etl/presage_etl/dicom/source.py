"""DICOM files as a volume source: scanned, judged and converted like an archive, in a folder that is then gone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from presage_etl.dicom.candidate import Candidate
from presage_etl.dicom.choice import rank
from presage_etl.dicom.convert import FINAL, Conversion, volume_record
from presage_etl.dicom.decode import read_native
from presage_etl.dicom.ingest import read_candidates
from presage_etl.dicom.resample import apply_recipe
from presage_etl.dicom.scan import scan
from presage_etl.dicom.walk import read_roots
from presage_platform.settings import Settings, parse_settings
from presage_platform.volumes.recipe import VolumeRecipe
from presage_platform.volumes.record import VolumeRecord
from presage_platform.volumes.sources import FoundVolume


class DicomSource:
    """Reader of a folder or file of DICOM; identifiers are hashed with a key that nobody keeps."""

    def read(self, path: Path, recipe: VolumeRecipe, *, timezone: str = "UTC") -> Iterator[FoundVolume]:
        """Yield every candidate under `path`; the best of each study that its pixels accept carries its volume."""
        with tempfile.TemporaryDirectory(prefix="presage-source-") as folder:
            document = {
                "etl": {"policies": {"timezone": timezone}},
                "imaging": {"series": {"missing": recipe.missing}},
            }
            settings = parse_settings(Path(folder), document, environment={})
            scan([path], settings, 0, workers=1)
            found = sorted(read_candidates(settings), key=lambda one: (one.study_uid, one.series_key))
            for _, study in groupby(found, key=lambda one: one.study_uid):
                yield from _read_study(list(study), settings, recipe)


def _read_study(study: list[Candidate], settings: Settings, recipe: VolumeRecipe) -> Iterator[FoundVolume]:
    chosen: tuple[Candidate, VolumeRecord] | None = None
    while chosen is None:
        rank(study, settings.imaging.choice)
        best = next((one for one in study if one.rank == 1), None)
        if best is None:
            break
        chosen = _convert(best, settings, recipe)
    rank(study, settings.imaging.choice)
    for candidate in study:
        yield FoundVolume(
            series_key=candidate.series_key,
            study_uid=candidate.study_uid,
            series_uid=candidate.series_uid,
            verdict=candidate.verdict.value,
            reasons=tuple(candidate.reasons),
            rank=candidate.rank,
            rank_reason=candidate.rank_reason,
            image_dt=candidate.image_dt,
            volume=chosen[1] if chosen is not None and chosen[0] is candidate else None,
        )


def _convert(candidate: Candidate, settings: Settings, recipe: VolumeRecipe) -> tuple[Candidate, VolumeRecord] | None:
    """Read the pixels of a candidate; None when they reject it."""
    roots, policy = read_roots(settings.catalogue_dir), settings.imaging.series
    native = read_native(candidate, roots, policy)
    candidate.verdict, candidate.verdict_stage = native.verdict, FINAL
    candidate.reasons, candidate.actions = list(native.reasons), list(native.actions)
    if native.array is None:
        return None
    conversion = Conversion(candidate, 0, roots, policy, ())
    return candidate, volume_record(conversion, native, apply_recipe(native, recipe), recipe)


dicom_source = DicomSource()
