"""FHIR ImagingStudy → one procedure_occurrence a study and one image_occurrence a series (E68)."""

from __future__ import annotations

from typing import Any

from presage_etl.fhir.coding import CodingSet
from presage_etl.fhir.context import Choice, Context, Pick
from presage_etl.fhir.elements import CodeableConcept, Coding, Element, Identifier, Reference, Resource, key_of
from presage_etl.fhir.identifiers import hashed
from presage_etl.fhir.outcome import Dead, Excluded, Loaded, Note, Outcome, Row
from presage_etl.fhir.routing import Event, Timing, event_refs, event_rows, read_when, table_of

STUDY_UID_SYSTEM = "urn:dicom:uid"
DICOM_SYSTEM = "http://dicom.nema.org/resources/ontology/DCM"
OID = "urn:oid:"


class Performer(Element):
    actor: Reference | None = None


class Series(Element):
    uid: str | None = None
    modality: Coding | None = None
    body_site: Coding | None = None
    started: str | None = None
    performer: tuple[Performer, ...] = ()


class ImagingStudy(Resource):
    """The elements of ImagingStudy that are read."""

    identifier: tuple[Identifier, ...] = ()
    status: str | None = None
    modality: tuple[Coding, ...] = ()
    subject: Reference | None = None
    encounter: Reference | None = None
    started: str | None = None
    interpreter: tuple[Reference, ...] = ()
    procedure_reference: Reference | None = None
    procedure_code: tuple[CodeableConcept, ...] = ()
    series: tuple[Series, ...] = ()


def gate(resource: ImagingStudy, context: Context) -> Excluded | Dead | None:
    """Admit what is available."""
    if resource.status is None:
        return Dead("structure", "ImagingStudy.status")
    if resource.status == "entered-in-error":
        return Excluded("entered-in-error")
    return None if resource.status == "available" else Excluded(f"status:{resource.status}")


def collect(resource: ImagingStudy, codings: CodingSet) -> None:
    """Add the codings that mapping will ask for."""
    for concept in resource.procedure_code[:1]:
        codings.add(concept.coding)
    for series in resource.series:
        if series.modality:
            codings.add_code(series.modality.system or DICOM_SYSTEM, series.modality.code)
        if series.body_site:
            codings.add_code(series.body_site.system, series.body_site.code)


def rows(resource: ImagingStudy, context: Context) -> Outcome:
    """Map one ImagingStudy that passed its gate."""
    study_uid = _study_uid(resource)
    if study_uid is None:
        return Dead("no-study-uid", "ImagingStudy.identifier")
    notes: list[Note] = []
    interpreters: list[Reference | None] = list(resource.interpreter)
    refs = event_refs(resource.subject, resource.encounter, interpreters, "ImagingStudy.subject")
    event = Event(
        home="procedure_occurrence",
        rule=68,
        timing=_timing(resource, context),
        type_concept="ehr_encounter_record" if "visit_occurrence_id" in refs else "ehr",
        refs=refs,
        element="ImagingStudy.procedureCode",
    )
    procedure = key_of(resource.procedure_reference, "Procedure")
    made = [] if procedure else _procedure_rows(resource, event, context, notes)
    for series in resource.series:
        image = _image_row(series, study_uid, event, procedure or "slot:main", context, notes)
        if image is None:
            notes.append(Note("no-series-uid", "ImagingStudy.series.uid"))
        else:
            made.append(image)
    identifiers = [known for known in resource.identifier if known.system != STUDY_UID_SYSTEM]
    return Loaded(made, hashed(identifiers), notes)


def _study_uid(resource: ImagingStudy) -> str | None:
    for identifier in resource.identifier:
        if identifier.system == STUDY_UID_SYSTEM and identifier.value:
            return identifier.value.strip().removeprefix(OID) or None
    return None


def _timing(resource: ImagingStudy, context: Context) -> Timing:
    source = "ImagingStudy.started"
    start = read_when(resource.started, source, context)
    if start is None:
        source = "ImagingStudy.series.started"
        start = read_when(next((series.started for series in resource.series if series.started), None), source, context)
    return Timing(start, source if start else None)


def _procedure_rows(resource: ImagingStudy, event: Event, context: Context, notes: list[Note]) -> list[Row]:
    """Return the study's procedure, always in procedure_occurrence, and a second row where its domain is another."""
    if not resource.procedure_code:
        pick = Pick(0, "Procedure", 0, _modality_and_site(resource))
        return event_rows(event, Choice((pick,)), context, notes)
    choice = context.choose(resource.procedure_code[0], "procedure", event.element, notes)
    notes.extend(Note("loss", event.element, "only the first is kept") for _ in resource.procedure_code[1:])
    picks = [pick for pick in choice.picks if table_of(pick, event.home) == event.home]
    others = [pick for pick in choice.picks if table_of(pick, event.home) != event.home]
    if not picks:
        picks = [Pick(0, "", others[0].source_concept_id, others[0].source_value)]
    return event_rows(event, Choice((*picks, *others)), context, notes)


def _modality_and_site(resource: ImagingStudy) -> str | None:
    modalities = [series.modality.code for series in resource.series if series.modality and series.modality.code]
    modalities += [modality.code for modality in resource.modality if modality.code]
    sites = [series.body_site.code for series in resource.series if series.body_site and series.body_site.code]
    return " ".join([*modalities[:1], *sites[:1]]) or None


def _image_row(
    series: Series, study_uid: str, event: Event, procedure: str, context: Context, notes: list[Note]
) -> Row | None:
    """Return one image_occurrence; path and pixels are for `platform link` to fill."""
    uid = (series.uid or "").strip().removeprefix(OID)
    if not uid:
        return None
    source = "ImagingStudy.series.started"
    own = read_when(series.started, source, context)
    when, path = (own, source) if own else (event.timing.start, event.timing.source)
    refs = {
        "person_id": event.refs["person_id"],
        "procedure_occurrence_id": procedure,
    }
    if "visit_occurrence_id" in event.refs:
        refs["visit_occurrence_id"] = event.refs["visit_occurrence_id"]
    values: dict[str, Any] = {
        "image_study_uid": study_uid,
        "image_series_uid": uid,
        "modality_concept_id": _modality(series, context, notes),
        "anatomic_site_concept_id": _site(series, context, notes),
        "image_occurrence_date": when.day if when else None,
    }
    return Row(
        "image_occurrence",
        f"series:{uid}",
        68,
        values,
        refs,
        "image_occurrence_date",
        path,
        when.imputed if when else None,
    )


def _modality(series: Series, context: Context, notes: list[Note]) -> int:
    if series.modality is None:
        return 0
    system = series.modality.system or DICOM_SYSTEM
    return context.resolve(system, series.modality.code, "general", "ImagingStudy.series.modality", notes)


def _site(series: Series, context: Context, notes: list[Note]) -> int:
    if series.body_site is None:
        return 0
    site = series.body_site
    return context.resolve(site.system, site.code, "general", "ImagingStudy.series.bodySite", notes)
