"""Resources that are wrong, or only look it, one function a kind; each belongs to a person made for it alone.

A maker returns the lines of its case as bytes, with the CDM rows that a right load makes of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import orjson

from presage_etl.synthetic.clock import DAY_S, HOUR_S, iso, wall
from presage_etl.synthetic.identifiers import LOINC, RXNORM, SNOMED, UCUM
from presage_etl.synthetic.lives.persons import Person
from presage_etl.synthetic.records import omop
from presage_etl.synthetic.records.codebook import Codebook, Meaning
from presage_etl.synthetic.records.omop import Row, When

Json = dict[str, Any]

LONG_LINE_BYTES = 5_300_000
UNIT, NO_UNIT = "g/dL", "furlong"
LESS_THAN = 4171756
REFUTED, DEAD = "723511001", "419099009"
FAR_DAY = date(2190, 6, 1)
TEXT_WIDTH = 50
WORDS = "Übelkeit nach Röntgen, боль в груди, 頭痛と発熱, ناقص, Ψυχρότητα, \U0001f912 "
CODE_TEXT = (WORDS * 8)[:300]
MODIFIER = "https://synthetic.example/modifier-that-nobody-knows"
CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
VERIFIED = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-clinical"
ACT = "http://terminology.hl7.org/CodeSystem/v3-ActCode"


class Line(NamedTuple):
    """One line of a file; `good` when nothing is wrong with it and it stands there for its neighbour's sake."""

    content: bytes
    key: str | None
    rows: tuple[Row, ...] = ()
    good: bool = False


@dataclass(frozen=True)
class Place:
    """For whom something is planted, and when: at one visit of a person of their own."""

    person: Person
    start: int
    codes: Codebook
    zone: str

    @property
    def end(self) -> int:
        """The end of the visit."""
        return self.start + 40 * 60

    @property
    def patient(self) -> str:
        """Key of the Patient."""
        return f"Patient/{self.person.key}"

    @property
    def visit(self) -> str:
        """Key of the Encounter."""
        return f"Encounter/{self.person.key}-v0"

    def named(self, kind: str, **elements: Any) -> Json:
        """A resource of the person, at the visit."""
        resource: Json = {
            "resourceType": kind,
            "id": f"{self.person.key}-d",
            "meta": {"versionId": "1", "lastUpdated": iso(self.end, self.zone)},
            "subject": {"reference": self.patient},
            "encounter": {"reference": self.visit},
        }
        return resource | elements


def coded(system: str, code: str) -> Json:
    """A CodeableConcept of one coding."""
    return {"coding": [{"system": system, "code": code}]}


def line(resource: Json, *rows: Row, good: bool = False) -> Line:
    """A resource as one line."""
    return Line(orjson.dumps(resource), f"{resource['resourceType']}/{resource['id']}", rows, good)


# --- what the person needs to be there -------------------------------------------------------------------------------


def patient(place: Place, death: int | None = None, **elements: Any) -> Line:
    """The Patient, with as little as a Patient needs."""
    person = place.person
    gender, concept_id = omop.GENDERS[person.male]
    resource: Json = {
        "resourceType": "Patient",
        "id": person.key,
        "meta": {"versionId": "1", "lastUpdated": iso(place.end, place.zone)},
        "name": [{"family": person.family, "given": [person.given]}],
        "gender": gender,
        "birthDate": person.birth.isoformat(),
    }
    values: Json = {
        "gender_concept_id": concept_id,
        "gender_source_value": gender,
        "gender_source_concept_id": 0,
        "year_of_birth": person.birth.year,
        "month_of_birth": person.birth.month,
        "day_of_birth": person.birth.day,
        "race_concept_id": 0,
        "race_source_concept_id": 0,
        "ethnicity_concept_id": 0,
        "ethnicity_source_concept_id": 0,
        "person_source_value": person.key,
    }
    rows = [Row("person", place.patient, values)]
    if death is not None:
        resource["deceasedDateTime"] = iso(death, place.zone)
        died = {"death_date": When(death).date, "death_datetime": When(death).moment, "death_type_concept_id": omop.EHR}
        rows.append(Row("death", f"{place.patient}#death", died | {"person_id": place.patient}))
    return line(resource | elements, *rows, good=True)


