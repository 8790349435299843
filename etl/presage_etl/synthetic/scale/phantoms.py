"""Phantoms straight into the volume store: one a study, or a few with many derived from them.

A derived volume is its base flipped, shifted and with other noise. It feeds a benchmark of throughput; it is marked in
the store's index and in truth, and no claim about accuracy may rest on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from presage_etl.synthetic.answers import truth
from presage_etl.synthetic.answers.true_labels import headline_labels, observe
from presage_etl.synthetic.answers.truth_readme import write_readme
from presage_etl.synthetic.identifiers import series_uid, study_uid
from presage_etl.synthetic.lives.events import simulate
from presage_etl.synthetic.lives.hazards import Model, build_model
from presage_etl.synthetic.lives.persons import Person, Scan, draw_person
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.pictures.grid import Grid
from presage_etl.synthetic.pictures.images import picture
from presage_etl.synthetic.pictures.scanner import Acquisition, draw_acquisition, scan
from presage_etl.synthetic.scale import folder as folders
from presage_etl.synthetic.scale.lives import RecordDays, record_days
from presage_etl.synthetic.shards import Rows, orphan_scan
from presage_etl.synthetic.streams import Stage, stream
from presage_etl.synthetic.synth import SynthReport, present
from presage_platform.parallel import map_partitions
from presage_platform.progress import Progress
from presage_platform.volumes.recipe import VolumeRecipe
from presage_platform.volumes.record import SliceOrigin, VolumeRecord, make_volume_id
from presage_platform.volumes.writer import StoreWriter, stage_record

AIR_HU, MIN_HU, MAX_HU = -1024, -1024, 3071
MAX_SHIFT = 6  # voxels
NOISE_SD_HU, NOISE_LENGTH = 8.0, 1_048_573  # a prime: the pattern never falls into step with a row
DERIVED = "synthetic_derived"

SETTINGS = """# Volumes of a synthetic cohort (synthetic: true): {distinct} painted, {derived} derived from them.
# Derived volumes are for benchmarks of throughput alone.

[eval]
synthetic = true
"""

Int16 = NDArray[np.int16]


@dataclass(frozen=True)
class Study:
    """One volume to make: its number, and whose scan it shows."""

    study_id: int
    person: int
    scan: int


@dataclass(frozen=True)
class VolumesTask:
    """Work of one process: painted studies, each with those derived from it."""

    staging: Path
    parameters: Parameters
    recipe: VolumeRecipe
    model: Model | None  # labels are asked for
    digest: str  # of the parameters
    studies: tuple[tuple[Study, tuple[int, ...]], ...]


def recipe_of(parameters: Parameters) -> VolumeRecipe:
    """Return the recipe of volumes on the phantom's own grid: nothing is resampled."""
    return VolumeRecipe(name="phantom", crop="centre", shape=parameters.grid)


def write_study_volumes(folder: Path, parameters: Parameters, studies: pa.Table, workers: int | None) -> pa.Table:
    """Paint one volume a study of the index; return the index with what is known of the scanner."""
    columns = (studies.column(name).to_pylist() for name in ("study_id", "person_id", "number"))
    wanted = [Study(study, person - 1, number) for study, person, number in zip(*columns, strict=True)]
    rows, _ = _write(folder, parameters, None, [(study, ()) for study in wanted], workers)
    truth.write_table(folder / "truth", "volumes", rows)
    for name in ("manufacturer", "contrast", "slice_thickness_mm"):
        studies = studies.append_column(name, pa.array([row[name] for row in rows]))
    return studies


def make_volumes(folder: Path, parameters: Parameters, *, workers: int | None = None) -> SynthReport:
    """Write a volume store alone.

    Raises
    ------
    InputError
        The folder holds something else, or cannot be written.
    DiskFullError
        Less than 1.2 times the estimated size is free.
    """
    done = present(folder, parameters.digest())
    if done is not None:
        return SynthReport(folder, False, done)
    number = parameters.volumes.studies or parameters.patients
    distinct = min(parameters.volumes.distinct or number, number)
    # A volume waits in staging until its shard is written.
    folders.begin(folder, parameters, number * float(np.prod(parameters.grid)) * 2 * 2)
    wanted = [
        (Study(base + 1, base, 0), tuple(range(base + 1 + distinct, number + 1, distinct))) for base in range(distinct)
    ]
    rows, labels = _write(folder, parameters, build_model(parameters), wanted, workers)
    truth.write_table(folder / "truth", "volumes", rows)
    truth.write_table(folder / "truth", "volume_labels", labels)
    write_readme(folder / "truth")
    settings = SETTINGS.format(distinct=distinct, derived=number - distinct)
    (folder / "platform.toml").write_text(settings, encoding="utf-8")
    counts = {"volumes": number, "painted": distinct, "derived": number - distinct}
    folders.finish(folder, parameters, counts, {"derived_volumes": "benchmarks of throughput alone, never of accuracy"})
    return SynthReport(folder, True, counts)


