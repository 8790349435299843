"""A cohort in the stores: timeline snapshot, index and vocabulary; in a workspace also volumes, tasks and all of truth.

Work goes by person shard: lives are simulated in parts and staged, then each shard's events are made, sorted and
written where the snapshot takes them from. A worker holds one shard (4 to 6 million events); who does which changes no
byte. The process that gathers them holds the tables of persons, visits and periods of the whole cohort, as every reader
of a snapshot does: what grows with the number of persons is there.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from presage_etl.synthetic.clock import wall
from presage_etl.synthetic.lives.hazards import build_model
from presage_etl.synthetic.parameters import Parameters, check_condition_parents
from presage_etl.synthetic.scale import folder as folders
from presage_etl.synthetic.scale import snapshot
from presage_etl.synthetic.scale.concept_tasks import write_concept_tasks
from presage_etl.synthetic.scale.events import shard_events
from presage_etl.synthetic.scale.first_occurrences import SampledScan, walk_scans
from presage_etl.synthetic.scale.lives import LAST_SECOND, LivesTask, make_lives, part_file
from presage_etl.synthetic.scale.ontology import build_ontology, write_ontology
from presage_etl.synthetic.scale.phantoms import write_study_volumes
from presage_etl.synthetic.scale.snapshot import StagedShard
from presage_etl.synthetic.scale.truth_tables import write_full_truth, write_truth
from presage_etl.synthetic.site import min_events
from presage_etl.synthetic.streams import Stage, stream
from presage_etl.synthetic.synth import SynthReport, present
from presage_platform.logs import get_logger
from presage_platform.parallel import map_partitions
from presage_platform.progress import Progress

PERSONS_A_PART = 250
BYTES_PER_EVENT, BYTES_PER_PERSON = 5, 6_000
SIDE_KEYS = {"person": ("person_id",), "observation_period": ("person_id", "start_s"), "death": ("person_id",),
             "visit": ("person_id", "start_s", "end_s")}  # fmt: skip

SETTINGS = """# A synthetic cohort (synthetic: true). Labels, without a database:
#   platform label --index index.parquet --snapshot {snapshot} --vocabulary vocabulary --allow-fewer

[labeling]
k = {k}
min_events = {min_events}

