"""The images of a synthetic hospital against independent tools (rules S28, S45)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.lib.synthetic import make, truth


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("synthetic") / "hospital", patients=6)


def test_s45_dcm2niix_reads_the_same_affine_and_voxels(hospital: Path, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    for row in truth(hospital, "scans"):
        out = tmp_path / row["folder"]
        out.mkdir()
        command = [
            "dcm2niix",
            "-z",
            "n",
            "-b",
            "n",
            "-f",
            "volume",
            "-o",
            str(out),
            str(hospital / "dicom" / row["folder"]),
        ]
        subprocess.run(command, check=True, capture_output=True)
        image = nibabel.load(next(out.glob("*.nii")))
        affine = np.array(row["affine_ras"]).reshape(4, 4)
        shape = row["shape_zyx"][::-1]
        assert list(image.shape) == shape
        # Both to closest canonical orientation: the same corners in space, whatever the storage order of an axis.
        theirs = nibabel.as_closest_canonical(image)
        ours = nibabel.as_closest_canonical(nibabel.Nifti1Image(np.zeros(shape, np.int16), affine))
        np.testing.assert_allclose(theirs.affine, ours.affine, atol=1e-3)
