"""What a scanner sends: a thorax of analytic shapes, the detector's noise, and valid DICOM."""