[eval]
synthetic = true
"""

log = get_logger(__name__)


@dataclass(frozen=True)
class EventsTask:
    """Work of one process: all events of one shard. `scans` are those of the sample whose persons it holds."""

    staging: Path
    vocabulary: Path
    parameters: Parameters
    shard: int
    num_parts: int
    persons: NDArray[np.int64]
    filler: NDArray[np.int64]
    scans: tuple[SampledScan, ...]


def make_cohort(folder: Path, parameters: Parameters, *, workers: int | None = None) -> SynthReport:
    """Write a cohort into the stores of a new workspace.

    Raises
    ------
    InputError
        The folder holds something else, or cannot be written.
    DiskFullError
        Less than 1.2 times the estimated size is free.
    """
    check_condition_parents(parameters)
    done = present(folder, parameters.digest())
    if done is not None:
        return SynthReport(folder, False, done)
    folders.begin(folder, parameters, _estimated_bytes(parameters))
    staging, with_images = folder / "staging", parameters.output == "workspace"
    model = build_model(parameters)
    ontology = build_ontology(parameters, model)
    write_ontology(folder / "vocabulary", ontology)
    shards = snapshot.shards_of_cohort(parameters)
    parts = [
        LivesTask(staging, parameters, model, shard, part, tuple(persons[start : start + PERSONS_A_PART]), with_images)
        for shard, persons in enumerate(shards)
        for part, start in enumerate(range(0, len(persons), PERSONS_A_PART))
    ]
    with Progress("lives", total=len(parts), unit="parts") as bar:
        for _ in map_partitions(make_lives, parts, workers=workers):
            bar.advance(1)
    places = [(task.shard, task.part) for task in parts]
    tables = {name: _gathered(staging, places, name, keys) for name, keys in SIDE_KEYS.items()}
    tables["visit"] = tables["visit"].add_column(
        0, "visit_occurrence_id", pa.array(np.arange(1, tables["visit"].num_rows + 1))
    )
    studies = _studies(staging, places)
    sample = _sample(parameters, studies, tables)
    num_parts = Counter(shard for shard, _ in places)
    tasks = [
        EventsTask(
            staging,
            folder / "vocabulary",
            parameters,
            shard,
            num_parts[shard],
            np.array(persons, dtype=np.int64) + 1,
            ontology.filler,
            tuple(sample[person] for person in persons if person in sample),
        )
        for shard, persons in enumerate(shards)
    ]
    staged = {}
    with Progress("events", total=len(tasks), unit="shards") as bar:
        for task_shard, shard in map_partitions(make_events, tasks, workers=workers):
            staged[task_shard] = shard
            bar.advance(1)
    snapshot_id, num_events = snapshot.write(
        folder / "timeline", [staged[number] for number in sorted(staged)], tables, parameters
    )
    counts = {"persons": parameters.patients, "studies": studies.num_rows, "events": num_events}
    write_truth(folder / "truth", staging, parameters, model, places, studies)
    notes: tuple[str, ...] = ()
    if with_images:
        notes = (write_full_truth(folder / "truth", parameters, model, workers).text(),)
        studies = write_study_volumes(folder, parameters, studies, workers)
        counts["volumes"] = studies.num_rows
    pq.write_table(studies.drop_columns(["number"]), folder / "index.parquet", compression="zstd", store_schema=False)
    write_concept_tasks(folder / "tasks", parameters, model, ontology)
    settings = SETTINGS.format(snapshot=snapshot_id, k=parameters.labeling.k, min_events=min_events(parameters))
    (folder / "platform.toml").write_text(settings, encoding="utf-8")
    folders.finish(folder, parameters, counts, {"snapshot_id": snapshot_id, "strength": "".join(notes)})
    log.info("synthetic cohort made", extra={"fields": dict(counts)})
    notes = (*notes, f"snapshot {snapshot_id}: platform.toml says how to label it")
    return SynthReport(folder, True, counts, notes)


def make_events(task: EventsTask) -> tuple[int, StagedShard]:
    """Make, sort and stage the events of one shard, and walk through those of the sampled scans."""

    def staged(name: str) -> pa.Table:
        parts = [pq.read_table(part_file(task.staging, task.shard, part, name)) for part in range(task.num_parts)]
        return pa.concat_tables(parts)

    events = shard_events(task.parameters, task.persons, staged("span"), staged("events"), task.filler)
    deaths = staged("death").sort_by("person_id")
    if task.scans:
        found = walk_scans(events, list(task.scans), task.vocabulary)
        pq.write_table(found, part_file(task.staging, task.shard, 0, "sample"))
    return task.shard, snapshot.stage(task.staging / f"shard-{task.shard:05d}.parquet", events, deaths)


def _gathered(staging: Path, places: list[tuple[int, int]], name: str, keys: tuple[str, ...]) -> pa.Table:
    """All parts of a table, in the order of its keys."""
    tables = [pq.read_table(part_file(staging, shard, part, name)) for shard, part in places]
    return pa.concat_tables(tables, promote_options="permissive").sort_by([(key, "ascending") for key in keys])


def _studies(staging: Path, places: list[tuple[int, int]]) -> pa.Table:
    """The index: studies numbered in the order of their persons and scans."""
    found = _gathered(staging, places, "study", ("person_id", "number"))
    number = found.num_rows
    return pa.table(
        {
            "study_id": np.arange(1, number + 1, dtype=np.int64),
            "person_id": found.column("person_id"),
            "t0": found.column("t0"),
            "t0_precision": np.zeros(number, dtype=np.uint8),
            "t0_source": pa.array(["synthetic"] * number, pa.string()),
            "number": found.column("number"),
        }
    )


def _sample(parameters: Parameters, studies: pa.Table, tables: dict[str, pa.Table]) -> dict[int, SampledScan]:
    """Scans whose first occurrences are found by a plain walk, one a person: by the person's index."""
    order = stream(parameters.seed, 0, Stage.SAMPLE).permutation(studies.num_rows)
    _, first = np.unique(np.asarray(studies.column("person_id"))[order], return_index=True)
    chosen = order[np.sort(first)[: parameters.timeline.sample]]
    scans = studies.take(pa.array(np.sort(chosen)))
    period_end = _by_person(tables["observation_period"], "end_s", scans)
    death = _by_person(tables["death"], "death_s", scans)
    cut = wall(parameters.calendar.cut) + LAST_SECOND
    return {
        row["person_id"] - 1: SampledScan(
            row["study_id"],
            row["person_id"],
            row["t0"],
            min(period_end[row["person_id"]], cut, death.get(row["person_id"], cut)),
        )
        for row in scans.to_pylist()
    }


def _by_person(table: pa.Table, name: str, scans: pa.Table) -> dict[int, int]:
    """A column of the persons of some scans."""
    rows = table.filter(pc.is_in(table.column("person_id"), value_set=scans.column("person_id").combine_chunks()))
    return dict(zip(rows.column("person_id").to_pylist(), rows.column(name).to_pylist(), strict=True))


def _estimated_bytes(parameters: Parameters) -> float:
    columns, rows, slices = parameters.grid
    scans = parameters.patients * (1 + parameters.cohort.extra_scans)
    volumes = scans * columns * rows * slices * 4 if parameters.output == "workspace" else 0
    events = parameters.patients * (parameters.timeline.events_per_person + snapshot.PLANTED_PER_PERSON)
    return volumes + events * BYTES_PER_EVENT + parameters.patients * BYTES_PER_PERSON