def encounter(place: Place, start: int | None = None, end: int | None = None) -> Line:
    """The visit, or another one of the same person whose end may come before its start."""
    first, last = start or place.start, end or place.end
    resource = place.named("Encounter", status="finished")
    resource["class"] = {"system": ACT, "code": "AMB"}
    resource["period"] = {"start": iso(first, place.zone), "end": iso(last, place.zone)}
    if start is None:
        resource["id"] = f"{place.person.key}-v0"
    del resource["encounter"]
    begun, ended = When(first), When(last)
    values = {
        "person_id": place.patient,
        "visit_concept_id": omop.VISITS["AMB"],
        "visit_start_date": begun.date,
        "visit_start_datetime": begun.moment,
        "visit_end_date": max(begun.date, ended.date),  # a required end before its start becomes the start
        "visit_end_datetime": ended.moment if last >= first else None,  # another is dropped
        "visit_type_concept_id": omop.ENCOUNTER_RECORD,
        "visit_source_value": "AMB",
        "visit_source_concept_id": 0,
    }
    return line(resource, Row("visit_occurrence", f"Encounter/{resource['id']}", values), good=start is None)


# --- laboratory values -----------------------------------------------------------------------------------------------


def lab(place: Place, when: When | None = None, value: float = 12.5, unit: str = UNIT, **columns: Any) -> Line:
    """A haemoglobin that is as it should be; `columns` are CDM columns that differ."""
    number: Json = {
        "value_as_number": value,
        "unit_concept_id": place.codes.concept(UCUM, unit),
        "unit_source_value": unit,
    }
    at = when or When(place.start)
    resource = place.named(
        "Observation",
        status="final",
        category=[coded(CATEGORY, "laboratory")],
        code=coded(LOINC, "718-7"),
        effectiveDateTime=iso(at.seconds, place.zone),
        valueQuantity={"value": value, "unit": unit, "system": UCUM, "code": unit},
    )
    return line(resource, *_measured(place, at, **(number | columns)))


def altered(of: Line, rows: tuple[Row, ...] = (), **elements: Any) -> Line:
    """The same resource with other elements; one that is None is taken away."""
    resource = orjson.loads(of.content) | elements
    return line({name: value for name, value in resource.items() if value is not None}, *rows)


def _measured(place: Place, when: When, visit: str | None = "", **columns: Any) -> tuple[Row, ...]:
    meaning = place.codes.meaning(coded(LOINC, "718-7"), "laboratory")
    key, at = f"Observation/{place.person.key}-d", place.visit if visit == "" else visit
    return tuple(omop.event("measurement", key, place.person, meaning, when, omop.LAB, visit=at, **columns))


def good_lab(place: Place) -> list[Line]:
    """For what is wrong with the file and not with the resource."""
    return [lab(place)]


def broken_json(place: Place) -> list[Line]:
    """A line that ends in the middle of an object."""
    return [Line(lab(place).content[:-40], None)]


def long_line(place: Place) -> list[Line]:
    """More than 5 MB, in an element that no mapping reads."""
    whole = lab(place)
    return [altered(whole, whole.rows, note=[{"text": "x" * LONG_LINE_BYTES}])]


def missing_subject(place: Place) -> list[Line]:
    """Nobody's value."""
    return [altered(lab(place), subject=None)]


def unresolved_person(place: Place) -> list[Line]:
    """The value of a Patient who never comes."""
    return [altered(lab(place), subject={"reference": "Patient/nobody"}, encounter=None)]


def unresolved_visit(place: Place) -> list[Line]:
    """At an Encounter that never comes: the row stays without its visit."""
    rows = tuple(Row(row.table, row.key, row.values | {"visit_occurrence_id": None}) for row in lab(place).rows)
    return [altered(lab(place), rows, encounter={"reference": "Encounter/never"})]


def impossible_date(place: Place) -> list[Line]:
    """The thirtieth of February."""
    return [altered(lab(place), effectiveDateTime="2020-02-30")]


def year_one(place: Place) -> list[Line]:
    """The date that broken converters write."""
    return [altered(lab(place), effectiveDateTime="0001-01-01T00:00:00Z")]


def future_event(place: Place) -> list[Line]:
    """Dates are not judged on load."""
    return [lab(place, When(wall(FAR_DAY) + 10 * HOUR_S))]


def event_after_death(place: Place) -> list[Line]:
    """A month after the death that its Patient states."""
    return [lab(place, When(death_of(place) + 30 * DAY_S))]


def death_of(place: Place) -> int:
    """When the person of that case died."""
    return place.start + 10 * DAY_S


def entered_in_error(place: Place) -> list[Line]:
    """Withdrawn by its source."""
    return [altered(lab(place), status="entered-in-error")]


def unknown_modifier(place: Place) -> list[Line]:
    """A modifier may turn the meaning round: what is not understood is not loaded."""
    return [altered(lab(place), modifierExtension=[{"url": MODIFIER, "valueBoolean": True}])]


