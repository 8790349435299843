"""Cohorts of benchmark size, written straight to the timeline and volume stores, without FHIR and DICOM between."""
