"""Volumes as NIfTI files, for viewers and other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from presage_platform.volumes.store import Store


def export_nifti(store: Store, volume_id: str, folder: Path) -> Path:
    """Write one volume as `<first 16 digits of its id>.nii.gz`; the stored affine is sform and qform."""
    import nibabel

    untyped: Any = nibabel
    volume = store[volume_id]
    image = untyped.Nifti1Image(volume.array.transpose(2, 1, 0), volume.affine)
    image.set_sform(volume.affine, code="scanner")
    image.set_qform(volume.affine, code="scanner")
    image.header.set_xyzt_units("mm")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{volume_id[:16]}.nii.gz"
    untyped.save(image, path)
    return path
