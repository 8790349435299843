"""What `platform etl dicom` says at its end: where every file went, in counts that add up."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from presage_etl.dicom.candidate import Candidate
from presage_etl.dicom.scan import ScanReport
from presage_etl.dicom.walk import Source, register_sources
from presage_platform.errors import IntegrityError
from presage_platform.volumes.catalogue import ReadStatus, Verdict

IN_VOLUMES, NOT_CONVERTED, DROPPED, REJECTED = "in_volumes", "not_converted", "not_used", "in_rejected_series"
_PRECEDENCE = (IN_VOLUMES, NOT_CONVERTED, DROPPED, REJECTED)  # of one file whose frames went different ways


@dataclass(slots=True)
class IngestReport:
    """Counts of one run; nothing that names a file, a study or a person."""

    run_no: int = 0
    recipes: dict[str, str] = field(default_factory=dict)  # name → short hash
    scan: ScanReport = field(default_factory=ScanReport)
    files: dict[str, int] = field(default_factory=dict)
    verdicts: dict[str, int] = field(default_factory=dict)
    num_studies: int = 0
    num_series: int = 0
    num_converted: int = 0
    num_known: int = 0
    num_stale: int = 0
    num_written: int = 0
    num_bytes: int = 0
    decoders: Counter[str] = field(default_factory=Counter)
    convert_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def num_rejected(self) -> int:
        """Series without a volume to be had."""
        return sum(count for verdict, count in self.verdicts.items() if Verdict(verdict).status == "rejected")

    @property
    def four_counts(self) -> dict[str, int]:
        """Every file once: of a usable series, of a rejected series, not an image, unreadable."""
        statuses = self.scan.statuses
        others = (ReadStatus.NOT_IMAGE, ReadStatus.NOT_DICOM, ReadStatus.ARCHIVE_SKIPPED)
        return {
            "used": sum(count for where, count in self.files.items() if where != REJECTED),
            "rejected_series": self.files.get(REJECTED, 0),
            "not_an_image": sum(statuses[status] for status in others),
            "unreadable": statuses[ReadStatus.UNREADABLE],
        }

    def as_json(self) -> dict[str, Any]:
        """The report as one object."""
        return {
            "run_no": self.run_no,
            "recipes": self.recipes,
            "files": {
                "seen": self.scan.num_files,
                "read": self.scan.num_read,
                "vanished": self.scan.num_vanished,
                "bytes": self.scan.num_bytes,
                **self.four_counts,
                **self.files,
                "statuses": {status.value: self.scan.statuses[status] for status in ReadStatus},
            },
            "studies": self.num_studies,
            "series": self.num_series,
            "verdicts": self.verdicts,
            "volumes": {
                "written": self.num_written,
                "already_there": self.num_known,
                "stale": self.num_stale,
                "bytes": self.num_bytes,
            },
            "decoders": dict(self.decoders),
            "seconds": round(self.seconds, 3),
        }

    def summary(self) -> str:
        """At most 12 lines, the last of which is the next command."""
        counts, statuses = self.four_counts, self.scan.statuses
        ok = self.verdicts.get(Verdict.OK, 0)
        with_action = self.num_series - ok - self.num_rejected
        lines = [
            f"files: {self.scan.num_files} seen ({self.scan.num_read} read, {self.scan.num_vanished} vanished) = "
            f"{counts['used']} used + {counts['rejected_series']} in rejected series + "
            f"{counts['not_an_image']} not an image + {counts['unreadable']} unreadable",
            f"  used: {self.files.get(IN_VOLUMES, 0)} in volumes, {self.files.get(NOT_CONVERTED, 0)} in series not "
            f"converted, {self.files.get(DROPPED, 0)} left out (duplicates, unusable)",
            f"images: {self.scan.num_images}, studies: {self.num_studies}",
            f"series: {self.num_series} = {ok} ok + {with_action} with action + {self.num_rejected} rejected",
        ]
        if statuses[ReadStatus.ARCHIVE_SKIPPED]:
            lines.append(f"archives: {statuses[ReadStatus.ARCHIVE_SKIPPED]} skipped: unpack first")
        rejected = Counter({v: n for v, n in self.verdicts.items() if Verdict(v).status == "rejected"})
        if rejected:
            top = ", ".join(f"{verdict} {count}" for verdict, count in rejected.most_common(3))
            lines.append(f"  rejected: {top}")
        if self.num_stale:
            lines.append(f"stale series: {self.num_stale}, not converted: their files changed or are gone; scan again")
        lines.append(
            f"volumes: {self.num_written} written, {self.num_known} already there, "
            f"{self.num_bytes / 1e6:.1f} MB ({', '.join(self.recipes)})"
        )
        lines += [f"time: {self.seconds:.1f} s", "next: platform link --map crosswalk.csv"]
        return "\n".join(lines)


def describe_series(report: IngestReport, found: Sequence[Candidate]) -> None:
    """Count studies, series and verdicts of the catalogue."""
    report.num_studies = len({candidate.study_uid for candidate in found})
    report.num_series = len(found)
    report.verdicts = dict(sorted(Counter(candidate.verdict.value for candidate in found).items()))


def account_for_files(
    report: IngestReport,
    found: Iterable[Candidate],
    in_volumes: set[str],
    sources: Sequence[Path | str],
    catalogue_dir: Path,
) -> None:
    """Say where each image file of this run's sources went, and refuse counts that do not add up."""
    places = register_sources(sources, catalogue_dir)
    went: dict[tuple[int, str], str] = {}
    for candidate in found:
        for root_id, rel_path, where in _files_of(candidate, in_volumes):
            if not _covered(places, root_id, rel_path):
                continue
            known = went.get((root_id, rel_path))
            if known is None or _PRECEDENCE.index(where) < _PRECEDENCE.index(known):
                went[root_id, rel_path] = where
    report.files = {where: 0 for where in _PRECEDENCE} | dict(Counter(went.values()))
    if sum(report.four_counts.values()) != report.scan.num_files:
        counted = " + ".join(f"{count} {where}" for where, count in report.four_counts.items())
        raise IntegrityError(f"{report.scan.num_files} files seen, but {counted}: please report this")


def _files_of(candidate: Candidate, in_volumes: set[str]) -> Iterator[tuple[int, str, str]]:
    if candidate.verdict.status == "rejected":
        where = REJECTED
    else:
        where = IN_VOLUMES if candidate.series_key in in_volumes else NOT_CONVERTED
    for ref in candidate.slices:
        yield ref.root_id, ref.rel_path, where
    for unused in candidate.unused:
        yield unused.ref.root_id, unused.ref.rel_path, REJECTED if where == REJECTED else DROPPED


def _covered(places: Sequence[Source], root_id: int, rel_path: str) -> bool:
    return any(place.covers(root_id, os.fsencode(rel_path)) for place in places)
