"""dcm2niix and highdicom as oracles of geometry and voxels: both sides are brought to closest canonical orientation."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np

DCM2NIIX = shutil.which("dcm2niix")


def dcm2niix_volume(source: Path, folder: Path) -> nibabel.Nifti1Image:
    """Convert a folder that holds one series; return the one image that comes of it."""
    assert DCM2NIIX is not None
    folder.mkdir(parents=True, exist_ok=True)
    command = [DCM2NIIX, "-z", "n", "-b", "n", "-f", "%s_%j", "-o", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (path,) = sorted(folder.glob("*.nii"))
    return nibabel.load(path)


def highdicom_volume(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Return (array [z, y, x] in HU, affine RAS of index (x, y, z)) by highdicom."""
    import highdicom
    import pydicom

    volume = highdicom.get_volume_from_series([pydicom.dcmread(path) for path in paths], dtype=np.float64)
    # highdicom indexes (slice, row, column) in LPS
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine[:, [2, 1, 0, 3]]
    return volume.array, affine


def canonical(array_zyx: np.ndarray, affine: np.ndarray) -> nibabel.Nifti1Image:
    """Return an image in closest canonical orientation."""
    image = nibabel.Nifti1Image(array_zyx.transpose(2, 1, 0).astype(np.float64), affine)
    return nibabel.as_closest_canonical(image)


def assert_same_volume(ours: nibabel.Nifti1Image, theirs: nibabel.Nifti1Image) -> None:
    """Hold two canonical images together: shape, every affine element over the full extent, every voxel."""
    theirs = nibabel.as_closest_canonical(theirs)
    assert ours.shape == theirs.shape
    extent = np.array([*ours.shape, 1.0])
    np.testing.assert_allclose(ours.affine * extent, theirs.affine * extent, atol=1e-3)
    np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj, dtype=np.float64))
