"""Makes a synthetic hospital: FHIR, DICOM, vocabulary, tasks, the site's settings, and the truth beside them.

Work is cut into shards of persons and batches of studies whose bounds depend on the parameters only; what a shard
writes depends on nothing but the parameters and its number. So any number of workers gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from presage_etl.synthetic.answers import ceilings, oracle, truth
from presage_etl.synthetic.answers.headline import write_tasks
from presage_etl.synthetic.answers.truth_readme import write_readme
from presage_etl.synthetic.lives.hazards import Model, build_model
from presage_etl.synthetic.lives.persons import draw_person
from presage_etl.synthetic.parameters import Parameters, check_condition_parents
from presage_etl.synthetic.pictures.images import ImageResult, ImageTask, make_images
from presage_etl.synthetic.planted.fhir import SCHEMA
from presage_etl.synthetic.planted.truth import (
    Plan,
    chosen_rows,
    image_counts,
    make_plan,
    planted_links,
    planted_table,
    write_extras,
)
from presage_etl.synthetic.records.athena import write_vocabulary
from presage_etl.synthetic.records.codebook import Codebook
from presage_etl.synthetic.records.export import EXPORT, exports_of, write_manifest, write_site
from presage_etl.synthetic.records.imaging_orders import DICOM_MODALITY
from presage_etl.synthetic.records.omop_files import keyed_tables, write_omop
from presage_etl.synthetic.records.omop_site import site_rows, source_row
from presage_etl.synthetic.records.record_counts import RecordCounts
from presage_etl.synthetic.records.vocabulary import build_vocabulary
from presage_etl.synthetic.resume import RECORDS, recorded, remove_unfinished, resumed
from presage_etl.synthetic.shards import (
    LABELS,
    Rows,
    ShardResult,
    ShardTask,
    make_shard,
    orphan_scan,
    orphan_scans,
    scan_rows,
)
from presage_etl.synthetic.site import site_toml
from presage_platform.errors import DiskFullError, InputError
from presage_platform.logs import get_logger
from presage_platform.progress import Progress

PARTIAL = "synth.partial"
SUMMARY = "synth.json"
BYTES_PER_RESOURCE, RESOURCES_PER_PERSON = 900, 180
SPACE_MARGIN = 1.2
RESUMED = ("fhir", "dicom")  # written shard by shard

log = get_logger(__name__)


@dataclass(frozen=True)
class SynthReport:
    """What was made; `made` is false when the folder held the same hospital already."""

    folder: Path
    made: bool
    counts: dict[str, int]
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """Lines for people."""
        head = "made" if self.made else "unchanged: the folder holds this hospital already"
        lines = [f"synthetic hospital {head}", *(f"{n:>10,} {name}" for name, n in self.counts.items())]
        return "\n".join([*lines, *self.notes])


def make_hospital(folder: Path, parameters: Parameters, *, workers: int | None = None) -> SynthReport:
    """Write a synthetic hospital.

    Parameters
    ----------
    folder
        New or empty; a folder that holds the same hospital is left as it is.
    parameters
        Everything that decides the bytes.
    workers
        Processes; their number changes no byte.

    Raises
    ------
    InputError
        The folder holds something else, or cannot be written.
    DiskFullError
        Less than 1.2 times the estimated size is free.
    """
    check_condition_parents(parameters)
    digest = parameters.digest()
    done = present(folder, digest)
    if done is not None:
        return SynthReport(folder, False, done)
    _prepare(folder, digest, parameters)
    model = build_model(parameters)
    shards, plan = _make_records(folder, parameters, model, workers)
    studies = sorted({study for shard in shards for study in shard.scans})
    orphans = orphan_scans(parameters)
    images = _make_images(folder, parameters, studies + [(index, 0) for index in orphans], plan, workers)
    write_vocabulary(folder / "vocabulary", build_vocabulary(model))
    write_tasks(folder / "tasks", parameters, model)
    (folder / "site.toml").write_text(site_toml(parameters), encoding="utf-8")
    _write_truth(folder / "truth", parameters, model, shards, plan, images, orphans)
    if "omop" in parameters.modes:
        own = keyed_tables([*site_rows(), source_row(parameters), *plan.cdm_rows(parameters, _ct_concept(model))])
        write_omop(folder / "omop", folder / "truth", [own, *(shard.cdm for shard in shards)])
    ceilings.write_ceilings(folder / "truth", parameters, model, workers=workers)
    write_readme(folder / "truth")
    counts = {
        "persons": parameters.patients,
        "resources": sum(shard.num_resources for shard in shards),
        "studies": sum(len(batch.rows) for batch in images),
        "files": sum(len(batch.files) for batch in images),
        "leaf conditions": len(model.leaves),
    }
    _finish(folder, digest, parameters, counts, images)
    log.info("synthetic hospital made", extra={"fields": dict(counts)})
    return SynthReport(folder, True, counts)


def present(folder: Path, digest: str) -> dict[str, int] | None:
    """Counts of the hospital that the folder holds already; None when it may be made there."""
    summary = folder / SUMMARY
    if summary.is_file():
        found = json.loads(summary.read_text(encoding="utf-8"))
        if found.get("parameters_sha256") == digest:
            return dict(found["counts"])
        raise InputError(f"{folder} holds a synthetic hospital of other parameters: choose another folder")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is not a folder: name a new or empty one")
    if folder.is_dir() and any(folder.iterdir()):
        partial = folder / PARTIAL
        if not partial.is_file() or partial.read_text(encoding="utf-8").strip() != digest:
            raise InputError(f"{folder} is not empty: name a new or empty folder")
    return None


def _prepare(folder: Path, digest: str, parameters: Parameters) -> None:
    """Make the folders; of an interrupted run the shards that have a record stay, everything else is made again."""
    try:
        _check_space(folder, parameters)
        folder.mkdir(parents=True, exist_ok=True)
        resumable = (folder / PARTIAL).is_file() and (folder / RECORDS).is_dir()
        for name in ("fhir", "dicom", "omop", "vocabulary", "tasks", "truth"):
            if not (resumable and name in RESUMED):
                shutil.rmtree(folder / name, ignore_errors=True)
        (folder / PARTIAL).write_text(digest, encoding="utf-8")
        for mode, name in (*(("fhir", export) for export in exports_of(parameters)), ("dicom", "dicom")):
            if mode in parameters.modes:
                (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "truth").mkdir()
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}): choose another folder") from None


def _check_space(folder: Path, parameters: Parameters) -> None:
    """Refuse a disk that is too small before anything is written on it."""
    columns, rows, slices = parameters.grid
    studies = parameters.patients * (1 + parameters.cohort.extra_scans) * (1 + parameters.cohort.orphan_studies)
    pixels = studies * slices * (columns * rows * 2 + 4096)
    needed = SPACE_MARGIN * (pixels + parameters.patients * RESOURCES_PER_PERSON * BYTES_PER_RESOURCE)
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if shutil.disk_usage(there).free < needed:
        raise DiskFullError(f"{folder} needs about {needed / 1e9:.1f} GB free: make room or choose another disk")


def _make_records(
    folder: Path, parameters: Parameters, model: Model, workers: int | None
) -> tuple[list[ShardResult], Plan]:
    size = parameters.persons_per_shard
    starts = range(0, parameters.patients, size)
    tasks = [
        ShardTask(folder, parameters, model, shard, start, min(start + size, parameters.patients))
        for shard, start in enumerate(starts)
    ]
    shards = []
    with Progress("records", total=len(tasks), unit="shards") as bar:
        for result in resumed(make_shard, tasks, folder / RECORDS / "persons", workers=workers):
            shards.append(result)
            bar.advance(1)
    shards.sort(key=lambda result: result.shard)
    plan = make_plan(parameters, _tables(shards))
    if "fhir" in parameters.modes:
        _write_manifests(folder, parameters, shards, plan)
    return shards, plan


def _write_manifests(folder: Path, parameters: Parameters, shards: list[ShardResult], plan: Plan) -> None:
    """List the files of each export; what belongs to the hospital, and what image traps need, is in the first."""
    site = write_site(folder / EXPORT) | write_extras(folder / EXPORT, plan)
    for place, name in enumerate(exports_of(parameters)):
        counts = dict(site) if name == EXPORT else {}
        for shard in shards:
            counts |= shard.counts[place]
        write_manifest(folder / name, parameters, counts, number=place + 1)


def _make_images(
    folder: Path, parameters: Parameters, studies: list[tuple[int, int]], plan: Plan, workers: int | None
) -> list[ImageResult]:
    if "dicom" not in parameters.modes:
        return []
    size = parameters.studies_per_task
    parts = [tuple(studies[start : start + size]) for start in range(0, len(studies), size)]
    tasks = [ImageTask(folder / "dicom", parameters, part, plan.of(part)) for part in parts]
    records, batches = folder / RECORDS / "images", []
    remove_unfinished(folder / "dicom", {name for batch in recorded(records) for name, _ in batch.files})
    with Progress("images", total=len(studies), unit="studies") as bar:
        for result in resumed(make_images, tasks, records, workers=workers):
            batches.append(result)
            bar.advance(len(result.rows))
    return sorted(batches, key=lambda batch: str(batch.rows[0]["study"]))


def _write_truth(
    folder: Path,
    parameters: Parameters,
    model: Model,
    shards: list[ShardResult],
    plan: Plan,
    images: list[ImageResult],
    orphans: list[int],
) -> None:
    tables = _tables(shards)
    expected = RecordCounts()
    expected.plant(parameters, Counter(row.table for row in plan.cdm_rows(parameters, 0)), Counter())
    for shard in shards:
        expected.update(shard.expected)
    for index in orphans:
        person = draw_person(parameters, index)
        rows_of = scan_rows(
            person, orphan_scan(person), parameters.seed, known=False, in_ehr=False, zone=parameters.calendar.zone
        )
        for name, rows in rows_of.items():
            tables[name].extend(rows)
    made = {row["study"]: row for batch in images for row in batch.rows}
    planted = [study for batch in images for study in batch.planted]
    tables["scans"] = _level([scan | made.get(scan["study"], {}) for scan in tables["scans"]])
    tables["chosen"] = chosen_rows([row for row in tables["scans"] if row["study"] in made], planted)
    tables["links"] = planted_links(tables["links"], tables["joins"], planted)
    counts = image_counts(tables["links"], tables["joins"], planted, len(made), plan) if made else []
    tables["coefficients"] = truth.coefficient_rows(model)
    tables["expected_counts"] = truth.expected_rows(expected, counts)
    headlines = pa.Table.from_pylist(tables.pop("true_labels", []), schema=LABELS)
    labels = pa.concat_tables([headlines, *(table for shard in shards for table in shard.concept_labels)])
    labels = labels.combine_chunks()
    truth.write_table(folder, "planted_fhir", pa.Table.from_pylist(tables.pop("planted_fhir"), schema=SCHEMA))
    for name, rows in tables.items():
        truth.write_table(folder, name, rows)
    truth.write_table(folder, "true_labels", labels)
    truth.write_table(folder, "planted_dicom", planted_table(planted))
    oracle.write_oracles(folder, parameters, model, tables["scans"], tables["persons"])


def _tables(shards: list[ShardResult]) -> dict[str, Rows]:
    """Rows of truth of all shards."""
    tables: dict[str, Rows] = {}
    for shard in shards:
        for name, rows in shard.tables.items():
            tables.setdefault(name, []).extend(rows)
    return tables


def _ct_concept(model: Model) -> int:
    return Codebook(build_vocabulary(model)).concept(DICOM_MODALITY, "CT")


def _level(rows: Rows) -> Rows:
    """Give every row the same columns."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [{column: row.get(column) for column in columns} for row in rows]


def _finish(
    folder: Path, digest: str, parameters: Parameters, counts: dict[str, int], images: list[ImageResult]
) -> None:
    """Write synth.json with the sha256 of every file, and take the marks of an unfinished run away."""
    files = {f"dicom/{name}": sha for batch in images for name, sha in batch.files}
    shutil.rmtree(folder / RECORDS, ignore_errors=True)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith("dicom/") and name != PARTIAL:
            files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    summary = {
        "synthetic": True,
        "generator": parameters.version,
        "seed": parameters.seed,
        "parameters_sha256": digest,
        "counts": counts,
        "parameters": parameters.model_dump(mode="json"),
        "files": dict(sorted(files.items())),
    }
    temporary = folder / f"{SUMMARY}.tmp"
    temporary.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / SUMMARY)
    (folder / PARTIAL).unlink()
