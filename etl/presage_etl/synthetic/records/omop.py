"""The rows of OMOP CDM 5.4 that a right load must make of the record, written down from what is simulated.

Nothing here is shared with the code that loads: the rules are those of the ETL specification, read a second time. A
`Row` is a table, a key and values by CDM column. The key is the resource, with `#slot` where one resource makes several
rows. Ids are not minted here: a column that refers to a row holds that row's key (`"person_id": "Patient/p000001"`,
`"visit_occurrence_id": "Encounter/p000001-v3"`), and `omop_files` numbers them. A column that is not named is NULL.

The chart is where a fact becomes a resource and its rows at once, so that neither can be forgotten:

    chart.add(resource, *rows)                     the general form; no rows for what the CDM has no place for
    chart.event(resource, "measurement", When(visit.start), LAB, setting="laboratory", visit=visit.number, **columns)

`chart.event` reads the code of the resource in the hospital's vocabulary and puts a row for each target in the table of
its domain; `columns` are further columns of the home table. `When(seconds, precision)` knows partial dates: a month or
a year is imputed as its first day, and the row's type says so. A reference test compares
every row and column with what `platform etl fhir` made.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

from presage_etl.synthetic.clock import day_of
from presage_etl.synthetic.lives.events import NEVER, History, Visit
from presage_etl.synthetic.lives.persons import Person
from presage_etl.synthetic.records.codebook import Codebook, Meaning
from presage_etl.synthetic.records.fhir import admit_source

EHR, ADMINISTERED, ENCOUNTER_RECORD, PRESCRIBED, PROBLEM_LIST = 32817, 32818, 32827, 32838, 32840
LAB, SELF_REPORT, ALGORITHM, CONFIRMED = 32856, 32865, 32882, 32893
GENDERS = {True: ("male", 8507), False: ("female", 8532)}
RACES = {"1002-5": 8657, "2028-9": 8515, "2054-5": 8516, "2076-8": 8557, "2106-3": 8527}
ETHNICITIES = {"2135-2": 38003563, "2186-5": 38003564}
SEVERAL_RACES, RACE_QUESTION = 1546847, 4013886
VISITS = {"IMP": 9201, "AMB": 9202, "EMER": 9203}
HOME = ("home", 8536)
ADMITTED_FROM = {"emd": 8870, "outp": 8756, "gp": 8940}
COUNTRY = "US"
VALUES = frozenset(
    {"value_as_number", "value_as_string", "value_as_concept_id", "value_source_value", "operator_concept_id",
     "unit_concept_id", "unit_source_value", "range_low", "range_high"}
)  # fmt: skip
LOST = {"measurement": frozenset({"value_as_string"}), "observation": frozenset({"range_low", "range_high"})}
"""Values that a table has no column for; other tables have none."""
TABLE_OF_DOMAIN = {
    "Condition": "condition_occurrence",
    "Drug": "drug_exposure",
    "Procedure": "procedure_occurrence",
    "Measurement": "measurement",
    "Observation": "observation",
    "Device": "device_exposure",
    "Specimen": "specimen",
}
_EPOCH = datetime(1970, 1, 1)
_EPOCH_ORDINAL = _EPOCH.date().toordinal()


class Row(NamedTuple):
    """One row of the CDM, before it has a number."""

    table: str
    key: str
    values: dict[str, Any]


class Shape(NamedTuple):
    """How an event table names its columns."""

    prefix: str
    start: str
    start_time: str
    end: str | None = None
    end_time: str | None = None


def _spanned(prefix: str, stem: str) -> Shape:
    return Shape(prefix, f"{stem}_start_date", f"{stem}_start_datetime", f"{stem}_end_date", f"{stem}_end_datetime")


SHAPES = {
    "condition_occurrence": _spanned("condition", "condition"),
    "drug_exposure": _spanned("drug", "drug_exposure"),
    "device_exposure": _spanned("device", "device_exposure"),
    "procedure_occurrence": Shape(
        "procedure", "procedure_date", "procedure_datetime", "procedure_end_date", "procedure_end_datetime"
    ),
    "measurement": Shape("measurement", "measurement_date", "measurement_datetime"),
    "observation": Shape("observation", "observation_date", "observation_datetime"),
    "specimen": Shape("specimen", "specimen_date", "specimen_datetime"),
}
SPANS = {
    "visit_occurrence": ("visit_start_date", "visit_end_date"),
    "visit_detail": ("visit_detail_start_date", "visit_detail_end_date"),
    "death": ("death_date", "death_date"),
    "note": ("note_date", "note_date"),
} | {table: (shape.start, shape.start) for table, shape in SHAPES.items()}
"""First and last day that a row gives to the observation period: events count by their start."""


class When(NamedTuple):
    """A time as the record states it: wall-clock seconds, known to the `time`, `day`, `month` or `year`."""

    seconds: int
    precision: str = "time"

    @property
    def date(self) -> date:
        """The stated day; the first one of a month or a year."""
        day = day_of(self.seconds)
        if self.precision == "month":
            return day.replace(day=1)
        return day.replace(month=1, day=1) if self.precision == "year" else day

    @property
    def moment(self) -> datetime | None:
        """The stated time; none without a clock."""
        return _EPOCH + timedelta(seconds=self.seconds) if self.precision == "time" else None

    def type_concept(self, concept_id: int) -> int:
        """Type of a row that starts here: an imputed day shows, except in what the patient reported."""
        imputed = self.precision in ("month", "year") and concept_id != SELF_REPORT
        return ALGORITHM if imputed else concept_id


def days_of(row: Row) -> tuple[int, int] | None:
    """First and last day (days since 1970) by which a row widens the observation period."""
    columns = SPANS.get(row.table)
    if columns is None:
        return None
    first, last = (row.values[column].toordinal() - _EPOCH_ORDINAL for column in columns)
    return first, max(first, last)


def event(
    home: str,
    key: str,
    person: Person,
    meaning: Meaning,
    when: When,
    type_concept: int,
    *,
    visit: str | None = None,
    end: When | None = None,
    **columns: Any,
) -> Iterator[Row]:
    """Rows of one coded event: one for each target, in the table of its domain; concept 0 stays at home."""
    taken: set[str] = set()
    for rank, (concept_id, domain) in enumerate(meaning.targets, start=1):
        table = TABLE_OF_DOMAIN.get(domain.partition("/")[0], "observation") if concept_id else home
        if table == "measurement" and table in taken:
            continue  # a measurement has one meaning
        taken.add(table)
        shape = SHAPES[table]
        values = _columns(home, table, columns) | {
            "person_id": f"Patient/{person.key}",
            f"{shape.prefix}_concept_id": concept_id,
            f"{shape.prefix}_type_concept_id": when.type_concept(type_concept),
            f"{shape.prefix}_source_value": meaning.source_value,
            shape.start: when.date,
            shape.start_time: when.moment,
        }
        if table != "specimen":
            values |= {"visit_occurrence_id": visit, f"{shape.prefix}_source_concept_id": meaning.source_concept_id}
        if shape.end is not None and shape.end_time is not None and end is not None:
            values |= {shape.end: end.date, shape.end_time: end.moment}
        if table in ("measurement", "observation") and meaning.value_concept_id and not columns:
            values["value_as_concept_id"] = meaning.value_concept_id
        yield Row(table, key if rank == 1 else f"{key}#k{rank}", values)


def _columns(home: str, table: str, columns: dict[str, Any]) -> dict[str, Any]:
    """Columns that a row keeps where it lands: values travel to measurement and observation, nothing else moves."""
    lost = LOST.get(table, VALUES)
    kept = {name: value for name, value in columns.items() if name not in lost and (table == home or name in VALUES)}
    if table == "observation" and "operator_concept_id" in kept:
        kept["qualifier_concept_id"] = kept.pop("operator_concept_id")
    return kept


def person_rows(history: History, codes: Codebook, organization: str, changed: int) -> Iterator[Row]:
    """The person, the state they live in, their death, and an observation for each of several races.

    `changed` is when the Patient last was: it dates the races of a person without visits.
    """
    person = history.person
    key, where = f"Patient/{person.key}", f"address:{person.state}|{COUNTRY}"
    gender, gender_concept = GENDERS[person.male]
    races = [codes.literal(RACES[code]) for code in person.races]
    yield Row("location", where, {"state": person.state, "country_source_value": COUNTRY})
    yield Row(
        "person",
        key,
        {
            "gender_concept_id": gender_concept,
            "gender_source_value": gender,
            "gender_source_concept_id": 0,
            "year_of_birth": person.birth.year,
            "month_of_birth": None if person.birth_year_only else person.birth.month,
            "day_of_birth": None if person.birth_year_only else person.birth.day,
            "race_concept_id": codes.literal(SEVERAL_RACES) if len(races) > 1 else races[0] if races else 0,
            "race_source_value": "|".join(person.races) or "UNK",
            "race_source_concept_id": 0,
            "ethnicity_concept_id": codes.literal(ETHNICITIES.get(person.ethnicity, 0)),
            "ethnicity_source_value": person.ethnicity or "UNK",
            "ethnicity_source_concept_id": 0,
            "location_id": where,
            "care_site_id": organization,
            "person_source_value": person.key,
        },
    )
    if history.death != NEVER:
        died = When(history.death, "day" if history.death_day_only else "time")
        values = {"death_date": died.date, "death_datetime": died.moment, "death_type_concept_id": EHR}
        yield Row("death", f"{key}#death", values | {"person_id": key})
    if len(races) > 1:
        known = max((visit.start for visit in history.visits), default=changed)
        for code, concept_id in zip(person.races, races, strict=True):
            meaning = Meaning("race", 0, ((codes.literal(RACE_QUESTION), "Observation"),))
            answer: dict[str, Any] = {"value_as_concept_id": concept_id, "value_source_value": code}
            yield from event("observation", f"{key}#race:{code}", person, meaning, When(known, "day"), EHR, **answer)


def visit_row(person: Person, visit: Visit, key: str, codes: Codebook, *, provider: str, organization: str) -> Row:
    """The visit of an encounter."""
    left, left_concept = HOME if visit.kind == "IMP" else (None, None)
    came = admit_source(visit) if visit.kind == "IMP" else None
    start, end = When(visit.start), When(visit.end)
    values = {
        "person_id": f"Patient/{person.key}",
        "visit_concept_id": codes.literal(VISITS[visit.kind]),
        "visit_start_date": start.date,
        "visit_start_datetime": start.moment,
        "visit_end_date": end.date,
        "visit_end_datetime": end.moment,
        "visit_type_concept_id": ENCOUNTER_RECORD,
        "provider_id": provider,
        "care_site_id": organization,
        "visit_source_value": f"VISIT-{visit.kind}",
        "visit_source_concept_id": 0,
        "admitted_from_concept_id": codes.literal(ADMITTED_FROM[came]) if came else None,
        "admitted_from_source_value": came,
        "discharged_to_concept_id": codes.literal(left_concept) if left_concept else None,
        "discharged_to_source_value": left,
    }
    return Row("visit_occurrence", key, values)


def stay_row(person: Person, key: str, whole: str, span: tuple[int, int], codes: Codebook, organization: str) -> Row:
    """The detail of a visit that an encounter within another one makes."""
    start, end = When(span[0]), When(span[1])
    values = {
        "person_id": f"Patient/{person.key}",
        "visit_occurrence_id": whole,
        "visit_detail_concept_id": codes.literal(VISITS["IMP"]),
        "visit_detail_start_date": start.date,
        "visit_detail_start_datetime": start.moment,
        "visit_detail_end_date": end.date,
        "visit_detail_end_datetime": end.moment,
        "visit_detail_type_concept_id": ENCOUNTER_RECORD,
        "care_site_id": organization,
        "visit_detail_source_value": "VISIT-ICU",
        "visit_detail_source_concept_id": 0,
    }
    return Row("visit_detail", key, values)


def study_rows(
    person: Person, identity: str, when: When, visit: str | None, uid: str, series: str, modality: int
) -> Iterator[Row]:
    """The procedure of an imaging study, and the image of its one series (MI-CDM)."""
    key = f"ImagingStudy/{identity}"
    yield from event("procedure_occurrence", key, person, Meaning("CT"), when, ENCOUNTER_RECORD, visit=visit)
    image = {
        "person_id": f"Patient/{person.key}",
        "procedure_occurrence_id": key,
        "visit_occurrence_id": visit,
        "anatomic_site_concept_id": 0,
        "image_occurrence_date": when.date,
        "image_study_uid": uid,
        "image_series_uid": series,
        "modality_concept_id": modality,
    }
    yield Row("image_occurrence", f"{key}#series:{series}", image)
