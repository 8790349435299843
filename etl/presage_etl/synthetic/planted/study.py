"""One study with its defect on disk, and its rows of truth."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from presage_etl.synthetic.planted.dicom import BY_KIND, Assignment, plant
from presage_etl.synthetic.planted.series import Clean, Expected, Image, Link, Planted


@dataclass(frozen=True)
class PlantedStudy:
    """What was written for a study with a defect, and what is true of it."""

    files: list[tuple[str, str]]  # path below the archive, sha256
    rows: list[dict[str, Any]]  # of `planted_dicom`
    chosen: dict[str, Any]  # of `chosen`
    scan: dict[str, Any]  # what the row of `scans` says of its picture
    link: Link | None
    other_study: str | None


def plant_study(archive: Path, assignment: Assignment, clean: Clean) -> PlantedStudy:
    """Write a study with its defect."""
    planted = plant(assignment.kind, clean)
    files = write_planted(archive, clean, planted)
    rows = truth_rows(assignment.kind, clean, planted)
    best = None if planted.chosen is None else rows[planted.chosen]
    return PlantedStudy(
        files=files,
        rows=rows,
        chosen={
            "study": clean.facts.study,
            "series_uid": best and best["series_uid"],
            "first_sop_uid": best and best["sop_uids"][0],
            "reason": best and planted.why,
        },
        scan={
            "study": clean.facts.study,
            "study_uid": clean.study_uid,
            "series_uid": best and best["series_uid"],
            "folder": _folder(clean, 0),
            "volume_sha256": best and best["volume_sha256"],
            "affine_ras": best and best["affine_ras"],
            "shape_zyx": best and best["shape_zyx"],
            "verdict": (best or rows[0])["verdict"],
        },
        link=planted.link,
        other_study=planted.other_study,
    )


def write_planted(archive: Path, clean: Clean, planted: Planted) -> list[tuple[str, str]]:
    """Write the files of a case; return path below the archive and sha256 of each.

    Names and folders say nothing of what is inside.
    """
    written: list[tuple[str, str]] = []
    images: list[Image] = [image for expected in planted.expected for image in expected.images]
    for place, image in enumerate([*images, *planted.more_files]):
        name = _name(clean, f"file {place}", ".dcm")
        written.append(_write(archive, _folder(clean, image.folder), name, image.encoded()))
    for place, beside in enumerate(planted.beside):
        name = beside.name or _name(clean, f"beside {place}", "")
        written.append(_write(archive, _folder(clean, 0), name, beside.content))
        if beside.mode is not None:
            (archive / written[-1][0]).chmod(beside.mode)
    return written


def truth_rows(kind: str, clean: Clean, planted: Planted) -> list[dict[str, Any]]:
    """Rows of `planted_dicom`: one a volume candidate, the first of which also lists what lies beside."""
    case, rows = BY_KIND[kind], []
    for place, expected in enumerate(planted.expected):
        first = expected.images[0].data
        rows.append(
            {
                "study": clean.facts.study,
                "study_uid": str(first.StudyInstanceUID) or None,
                "series_uid": str(first.SeriesInstanceUID) or None,
                "group": case.group,
                "kind": kind,
                "fixture": case.fixture,
                "sop_uids": sorted({image.uid for image in expected.images}),
                "touched": list(expected.touched),
                "verdict": expected.verdict,
                "reasons": sorted(expected.reasons),
                "actions": sorted(expected.actions),
                "used": list(expected.used),
                "volume_sha256": _sha256(expected),
                "affine_ras": None if expected.affine_ras is None else [float(v) for v in expected.affine_ras.ravel()],
                "shape_zyx": None if expected.volume is None else list(expected.volume.shape),
                "chosen": place == planted.chosen,
                "beside": [one.status for one in planted.beside] if place == 0 else [],
            }
        )
    return rows


def _sha256(expected: Expected) -> str | None:
    return None if expected.volume is None else hashlib.sha256(expected.volume.tobytes()).hexdigest()


def _folder(clean: Clean, number: int) -> str:
    text = f"folder {clean.study_uid}" + (f" {number}" if number else "")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _name(clean: Clean, what: str, suffix: str) -> str:
    name = hashlib.sha256(f"{what} of {clean.study_uid}".encode()).hexdigest()[:12]
    return name + (suffix if name[0] < "8" else "")


def _write(archive: Path, folder: str, name: str, content: bytes) -> tuple[str, str]:
    (archive / folder).mkdir(parents=True, exist_ok=True)
    (archive / folder / name).write_bytes(content)
    return f"{folder}/{name}", hashlib.sha256(content).hexdigest()
