"""A synthetic hospital whose truth is known: FHIR and DICOM to load, and the answers beside them."""
