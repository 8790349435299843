"""DICOM headers and pixels to native volumes with a verdict."""