def make_batch(task: VolumesTask) -> tuple[Rows, Rows]:
    """Paint and derive the volumes of one batch and stage them for the store; return rows of truth and of labels."""
    rows: Rows = []
    labels: Rows = []
    for study, derived in task.studies:
        person, planned, made, painted = _paint(task.parameters, study)
        array, affine = to_ras(painted, made.grid)
        about = _about(study, person, planned, made)
        rows.append(_stage(task, study.study_id, about, array, affine))
        own = _labels(task, study.study_id, person) if task.model is not None else []
        labels += own
        for number in derived:
            changed, text = derive(array, stream(task.parameters.seed, number, Stage.DERIVED), _noise(task.parameters))
            rows.append(_stage(task, number, about | {"derived": True, "transform": text}, changed, affine))
            labels += [row | {"study_id": number} for row in own]
    return rows, labels


def derive(base: Int16, rng: np.random.Generator, noise: Int16) -> tuple[Int16, str]:
    """Flip, shift and add noise; return the volume and what was done to it."""
    flips = rng.integers(0, 2, size=3)
    shifts = rng.integers(-MAX_SHIFT, MAX_SHIFT + 1, size=3)
    start = int(rng.integers(len(noise)))
    result = np.full_like(base, AIR_HU)
    low = [max(0, -int(shift)) for shift in shifts]
    high = [size - max(0, int(shift)) for size, shift in zip(base.shape, shifts, strict=True)]
    target = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    source = tuple(slice(a + int(shift), b + int(shift)) for a, b, shift in zip(low, high, shifts, strict=True))
    turned = np.flip(
        result, tuple(axis for axis in range(3) if flips[axis])
    )  # a view: what is written is written turned
    turned[target] = base[source]
    _add_pattern(result.reshape(-1), noise, start)
    np.clip(result, MIN_HU, MAX_HU, out=result)
    axes = "".join(axis for axis, flip in zip("zyx", flips, strict=True) if flip) or "none"
    return result, f"flip {axes}, shift {' '.join(map(str, shifts.tolist()))} voxels, noise {NOISE_SD_HU:g} HU"


def _add_pattern(voxels: Int16, noise: Int16, start: int) -> None:
    """Add the pattern to a flat volume, again and again from where it starts."""
    at = 0
    while at < len(voxels):
        length = min(len(noise) - start, len(voxels) - at)
        voxels[at : at + length] += noise[start : start + length]
        at, start = at + length, 0


def _write(
    folder: Path,
    parameters: Parameters,
    model: Model | None,
    studies: Sequence[tuple[Study, tuple[int, ...]]],
    workers: int | None,
) -> tuple[Rows, Rows]:
    """Make all volumes and let the store take them; rows in the order of study ids."""
    recipe, digest = recipe_of(parameters), parameters.digest()
    size = parameters.studies_per_task
    rows: Rows = []
    labels: Rows = []
    total = sum(1 + len(derived) for _, derived in studies)
    with (
        StoreWriter(folder / "volumes" / recipe.short_hash, recipe) as writer,
        Progress("volumes", total=total, unit="volumes") as bar,
    ):
        tasks = (
            VolumesTask(writer.staging, parameters, recipe, model, digest, tuple(studies[start : start + size]))
            for start in range(0, len(studies), size)
        )
        for new_rows, new_labels in map_partitions(make_batch, tasks, workers=workers):
            _keep(writer, new_rows)
            rows += new_rows
            labels += new_labels
            bar.advance(len(new_rows))
    return _ordered(rows), _ordered(labels)


