"""FHIR R4 resources into OMOP CDM rows."""
