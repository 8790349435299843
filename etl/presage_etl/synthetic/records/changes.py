"""What changes between two exports: who comes late, who is merged, what is amended, corrected, moved, closed, deleted.

A chart holds the record as it is at its end. Here every entry that changed since the first export is given the state
that it had then, so that both exports, and a full one as of the second, follow from one chart and cannot disagree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from enum import Enum

from presage_etl.synthetic.clock import DAY_S, HOUR_S, MINUTE_S, iso, iso_day, wall
from presage_etl.synthetic.identifiers import LOINC, RXNORM, SNOMED
from presage_etl.synthetic.lives.events import NEVER, History
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.records.chart_entries import Chart, Entry
from presage_etl.synthetic.records.fhir import ACT, Json, coding, concept, meta, reference

MISTAKEN = concept(coding(SNOMED, "49727002", "Cough"), text="Cough")
MOVED_DAYS = 21


class Role(Enum):
    """What happens to a person between the exports; the value is their place in the round."""

    NEW = 1
    LATE = 2
    MERGED = 3
    CHANGED = 4
    GONE = 5
    NONE = 0


def role_of(parameters: Parameters, index: int) -> Role:
    """The role of a person: every n-th has one."""
    export = parameters.export
    rounds = {
        Role.LATE: export.late_every,
        Role.GONE: export.gone_every,
        Role.MERGED: export.merged_every,
        Role.NEW: export.new_every,
        Role.CHANGED: export.changed_every,
    }
    return next((role for role, every in rounds.items() if index % every == role.value % every), Role.NONE)


def first_export_s(parameters: Parameters) -> int:
    """When the first of two exports is made, on the wall clock."""
    return wall(parameters.export.first) + 23 * HOUR_S + 59 * MINUTE_S


def split(parameters: Parameters, chart: Chart) -> tuple[list[Entry], list[Entry]]:
    """Return what the first of two exports holds of a chart, and what the second holds: new and changed since."""
    moment = iso(first_export_s(parameters), parameters.calendar.zone)[:19]
    first = [entry if entry.updated <= moment else entry.earlier for entry in chart.entries]
    second = [entry for entry in chart.entries if entry.updated > moment]
    return [entry for entry in first if entry is not None] + chart.withdrawn, second


def change_s(parameters: Parameters, index: int) -> int:
    """When what changes of a person between the exports does change."""
    day = 1 + index % (parameters.export.late_days - 1)
    return wall(parameters.export.first) + day * DAY_S + 12 * HOUR_S


def patient_changed(parameters: Parameters, history: History) -> int:
    """When a person's Patient last changed: at the registration, the death, or between the exports."""
    index = history.person.index
    own = history.person.origin if history.death == NEVER else history.death
    late = {Role.NEW: True, Role.LATE: True, Role.MERGED: own <= first_export_s(parameters)}
    return max(own, change_s(parameters, index)) if late.get(role_of(parameters, index)) else own


def plan_changes(parameters: Parameters, history: History, chart: Chart) -> None:
    """Give the chart's entries the times of their last change, and the states that they had at the first export."""
    zone, role = parameters.calendar.zone, role_of(parameters, chart.person.index)
    plan = _Plan(chart, first_export_s(parameters), change_s(parameters, chart.person.index), zone)
    plan.open_what_lasts()
    if role is Role.NEW:
        plan.take_over()
    elif role is Role.LATE:
        chart.entries[0].earlier = None
    elif role is Role.MERGED:
        plan.merge()
    elif role is Role.CHANGED:
        plan.change()
    elif role is Role.GONE:
        plan.register_twice()


