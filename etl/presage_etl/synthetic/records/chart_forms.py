"""Writes a finished chart in many forms: two Patients for one person, references of six kinds, visits in Bundles."""

from __future__ import annotations

from copy import deepcopy

from presage_etl.synthetic.clock import DAY_S, iso
from presage_etl.synthetic.identifiers import MRN_SYSTEM
from presage_etl.synthetic.lives.events import History
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.records.changes import Role, role_of
from presage_etl.synthetic.records.chart_entries import Chart, Entry
from presage_etl.synthetic.records.fhir import reference
from presage_etl.synthetic.records.fhir_forms import vary_references
from presage_etl.synthetic.streams import Stage, stream

BUNDLED = ("DiagnosticReport", "Encounter", "Observation", "Specimen")


def write_forms(parameters: Parameters, history: History, chart: Chart) -> None:
    """Vary how the chart's resources name each other; what they say stays."""
    person = chart.person
    mrn = {person.key: person.mrn}
    if role_of(parameters, person.index) is Role.MERGED:
        mrn[_second_patient(parameters, history, chart)] = _second_mrn(person.index)
    _choose_bundles(parameters, history, chart)
    rng = stream(parameters.seed, person.index, Stage.REFERENCES)
    draws = rng.random((len(chart.entries), 2))
    for entry, draw in zip(chart.entries, draws, strict=True):
        if not entry.bundle:
            vary_references(entry.resource, (float(draw[0]), float(draw[1])), parameters.references, mrn)
            if entry.kind == "Encounter" and "contained" in entry.resource:
                entry.made[0].values["provider_id"] = None  # who is contained has no life of their own


def _second_mrn(index: int) -> str:
    return f"SYN8{index:06d}"


def _second_patient(parameters: Parameters, history: History, chart: Chart) -> str:
    """A Patient of the same person, merged since: the first half of the record names it. Return its id."""
    person, zone = chart.person, parameters.calendar.zone
    old = f"{person.key}-old"
    half = ((person.origin + history.end) // 2) // DAY_S
    first = chart.entries[0].resource
    second = deepcopy(first) | {"id": old, "meta": {"versionId": "1", "lastUpdated": iso(person.origin, zone)}}
    second.pop("deceasedDateTime", None)
    second["identifier"] = [first["identifier"][0] | {"system": MRN_SYSTEM, "value": _second_mrn(person.index)}]
    second["active"] = False
    second["link"] = [{"other": reference("Patient", person.key), "type": "replaced-by"}]
    first["link"] = [{"other": reference("Patient", old), "type": "replaces"}]
    for entry in chart.entries[1:]:
        if entry.days and min(entry.days) < half:
            entry.patient = old
            holder = "patient" if "patient" in entry.resource else "subject"
            entry.resource[holder] = reference("Patient", old)
    chart.entries.append(Entry(second, old))
    return old


def _choose_bundles(parameters: Parameters, history: History, chart: Chart) -> None:
    """Some visits come as a Bundle with their results."""
    draws = stream(parameters.seed, chart.person.index, Stage.BUNDLES).random(len(history.visits))
    chosen = {
        visit.number for visit, draw in zip(history.visits, draws, strict=True) if draw < parameters.references.bundled
    }
    for entry in chart.entries:
        if entry.visit in chosen and entry.kind in BUNDLED:
            entry.bundle = f"{chart.person.key}-u{entry.visit}"
