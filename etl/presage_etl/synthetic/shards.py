"""One shard of persons: their records as NDJSON, and what is true of them."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from presage_etl.synthetic.answers.true_labels import Label, concept_labels, headline_labels, observe
from presage_etl.synthetic.answers.true_outcomes import other_views, outcome_labels
from presage_etl.synthetic.clock import YEAR_S, day_of, utc_day
from presage_etl.synthetic.identifiers import accession, series_uid, study_key, study_uid
from presage_etl.synthetic.lives.events import NEVER, History, simulate
from presage_etl.synthetic.lives.hazards import Model
from presage_etl.synthetic.lives.persons import Person, Scan, draw_person
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.planted.fhir import outcomes, plant, write_files
from presage_etl.synthetic.records.chart import build_chart, knows_study
from presage_etl.synthetic.records.chart_entries import Chart, Charted
from presage_etl.synthetic.records.codebook import Codebook
from presage_etl.synthetic.records.export import EXPORT, Counts, write_shard
from presage_etl.synthetic.records.omop import Row
from presage_etl.synthetic.records.omop_derived import derived_rows, ingredients
from presage_etl.synthetic.records.omop_files import Tables, keyed_tables
from presage_etl.synthetic.records.record_counts import RecordCounts
from presage_etl.synthetic.records.vocabulary import build_vocabulary

FIRST_ORPHAN = 5_000_000  # persons whom the EHR does not know have numbers of their own

LABELS = pa.schema(
    [
        ("study", pa.string()),
        ("task", pa.string()),
        ("view", pa.string()),
        ("state", pa.string()),
        ("prevalent", pa.bool_()),
        ("time_s", pa.int64()),
        ("end_s", pa.int64()),
    ]
)

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class ShardTask:
    """Work of one process: persons `first` to `last`, exclusive."""

    folder: Path
    parameters: Parameters
    model: Model
    shard: int
    first: int
    last: int


@dataclass
class ShardResult:
    """What one shard wrote, and its rows of truth."""

    shard: int
    counts: list[Counts]
    num_resources: int = 0
    expected: RecordCounts = field(default_factory=RecordCounts)
    tables: dict[str, Rows] = field(default_factory=dict)
    concept_labels: list[pa.Table] = field(default_factory=list)
    cdm: Tables = field(default_factory=dict)
    scans: list[tuple[int, int]] = field(default_factory=list)


def make_shard(task: ShardTask) -> ShardResult:
    """Simulate the persons of one shard, write their FHIR, return their truth."""
    gc.disable()  # a shard makes many objects and no cycles: looking for them costs a quarter of the time
    try:
        return _make_shard(task)
    finally:
        gc.enable()


def _make_shard(task: ShardTask) -> ShardResult:
    parameters, model = task.parameters, task.model
    result = ShardResult(task.shard, [])
    charts = []
    vocabulary = build_vocabulary(model)
    codes = Codebook(vocabulary)
    for index in range(task.first, task.last):
        person = draw_person(parameters, index)
        history = simulate(parameters, model, person)
        chart = build_chart(parameters, model, history, parameters.grid[2], codes)
        charts.append(chart)
        result.expected.add(parameters, history, chart)
        result.num_resources += len(chart.entries)
        truth_of_person(result, parameters, model, history, chart)
    parts = ingredients(vocabulary)
    planted = plant(parameters, codes, parts, task.shard, range(task.first, task.last))
    result.expected.plant(parameters, planted.counts(), outcomes(planted.truth))
    result.tables["planted_fhir"] = planted.truth
    derived = [row for chart in charts for row in _derived(chart, parts)]
    result.expected.derive([*derived, *planted.rows])
    if "fhir" in parameters.modes:
        result.counts = write_shard(task.folder, parameters, task.shard, charts)
        result.counts[0] |= write_files(task.folder / EXPORT, planted)
        result.num_resources += planted.num_lines.total()
    if "omop" in parameters.modes:
        rows = [row for chart in charts for row in chart.rows]
        result.cdm = keyed_tables([*rows, *derived, *planted.rows])
    return result


def _derived(chart: Chart, parts: Mapping[int, int]) -> list[Row]:
    key, born = f"Patient/{chart.person.key}", chart.person.birth.year
    return derived_rows(key, born, chart.rows, chart.days, parts)


def orphan_scans(parameters: Parameters) -> list[int]:
    """Persons who were scanned and whom the EHR does not know."""
    number = parameters.patients * (1 + parameters.cohort.extra_scans) * parameters.cohort.orphan_studies
    return [FIRST_ORPHAN + place for place in range(round(number))]


def orphan_scan(person: Person) -> Scan:
    """The one scan of a person whom the EHR does not know."""
    return Scan(0, person.index_time, person.biomarkers, person.z)


def scan_rows(person: Person, scan: Scan, seed: int, *, known: bool, in_ehr: bool, zone: str) -> dict[str, Rows]:
    """Rows of scans, links and joins for one study."""
    key, uid = study_key(person.index, scan.number), study_uid(seed, person.index, scan.number)
    row: dict[str, Any] = {"study": key, "person": person.key, "t0_s": scan.t0}
    row["other_day_in_utc"] = utc_day(scan.t0, zone) != day_of(scan.t0)
    row |= {f"z{place + 1}": float(value) for place, value in enumerate(scan.score)}
    row |= {f"natural{place + 1}": float(value) for place, value in enumerate(scan.biomarkers)}
    link: dict[str, Any] = {"study": key, "person": person.key if known else None, "date_shift_days": 0}
    if known:
        link |= {
            "class": "accession" if in_ehr else "patient_id",
            "confidence": "high" if in_ehr else "low",
            "reason": None,
        }
    else:
        link |= {"class": None, "confidence": None, "reason": "unknown_patient"}
    join = {
        "study": key,
        "person": person.key,
        "study_uid": uid,
        "series_uid": series_uid(uid),
        "patient": f"Patient/{person.key}" if known else None,
        "imaging_study": f"ImagingStudy/{person.key}-study{scan.number}" if in_ehr else None,
        "service_request": f"ServiceRequest/{person.key}-order{scan.number}" if in_ehr else None,
        "diagnostic_report": f"DiagnosticReport/{person.key}-report{scan.number}" if in_ehr else None,
        "patient_id": person.mrn,
        "accession_number": accession(person.index, scan.number),
    }
    return {"scans": [row], "links": [link], "joins": [join]}


def truth_of_person(
    result: ShardResult, parameters: Parameters, model: Model, history: History, chart: Charted
) -> None:
    """Add the rows of truth of one person to a shard's."""
    person = history.person
    tables = result.tables
    _append(tables, "persons", person_row(person))
    _append(
        tables, "join_persons", {"person": person.key, "patient": f"Patient/{person.key}", "patient_id": person.mrn}
    )
    _append(
        tables,
        "death_censor",
        {
            "person": person.key,
            "end_s": history.end,
            "death_s": history.death if history.death != NEVER else None,
            "death_day_only": history.death_day_only if history.death != NEVER else None,
            "first_day": day_of(min(chart.days) * 86_400) if chart.days else None,
            "last_day": day_of(max(chart.days) * 86_400) if chart.days else None,
        },
    )
    for visit in history.visits:
        row = {
            "person": person.key,
            "visit": visit.number,
            "start_s": visit.start,
            "end_s": visit.end,
            "kind": visit.kind,
        }
        _append(tables, "visits", row)
    _onsets(tables, model, history)
    for scan in person.scans:
        if scan.number not in history.scan_visits:
            continue
        result.scans.append((person.index, scan.number))
        in_ehr = knows_study(chart, scan.number)
        rows = scan_rows(person, scan, parameters.seed, known=True, in_ehr=in_ehr, zone=parameters.calendar.zone)
        rows["scans"][0] |= {"origin_years": (scan.t0 - person.origin) / YEAR_S}
        for name, new in rows.items():
            tables.setdefault(name, []).extend(new)
        window = observe(history, chart, scan, parameters.calendar.cut)
        key = study_key(person.index, scan.number)
        headline = headline_labels(parameters, model, history, window)
        labels = [*headline, *other_views(headline)]
        if isinstance(chart, Chart):  # a record of events alone has no laboratory values
            labels += outcome_labels(history, chart, window)
        for label in labels:
            _append(tables, "true_labels", _label_row(key, label))
        result.concept_labels.append(_label_table(key, concept_labels(model, history, window)))


