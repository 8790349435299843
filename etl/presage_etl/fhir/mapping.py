"""The door through which every FHIR resource becomes rows: gates, decoding, mapping (E23, E25, E42).

decoded = decode(resource_type, raw, context)      # gates 1 to 6 and 8: Decoded | Excluded | Dead
collect(decoded, codings)                          # add its codings to the block's CodingSet
context.prefetch(codings)                          # once a block: one query for what is not yet known
outcome = map_decoded(decoded, context)            # Loaded | Excluded | Dead; raises nothing
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from presage_etl.fhir import (
    allergy_intolerance,
    condition,
    diagnostic_report,
    encounter,
    imaging_study,
    immunization,
    location,
    medication,
    medication_administration,
    medication_request,
    observation,
    organization,
    patient,
    practitioner,
    procedure,
    service_request,
)
from presage_etl.fhir.coding import CodingSet
from presage_etl.fhir.context import Context
from presage_etl.fhir.elements import Resource
from presage_etl.fhir.finish import finish
from presage_etl.fhir.gates import MAX_DEPTH, Modifiers, has_modifiers, is_too_deep, read_modifiers, structural_fault
from presage_etl.fhir.outcome import Dead, Excluded, Outcome, RefusedError

MAPPING_VERSION = 1
"""Stamped into each run; a new number makes an unchanged file worth reading again (E77)."""


@dataclass(frozen=True, slots=True)
class Mapper:
    """How one resource type is decoded, gated and mapped."""

    struct: type[Resource]
    gate: Callable[[Any, Context], Excluded | Dead | None]
    collect: Callable[[Any, CodingSet], None]
    rows: Callable[[Any, Context], Outcome]
    decoder: msgspec.json.Decoder[Any]


def _mapper(struct: type[Resource], module: Any) -> Mapper:
    return Mapper(struct, module.gate, module.collect, module.rows, msgspec.json.Decoder(struct))


MAPPERS: Mapping[str, Mapper] = {
    "AllergyIntolerance": _mapper(allergy_intolerance.AllergyIntolerance, allergy_intolerance),
    "Condition": _mapper(condition.Condition, condition),
    "DiagnosticReport": _mapper(diagnostic_report.DiagnosticReport, diagnostic_report),
    "Encounter": _mapper(encounter.Encounter, encounter),
    "ImagingStudy": _mapper(imaging_study.ImagingStudy, imaging_study),
    "Immunization": _mapper(immunization.Immunization, immunization),
    "Location": _mapper(location.Location, location),
    "Medication": _mapper(medication.Medication, medication),
    "MedicationAdministration": _mapper(medication_administration.MedicationAdministration, medication_administration),
    "MedicationRequest": _mapper(medication_request.MedicationRequest, medication_request),
    "Observation": _mapper(observation.Observation, observation),
    "Organization": _mapper(organization.Organization, organization),
    "Patient": _mapper(patient.Patient, patient),
    "Practitioner": _mapper(practitioner.Practitioner, practitioner),
    "PractitionerRole": _mapper(practitioner.PractitionerRole, practitioner),
    "Procedure": _mapper(procedure.Procedure, procedure),
    "ServiceRequest": _mapper(service_request.ServiceRequest, service_request),
}


@dataclass(slots=True)
class Decoded:
    """A resource that passed its gates, decoded once."""

    resource_type: str
    resource: Resource
    modifiers: Modifiers | None = None


def decode(
    resource_type: str, raw: bytes, context: Context, *, resource_id: str | None = None
) -> Decoded | Excluded | Dead:
    """Decode the elements that are read and apply the gates that need no ledger; raises nothing.

    `resource_id` is the id that a Bundle entry without one gets from its `fullUrl`.
    """
    mapper = MAPPERS.get(resource_type)
    if is_too_deep(raw):
        return Dead("structure", f"{resource_type} nested deeper than {MAX_DEPTH}")
    if mapper is None:
        return structural_fault(raw, None) or Excluded("type-not-mapped")
    try:
        resource = mapper.decoder.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        fault = structural_fault(raw, mapper.struct) or Dead("structure")
        if fault.reason in ("structure", "bad-number"):
            fault.path = f"{resource_type}.{fault.path}" if fault.path else resource_type
        return fault
    if resource.id is None:
        resource.id = resource_id
    if not resource.id:
        return Dead("no-id", f"{resource_type}.id")
    modifiers = None
    if has_modifiers(raw):
        modifiers = read_modifiers(raw, mapper.struct, context.policies["known_modifiers"])
        if modifiers.refusal is not None:
            return modifiers.refusal
    return mapper.gate(resource, context) or Decoded(resource_type, resource, modifiers)


def collect(decoded: Decoded, codings: CodingSet) -> None:
    """Add the codings that mapping this resource will ask for."""
    MAPPERS[decoded.resource_type].collect(decoded.resource, codings)


def map_decoded(decoded: Decoded, context: Context) -> Outcome:
    """Map a decoded resource; whatever it holds, the answer is an outcome."""
    try:
        outcome = MAPPERS[decoded.resource_type].rows(decoded.resource, context)
    except RefusedError as refused:
        return refused.outcome
    except (msgspec.MsgspecError, ArithmeticError, ValueError):
        return Dead("structure", decoded.resource_type)
    return finish(outcome, decoded.modifiers)


def map_resource(resource_type: str, raw: bytes, context: Context, *, resource_id: str | None = None) -> Outcome:
    """Gate, decode and map one resource in one step; codes that are not prefetched are asked for one by one."""
    decoded = decode(resource_type, raw, context, resource_id=resource_id)
    return map_decoded(decoded, context) if isinstance(decoded, Decoded) else decoded