class _Plan:
    def __init__(self, chart: Chart, first: int, moment: int, zone: str) -> None:
        self.chart, self.first, self.moment, self.zone = chart, iso(first, zone)[:19], moment, zone

    # --- what happens to everybody ---

    def open_what_lasts(self) -> None:
        """Encounters that the first export met open, and Patients who were alive then."""
        for entry in self.chart.entries:
            if entry.updated <= self.first:
                continue
            if entry.kind == "Encounter" and entry.resource["period"]["start"][:19] <= self.first:
                self._was(entry, _opened(entry.resource), updated=entry.resource["period"]["start"])
            elif entry.kind == "Patient":
                registered = iso(self.chart.person.origin, self.zone)
                alive = {key: value for key, value in entry.resource.items() if key != "deceasedDateTime"}
                self._was(entry, alive, updated=registered, tables=entry.tables - Counter(["death"]), days=[])

    # --- roles ---

    def take_over(self) -> None:
        """A person whose whole record came from elsewhere after the first export."""
        for entry in self.chart.entries:
            entry.earlier = None
            late = iso(self.moment, self.zone)
            if entry.updated < late[:19]:
                entry.resource["meta"] = entry.resource["meta"] | {"lastUpdated": late}

    def merge(self) -> None:
        """Two Patients at the first export, one since."""
        first, second = self.chart.entries[0], self._second()
        if first.earlier is not None:
            first.earlier.resource.pop("link", None)
        apart = {key: value for key, value in second.resource.items() if key != "link"} | {"active": True}
        tables = Counter({name: number for name, number in first.tables.items() if name != "death"})
        self._change(second, apart, tables=tables)

    def change(self) -> None:
        """Amend a result, finish another, correct and move diagnoses, close a visit, delete mistakes."""
        for entry, earlier in self._amendments():
            self._change(entry, earlier)
        smoking = self._find("Observation", "valueCodeableConcept")
        for entry in smoking[:1]:
            self._change(
                entry, entry.resource | {"status": "preliminary"}, tables=Counter(), excluded="status:preliminary"
            )
        for entry in self._find("Encounter", "period")[-1:]:
            self._change(entry, _opened(entry.resource))
        for entry in self._find("Procedure", "performedDateTime")[:1]:  # a code of another table
            pulse = concept(coding(LOINC, "8867-4", "Heart rate"), text="Heart rate")
            self._change(entry, entry.resource | {"code": pulse}, tables=Counter(["measurement"]))
        self.chart.withdrawn += self._mistakes()

    def register_twice(self) -> None:
        """A Patient that is nobody's, with a visit: deleted since."""
        person = self.chart.person
        twin = f"{person.key}-twin"
        patient = deepcopy(self.chart.entries[0].resource) | {"id": twin}
        patient["identifier"] = [patient["identifier"][0] | {"value": f"SYN7{person.index:06d}"}]
        for gone in ("deceasedDateTime", "link"):
            patient.pop(gone, None)
        patient["meta"] = meta(person.origin, self.zone)
        answers = len(person.races) if len(person.races) > 1 else 0
        visit = self._mistaken("Encounter", twin, {"status": "finished", "class": coding(ACT, "AMB")})
        start = iso(person.origin, self.zone)
        visit.resource["period"] = {"start": start, "end": start}
        self.chart.withdrawn += [Entry(patient, twin, tables=Counter(person=1, observation=answers)), visit]

    # --- parts ---

    def _second(self) -> Entry:
        return next(entry for entry in self.chart.entries if entry.key == f"Patient/{self.chart.person.key}-old")

    def _amendments(self) -> Iterator[tuple[Entry, Json]]:
        for entry in self._find("Observation", "valueQuantity")[-1:]:
            quantity = entry.resource["valueQuantity"]
            first = entry.resource | {"valueQuantity": quantity | {"value": round(quantity["value"] * 1.1, 2)}}
            entry.resource["status"] = "amended"
            yield entry, first
        conditions = self._find("Condition", "recordedDate")
        for entry in conditions[-1:]:
            yield entry, entry.resource | {"code": MISTAKEN}
        for entry in conditions[:-1][:1]:
            yield entry, _moved(entry, ("recordedDate", "onsetDateTime"))
        for entry in self._find("MedicationRequest", "authoredOn")[:1]:
            yield entry, _moved(entry, ("authoredOn",))
        for entry in self._find("Immunization", "occurrenceDateTime")[:1]:
            yield entry, _moved(entry, ("occurrenceDateTime",))

    def _find(self, kind: str, element: str) -> list[Entry]:
        """Entries of a type that stood at the first export as they stand now."""
        return [
            entry
            for entry in self.chart.entries
            if entry.kind == kind and element in entry.resource and entry.updated <= self.first
        ]

    def _mistakes(self) -> list[Entry]:
        """Resources that never should have been: one of them dated before the record begins."""
        key = self.chart.person.key
        start = self.chart.person.origin
        before = iso_day(start - 40 * DAY_S)
        visit = self._mistaken("Encounter", key, {"status": "finished", "class": coding(ACT, "EMER")})
        visit.resource["period"] = {"start": iso(start, self.zone), "end": iso(start + HOUR_S, self.zone)}
        drug = concept(coding(RXNORM, "314076", "lisinopril 10 MG Oral Tablet"))
        weight = concept(coding(LOINC, "29463-7", "Body weight"))
        vital = concept(coding("http://terminology.hl7.org/CodeSystem/observation-category", "vital-signs"))
        return [
            visit,
            self._mistaken("Condition", key, {"code": MISTAKEN, "recordedDate": before}),
            self._mistaken(
                "MedicationRequest",
                key,
                {"status": "completed", "intent": "order", "medicationCodeableConcept": drug, "authoredOn": before},
            ),
            self._mistaken(
                "Observation",
                key,
                {
                    "status": "final",
                    "category": [vital],
                    "code": weight,
                    "encounter": reference("Encounter", str(visit.resource["id"])),
                    "effectiveDateTime": iso(start, self.zone),
                    "valueQuantity": {"value": 1.0, "unit": "kg", "system": "http://unitsofmeasure.org", "code": "kg"},
                },
            ),
        ]

    def _mistaken(self, kind: str, patient: str, content: Json) -> Entry:
        table = {
            "Encounter": "visit_occurrence",
            "Condition": "condition_occurrence",
            "MedicationRequest": "drug_exposure",
            "Observation": "measurement",
        }[kind]
        start = self.chart.person.origin
        resource: Json = {
            "resourceType": kind,
            "id": f"{patient}-wrong-{kind.lower()}",
            "meta": meta(start, self.zone),
            "subject": reference("Patient", patient),
            **content,
        }
        return Entry(resource, patient, tables=Counter([table]), days=[start // DAY_S])

    def _change(self, entry: Entry, earlier: Json, *, tables: Counter[str] | None = None, excluded: str = "") -> None:
        """Change an entry after the first export; `earlier` is how it stood then."""
        updated = entry.resource["meta"]["lastUpdated"]
        self._was(entry, earlier, updated=updated, tables=tables, excluded=excluded)
        entry.resource["meta"] = {"versionId": "2", "lastUpdated": iso(self.moment, self.zone)}

    def _was(
        self,
        entry: Entry,
        earlier: Json,
        *,
        updated: str,
        tables: Counter[str] | None = None,
        days: list[int] | None = None,
        excluded: str = "",
    ) -> None:
        stood = deepcopy(earlier) | {"meta": {"versionId": "1", "lastUpdated": updated}}
        entry.earlier = Entry(
            stood,
            entry.patient,
            tables=entry.tables if tables is None else tables,
            days=entry.days if days is None else days,
            visit=entry.visit,
            excluded=excluded,
            bundle=entry.bundle,
        )
        if entry.resource["meta"]["versionId"] == "1":
            entry.resource["meta"] = entry.resource["meta"] | {"versionId": "2"}


def _opened(encounter: Json) -> Json:
    """The same stay before it ended."""
    stay = deepcopy(encounter) | {"status": "in-progress"}
    stay["period"] = {"start": encounter["period"]["start"]}
    stay.get("hospitalization", {}).pop("dischargeDisposition", None)
    for participant in stay.get("participant", []):
        participant.pop("period", None)
    return stay


def _moved(entry: Entry, elements: tuple[str, ...]) -> Json:
    """The same event with an earlier date."""
    day = iso_day((min(entry.days) - MOVED_DAYS) * DAY_S)
    return entry.resource | {name: day for name in elements if name in entry.resource}