def person_row(person: Person) -> dict[str, Any]:
    """Row of truth/persons."""
    row: dict[str, Any] = {
        "person": person.key,
        "male": person.male,
        "birth": person.birth,
        "birth_year_only": person.birth_year_only,
        "races": list(person.races),
        "ethnicity": person.ethnicity,
        "state": person.state,
        "age_first_scan": person.age,
        "origin_s": person.origin,
        "index_s": person.index_time,
        "scanned": person.scanned,
    }
    row |= {f"z{place + 1}": float(value) for place, value in enumerate(person.z)}
    return row | {f"u{place + 1}": float(value) for place, value in enumerate(person.u)}


def _onsets(tables: dict[str, Rows], model: Model, history: History) -> None:
    first = history.first_recorded(len(model.leaves))
    happened = (history.onset < history.end) | (first != NEVER)
    for leaf in np.flatnonzero(happened):
        row = {
            "person": history.person.key,
            "condition": model.leaves[leaf].name,
            "onset_s": int(history.onset[leaf]),
            "first_recorded_s": int(first[leaf]) if first[leaf] != NEVER else None,
            "prevalent": bool(history.onset[leaf] <= history.person.index_time),
        }
        _append(tables, "onsets", row)


def _label_row(study: str, label: Label) -> dict[str, Any]:
    return {
        "study": study,
        "task": label.task,
        "view": label.view,
        "state": label.state,
        "prevalent": label.prevalent,
        "time_s": label.time_s,
        "end_s": label.end_s,
    }


def _label_table(study: str, labels: list[Label]) -> pa.Table:
    columns = [[study] * len(labels)]
    columns += [[getattr(label, name) for label in labels] for name in LABELS.names[1:]]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, LABELS, strict=True)], schema=LABELS)


def _append(tables: dict[str, Rows], name: str, row: dict[str, Any]) -> None:
    tables.setdefault(name, []).append(row)