def unknown_unit(place: Place) -> list[Line]:
    """A unit that UCUM does not have: concept 0, the source kept."""
    return [lab(place, unit=NO_UNIT)]


def comparator(place: Place) -> list[Line]:
    """Below the limit of detection."""
    below = lab(place, value=0.2, operator_concept_id=place.codes.literal(LESS_THAN) or None)
    quantity = orjson.loads(below.content)["valueQuantity"] | {"comparator": "<"}
    return [altered(below, below.rows, valueQuantity=quantity)]


def text_for_number(place: Place) -> list[Line]:
    """A number with a comma, as text: it stays text."""
    rows = _measured(place, When(place.start), value_as_string="7,4", value_source_value="7,4")
    return [altered(lab(place), rows, valueQuantity=None, valueString="7,4")]


def duplicate_line(place: Place) -> list[Line]:
    """The same bytes twice: the later line counts."""
    return [lab(place)._replace(rows=()), lab(place)._replace(good=True)]


def older_version(place: Place) -> list[Line]:
    """A second copy with an older version, behind the newer one."""
    newer = {"versionId": "2", "lastUpdated": iso(place.end + DAY_S, place.zone)}
    current = lab(place)
    return [altered(current, current.rows, meta=newer)._replace(good=True), lab(place, value=9.5)._replace(rows=())]


# --- other types -----------------------------------------------------------------------------------------------------


def no_birth_date(place: Place) -> list[Line]:
    """A Patient without birth date."""
    return [altered(patient(place), birthDate=None)]


def deceased_without_date(place: Place) -> list[Line]:
    """Dead, nobody says when: no death, an observation dated by the last event."""
    whole = patient(place)
    meaning = Meaning("deceasedBoolean", 0, ((place.codes.concept(SNOMED, DEAD), "Observation"),))
    key, when = f"{place.patient}#deceased", When(place.start, "day")
    stated = omop.event("observation", key, place.person, meaning, when, omop.EHR)
    return [altered(whole, (*whole.rows, *stated), deceasedBoolean=True)]


def refuted_condition(place: Place) -> list[Line]:
    """Ruled out: a value of an observation, never a condition."""
    code = coded(SNOMED, "59282003")
    found = place.codes.meaning(code)
    refuted = place.codes.concept(SNOMED, REFUTED)
    columns: Json = {"value_as_concept_id": found.targets[0][0], "value_source_value": "refuted"}
    columns |= {"qualifier_source_value": "refuted"}
    meaning = Meaning(found.source_value, found.source_concept_id, ((refuted, "Observation"),))
    key, when = f"Condition/{place.person.key}-d", When(place.start)
    stated = omop.event("observation", key, place.person, meaning, when, omop.EHR, visit=place.visit, **columns)
    rows = (Row(row.table, row.key, row.values | {"qualifier_concept_id": refuted}) for row in stated)
    verified = coded(VERIFIED, "refuted")
    resource = place.named(
        "Condition", verificationStatus=verified, code=code, recordedDate=iso(place.start, place.zone)
    )
    return [line(resource, *rows)]


def long_unicode_text(place: Place) -> list[Line]:
    """300 characters of many scripts and no code: concept 0, the text cut at the column's width."""
    columns = {"condition_status_concept_id": omop.CONFIRMED, "condition_status_source_value": "confirmed"}
    key, when, meaning = f"Condition/{place.person.key}-d", When(place.start), Meaning(CODE_TEXT[:TEXT_WIDTH])
    rows = omop.event(
        "condition_occurrence", key, place.person, meaning, when, omop.EHR, visit=place.visit, end=None, **columns
    )
    resource = place.named(
        "Condition",
        clinicalStatus=coded(CLINICAL, "active"),
        verificationStatus=coded(VERIFIED, "confirmed"),
        code={"text": CODE_TEXT},
        recordedDate=iso(place.start, place.zone),
    )
    return [line(resource, *rows)]


def not_done(place: Place) -> list[Line]:
    """A procedure that did not take place."""
    resource = place.named(
        "Procedure",
        status="not-done",
        code=coded(SNOMED, "91602002"),
        performedDateTime=iso(place.start, place.zone),
    )
    return [line(resource)]


def cancelled_request(place: Place) -> list[Line]:
    """A prescription that was taken back."""
    resource = place.named(
        "MedicationRequest",
        status="cancelled",
        intent="order",
        medicationCodeableConcept=coded(RXNORM, "197361"),
        authoredOn=iso(place.start, place.zone),
    )
    return [line(resource)]


def end_before_start(place: Place) -> list[Line]:
    """A second visit that ends the day before it begins."""
    start = place.start + DAY_S
    return [encounter(place, start, start - 26 * HOUR_S)]
