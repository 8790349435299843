"""A batch of studies: phantoms painted, scanned and written as DICOM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from presage_etl.synthetic.identifiers import study_key
from presage_etl.synthetic.lives.persons import Person, Scan, draw_person
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.pictures.dicom import Series, write_series
from presage_etl.synthetic.pictures.header import series_header
from presage_etl.synthetic.pictures.phantom import Phantom, paint_phantom
from presage_etl.synthetic.pictures.scanner import Acquisition, draw_acquisition, scan
from presage_etl.synthetic.planted.dicom import Assignment
from presage_etl.synthetic.planted.series import clean_study
from presage_etl.synthetic.planted.study import PlantedStudy, plant_study
from presage_etl.synthetic.shards import FIRST_ORPHAN, orphan_scan
from presage_etl.synthetic.streams import Stage, stream


@dataclass(frozen=True)
class ImageTask:
    """Work of one process: studies by person and scan number."""

    archive: Path
    parameters: Parameters
    studies: tuple[tuple[int, int], ...]
    defects: Mapping[str, Assignment] = field(default_factory=dict)  # by the study's key


@dataclass(frozen=True)
class ImageResult:
    """Rows of truth of the studies, and the sha256 of every file."""

    rows: list[dict[str, Any]]
    files: list[tuple[str, str]]
    planted: list[PlantedStudy] = field(default_factory=list)


def make_images(task: ImageTask) -> ImageResult:
    """Paint and write a batch of studies."""
    rows, files, planted = [], [], []
    for index, number in task.studies:
        person = draw_person(task.parameters, index)
        planned = orphan_scan(person) if index >= FIRST_ORPHAN else person.scans[number]
        made = draw_acquisition(task.parameters, index, number, male=person.male, biomarkers=planned.biomarkers)
        phantom = picture(task.parameters, person, planned, made)
        volume = scan(phantom, made, stream(task.parameters.seed, index, Stage.NOISE, number))
        series = Series(task.parameters, person, number, planned.t0, made, volume)
        defect = task.defects.get(study_key(index, number))
        if defect is not None:
            header = series_header(task.parameters, person, number, planned.t0, made)
            planted.append(plant_study(task.archive, defect, clean_study(header, volume, made.grid, defect.facts)))
            files += planted[-1].files
            rows.append(planted[-1].scan)
            continue
        written = write_series(task.archive, series)
        files += list(written.files)
        rows.append(
            {
                "study": study_key(index, number),
                "study_uid": written.study_uid,
                "series_uid": written.series_uid,
                "folder": written.folder,
                "volume_sha256": written.sha256,
                "affine_ras": list(written.affine_ras),
                "shape_zyx": list(volume.shape),
                "verdict": "ok",
                "manufacturer": made.manufacturer,
                "kernel": made.kernel,
                "sharp_kernel": made.sharp,
                "contrast": made.contrast,
                "contrast_phase": made.anatomy.contrast.phase,
                "feet_first": made.feet_first,
                "noise_hu": round(made.detector.noise_hu, 3),
                "confound": task.parameters.scanner.confound or None,
                "thickness_mm": made.thickness_mm,
                "transfer_syntax": made.syntax,
                "encoder_missing": made.syntax != made.wanted_syntax,
                "signed": made.stored.signed,
                "bits_stored": made.stored.bits,
                "rescale_intercept": made.stored.intercept,
                "padded": made.stored.padded,
                "character_set": made.character_set,
                "instance_order": made.instance_order,
                "num_effusion_voxels": phantom.num_effusion,
                "num_consolidation_voxels": phantom.num_consolidation,
                "num_emphysema_voxels": phantom.num_emphysema,
            }
        )
    return ImageResult(rows, files, planted)


def picture(parameters: Parameters, person: Person, planned: Scan, made: Acquisition) -> Phantom:
    """The phantom of one study, without noise."""
    rng = stream(parameters.seed, person.index, Stage.GEOMETRY, planned.number, 1)
    return paint_phantom(planned.biomarkers, made.anatomy, made.grid, rng)
