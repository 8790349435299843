"""Short ways through the product for tests of images: scan a folder, group it, decode what was accepted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from presage_etl.dicom.candidate import Candidate
from presage_etl.dicom.decode import NativeVolume, read_native
from presage_etl.dicom.instances import read_instances
from presage_etl.dicom.scan import scan
from presage_etl.dicom.series import candidates
from presage_etl.dicom.walk import read_roots
from presage_platform.settings import Settings, parse_settings
from tests.lib.dicom_cases import Fixture


@dataclass(frozen=True)
class Archive:
    """A scanned folder."""

    settings: Settings
    instances: pa.Table
    candidates: list[Candidate]

    def native(self, candidate: Candidate) -> NativeVolume:
        """Decode one accepted candidate."""
        return read_native(candidate, read_roots(self.settings.catalogue_dir), self.settings.imaging.series)

    @property
    def only(self) -> Candidate:
        """The one candidate there is."""
        (candidate,) = self.candidates
        return candidate

    def final_verdicts(self) -> list[str]:
        """Verdicts of all candidates, after their pixels were read where headers accepted them."""
        accepted = [one for one in self.candidates if one.verdict.status == "ok"]
        final = {one.series_key: self.native(one).verdict for one in accepted}
        return sorted(final.get(one.series_key, one.verdict).value for one in self.candidates)


def image_settings(workspace: Path, **imaging: Any) -> Settings:
    """Return settings of a workspace that needs no database."""
    workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
    (workspace / "secret.key").write_bytes(b"k" * 32)
    return parse_settings(workspace, {"imaging": imaging, "parallel": {"workers": 1}}, environment={})


def scan_archive(source: Path, workspace: Path, *, max_volume_gb: float = 8.0, **policy: Any) -> Archive:
    """Scan a folder into a workspace and group it under a policy."""
    settings = image_settings(workspace, series=policy, max_volume_gb=max_volume_gb)
    scan([source], settings, 1)
    instances = read_instances(settings.catalogue_dir)
    found = candidates(instances, settings.imaging.series, max_volume_gb=max_volume_gb)
    return Archive(settings, instances, found)


def scan_fixture(fixture: Fixture, folder: Path) -> Archive:
    """Write a fixture's archive and scan it."""
    fixture.build(folder / "archive")
    return scan_archive(folder / "archive", folder / "work", max_volume_gb=fixture.max_volume_gb, **fixture.policy)