def _keep(writer: StoreWriter, rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        writer.keep(row["volume_id"])


def _ordered(rows: Rows) -> Rows:
    return sorted(rows, key=lambda row: (row["study_id"], str(row.get("task", ""))))


def _paint(parameters: Parameters, study: Study) -> tuple[Person, Scan, Acquisition, Int16]:
    """Paint and scan one study, in the grid's own axes."""
    person = draw_person(parameters, study.person)
    planned = person.scans[study.scan] if person.scans else orphan_scan(person)
    made = draw_acquisition(parameters, study.person, study.scan, male=person.male, biomarkers=planned.biomarkers)
    phantom = picture(parameters, person, planned, made)
    return person, planned, made, scan(phantom, made, stream(parameters.seed, study.person, Stage.NOISE, study.scan))


def to_ras(array: Int16, grid: Grid) -> tuple[Int16, NDArray[np.float64]]:
    """Turn the axes of a volume to the right, front and head, as the store keeps them; return its affine too."""
    affine = np.array(grid.affine_ras()).reshape(4, 4)
    for axis in range(3):
        if affine[axis, axis] < 0:
            array = np.flip(array, axis=2 - axis)
            affine[:3, 3] += affine[:3, axis] * (grid.size[axis] - 1)
            affine[:3, axis] *= -1.0
    return np.ascontiguousarray(array), np.asarray(np.round(affine, 6) + 0.0, dtype=np.float64)


def _about(study: Study, person: Person, planned: Scan, made: Acquisition) -> dict[str, Any]:
    row: dict[str, Any] = {
        "person": person.key,
        "scan": study.scan,
        "base_study_id": study.study_id,
        "derived": False,
        "transform": None,
        "manufacturer": made.manufacturer,
        "kernel": made.kernel,
        "contrast": made.contrast,
        "slice_thickness_mm": float(made.thickness_mm),
    }
    row |= {f"z{place + 1}": float(value) for place, value in enumerate(planned.score)}
    return row | {f"natural{place + 1}": float(value) for place, value in enumerate(planned.biomarkers)}


def _stage(
    task: VolumesTask, study_id: int, about: dict[str, Any], array: Int16, affine: NDArray[np.float64]
) -> dict[str, Any]:
    """Write one volume into the store's staging folder; return its row of truth."""
    seed = task.parameters.seed
    uid = study_uid(seed, int(about["person"][1:]), about["scan"])
    uid = f"{uid}.{study_id}" if about["derived"] else uid
    # Parameters and number decide every voxel, so their hash stands for the slices'; the voxels' own is the store's.
    header = hashlib.sha256(f"synthetic {task.digest} {study_id}".encode()).hexdigest()
    origin = SliceOrigin(f"{series_uid(uid)}.1", 0, header, 0.0)
    record = VolumeRecord(
        volume_id=make_volume_id(task.recipe.recipe_hash, [(origin.sop_uid, 0, header, header)]),
        study_id=study_id,
        array=array,
        affine_ras=affine,
        series_key=f"synthetic:{study_id}",
        study_uid=uid,
        series_uid=series_uid(uid),
        actions=(DERIVED,) if about["derived"] else (),
        sops=(origin,),
    )
    stage_record(task.staging, record, task.recipe, durable=False)
    return {"study_id": study_id, "volume_id": record.volume_id} | about


def _labels(task: VolumesTask, study_id: int, person: Person) -> Rows:
    """Outcome labels of one painted study's person."""
    assert task.model is not None
    history = simulate(task.parameters, task.model, person)
    planned = next((scan for scan in person.scans if scan.number in history.scan_visits), None)
    if planned is None:
        return []
    window = observe(history, RecordDays(person, record_days(history)), planned, task.parameters.calendar.cut)
    return [
        {"study_id": study_id, "task": label.task, "state": label.state, "time_s": label.time_s}
        for label in headline_labels(task.parameters, task.model, history, window)
    ]


def _noise(parameters: Parameters) -> Int16:
    """A pattern of noise, the same for all derived volumes, each of which begins elsewhere in it."""
    key = parameters.seed
    if key not in _NOISE:
        drawn = stream(key, 0, Stage.DERIVED).standard_normal(NOISE_LENGTH, dtype=np.float32)
        _NOISE[key] = np.rint(drawn * np.float32(NOISE_SD_HU)).astype(np.int16)
    return _NOISE[key]


_NOISE: dict[int, Int16] = {}
