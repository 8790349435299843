"""The simulated part of a timeline: lives, their records as rows of the snapshot's tables, and what is true of them.

One call makes the persons of one part of a shard and puts its tables into a staging folder, from where the events are
written and the small tables are gathered; nothing grows with the size of the cohort.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from presage_etl.synthetic.clock import DAY_S, wall
from presage_etl.synthetic.lives.events import NEVER, History, label_time, simulate
from presage_etl.synthetic.lives.hazards import Model
from presage_etl.synthetic.lives.persons import Person, draw_person
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.shards import LABELS, Rows, ShardResult, person_row, scan_rows, truth_of_person

LAST_SECOND = DAY_S - 1
DATE_ONLY = 8  # flag bit of an event that has a day and no time
CONDITION_TABLE, VISIT_TABLE, DEATH_TABLE = 0, 6, 7
DEATH_CONCEPT = 4306655
VISIT_CONCEPTS = {"AMB": 9202, "EMER": 9203, "IMP": 9201}
SEX_CONCEPTS = {True: 8507, False: 8532}
SYMPTOM_CONCEPTS = {"cough": 254761, "dyspnea": 312437, "fever": 437663, "headache": 378253, "fatigue": 4223659}
RACE_CONCEPTS = {"2106-3": 8527, "2054-5": 8516, "2028-9": 8515, "1002-5": 8657, "2076-8": 8557}
ETHNICITY_CONCEPTS = {"2135-2": 38003563, "2186-5": 38003564}

INT, TEXT = pa.int64(), pa.string()
SCHEMAS = {
    "events": pa.schema([("person_id", INT), ("concept", pa.int32()), ("time", INT), ("flags", pa.uint8())]),
    "person": pa.schema(
        [
            ("person_id", INT),
            ("birth_date", pa.date32()),
            ("gender_concept_id", INT),
            ("race_concept_id", INT),
            ("ethnicity_concept_id", INT),
            ("site", TEXT),
        ]
    ),
    "observation_period": pa.schema([("person_id", INT), ("start_s", INT), ("end_s", INT)]),
    "visit": pa.schema([("person_id", INT), ("concept", INT), ("start_s", INT), ("end_s", INT), ("site", TEXT)]),
    "death": pa.schema([("person_id", INT), ("death_s", INT), ("is_date", pa.bool_())]),
    "study": pa.schema([("person_id", INT), ("number", INT), ("t0", INT)]),
    "span": pa.schema([("person_id", INT), ("start_s", INT), ("end_s", INT)]),
}
"""Tables of a part beside those of truth; `span` is where events without a plan may fall."""


@dataclass(frozen=True)
class LivesTask:
    """Work of one process: some persons of one shard. `full` truth holds labels too."""

    staging: Path
    parameters: Parameters
    model: Model
    shard: int
    part: int
    persons: tuple[int, ...]
    full: bool


@dataclass
class RecordDays:
    """What truth reads of a chart; FHIR is not written here, so no image study is known to an EHR."""

    person: Person
    days: list[int]
    resources: dict[str, list[Any]] = field(default_factory=dict)


def part_file(staging: Path, shard: int, part: int, table: str) -> Path:
    """Where a table of one part waits."""
    return staging / f"{table}-{shard:05d}-{part:04d}.parquet"


def make_lives(task: LivesTask) -> tuple[int, int]:
    """Simulate the persons of one part and stage their tables; return which part it was."""
    rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in SCHEMAS}
    result = ShardResult(task.shard, [])
    for index in task.persons:
        person = draw_person(task.parameters, index)
        history = simulate(task.parameters, task.model, person)
        days = record_days(history)
        _append_rows(rows, task.parameters, task.model, history, days)
        if task.full:
            truth_of_person(result, task.parameters, task.model, history, RecordDays(person, days))
        else:
            _short_truth(result, task.parameters, history)
    for name, schema in SCHEMAS.items():
        columns = list(zip(*rows[name], strict=True)) or [()] * len(schema)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        pq.write_table(pa.table(arrays, schema=schema), part_file(task.staging, task.shard, task.part, name))
    for name, table in _truth_tables(result).items():
        pq.write_table(table, part_file(task.staging, task.shard, task.part, f"truth.{name}"))
    return task.shard, task.part


def record_days(history: History) -> list[int]:
    """Days since 1970 that the record holds: visits, diagnoses, death."""
    days = [second // DAY_S for visit in history.visits for second in (visit.start, visit.end)]
    days += [label_time(diagnosis) // DAY_S for diagnosis in history.diagnoses]
    return days + ([history.death // DAY_S] if history.death != NEVER else [])


def _append_rows(
    rows: dict[str, list[tuple[Any, ...]]], parameters: Parameters, model: Model, history: History, days: list[int]
) -> None:
    person = history.person
    number = person.index + 1
    rows["person"].append(_demography(person, number))
    last = min(max(days), wall(parameters.calendar.cut) // DAY_S) if days else 0
    if days:
        rows["observation_period"].append((number, min(days) * DAY_S, last * DAY_S + LAST_SECOND))
        rows["span"].append((number, min(days) * DAY_S, min(history.end, last * DAY_S + LAST_SECOND)))
    rows["events"] += [
        (
            number,
            model.leaves[about.leaf].concept_id if about.leaf != NEVER else SYMPTOM_CONCEPTS[about.symptom],
            label_time(about),
            CONDITION_TABLE | (DATE_ONLY if about.day_only else 0),
        )
        for about in history.diagnoses
        if about.readable  # a local code or a text is a row without a concept: no event
    ]
    for visit in history.visits:
        concept = VISIT_CONCEPTS[visit.kind]
        rows["visit"].append((number, concept, visit.start, visit.end, None))
        rows["events"].append((number, concept, visit.start, VISIT_TABLE))
    if history.death != NEVER:
        day, bare = history.death // DAY_S * DAY_S, history.death_day_only
        rows["death"].append((number, day + LAST_SECOND if bare else history.death, bare))
        time, flags = (day, DEATH_TABLE | DATE_ONLY) if bare else (history.death, DEATH_TABLE)
        rows["events"].append((number, DEATH_CONCEPT, time, flags))
    rows["study"] += [(number, scan.number, scan.t0) for scan in person.scans if scan.number in history.scan_visits]


def _demography(person: Person, number: int) -> tuple[Any, ...]:
    race = RACE_CONCEPTS[person.races[0]] if len(person.races) == 1 else 0
    birth = date(person.birth.year, 1, 1) if person.birth_year_only else person.birth
    return number, birth, SEX_CONCEPTS[person.male], race, ETHNICITY_CONCEPTS.get(person.ethnicity, 0), None


def _short_truth(result: ShardResult, parameters: Parameters, history: History) -> None:
    """Persons and scans: what a cohort of benchmark size has room for."""
    person = history.person
    result.tables.setdefault("persons", []).append(person_row(person))
    for scan in person.scans:
        if scan.number in history.scan_visits:
            rows = scan_rows(person, scan, parameters.seed, known=True, in_ehr=False, zone=parameters.calendar.zone)
            result.tables.setdefault("scans", []).append(rows["scans"][0])


def _truth_tables(result: ShardResult) -> dict[str, pa.Table]:
    tables = {name: pa.Table.from_pylist(_level(rows)) for name, rows in result.tables.items() if name != "true_labels"}
    if result.concept_labels:
        headlines = pa.Table.from_pylist(result.tables["true_labels"], schema=LABELS)
        tables["true_labels"] = pa.concat_tables([headlines, *result.concept_labels]).combine_chunks()
    return tables


def _level(rows: Rows) -> Rows:
    """Give every row the same columns."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [{column: row.get(column) for column in columns} for row in rows]
