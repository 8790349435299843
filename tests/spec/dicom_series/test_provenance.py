"""What a volume was made of: named slices in order, the ones left out with the reason, and a key that never moves."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from presage_etl.dicom.explain import explain_series
from presage_etl.dicom.grouping import series_key
from presage_etl.dicom.source import dicom_source
from presage_platform.volumes.recipe import named_recipe
from presage_platform.volumes.store import Store, StoreWriter
from tests.lib.dicom_archive import Archive, scan_archive, scan_fixture
from tests.lib.dicom_cases import FIXTURES
from tests.lib.dicom_factory import Spec, write_series


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """A series with one slice twice."""
    return scan_fixture(FIXTURES["c03_same_file_twice"], tmp_path_factory.mktemp("repeated"))


def test_i23_a_candidate_names_its_slices_in_order_and_the_unused_with_their_reason(repeated: Archive) -> None:
    used, unused = repeated.only.slices, repeated.only.unused
    catalogue = {row["header_hash"]: row["sop_uid"] for row in repeated.instances.to_pylist()}
    assert len(used) == 8 and len(unused) == 1
    assert all(catalogue[one.header_hash] == one.sop_uid and one.frame == 0 for one in used)
    assert [one.d_mm - used[0].d_mm for one in used] == pytest.approx(Spec().places_mm)
    assert (unused[0].reason, unused[0].ref.sop_uid in {one.sop_uid for one in used}) == ("duplicate", True)


def test_i23_every_image_is_used_or_unused_once(tmp_path: Path) -> None:
    for name in ("c02_axial_plus_coronal", "c03_same_file_twice", "c04_one_gap", "c21_two_phases"):
        archive = scan_fixture(FIXTURES[name], tmp_path / name)
        listed = [
            ref.rel_path for one in archive.candidates for ref in [*one.slices, *(unused.ref for unused in one.unused)]
        ]
        assert len(listed) == len(set(listed)) == archive.instances["read_status"].to_pylist().count("ok")


def test_i23_a_slice_whose_pixels_fail_is_unused_with_its_reason(tmp_path: Path) -> None:
    archive = scan_fixture(FIXTURES["c18_short"], tmp_path)
    volume = archive.native(archive.only)
    (broken,) = volume.unused
    assert broken.reason.startswith("unusable: ")
    assert broken.ref.sop_uid not in {one.sop_uid for one in volume.slices}


def test_i23_explain_prints_both_lists(repeated: Archive) -> None:
    lines = explain_series(repeated.settings, repeated.only.series_key).splitlines()
    used = [line for line in lines if line.startswith("used ")]
    unused = [line for line in lines if line.startswith("unused ")]
    for line, one in zip(used, repeated.only.slices, strict=True):
        assert one.sop_uid in line and one.header_hash[:12] in line and f"d={one.d_mm:.3f} mm" in line
    (line,) = unused
    assert repeated.only.unused[0].ref.sop_uid in line and line.endswith("duplicate")


def test_i23_the_index_of_a_store_repeats_the_slices(repeated: Archive, tmp_path: Path) -> None:
    recipe = named_recipe("tiny")
    (found,) = dicom_source.read(repeated.settings.workspace.parent / "archive", recipe)
    assert found.volume is not None
    with StoreWriter(tmp_path, recipe) as writer:
        writer.add(found.volume)
    (sops,) = Store.open(tmp_path).index.column("sops").to_pylist()
    assert sops == [
        {"sop_uid": one.sop_uid, "frame": one.frame, "header_hash": one.header_hash, "d_mm": one.d_mm}
        for one in repeated.only.slices
    ]


def test_i25_the_key_is_the_hash_of_study_series_split_and_sorted_slices() -> None:
    identity = json.dumps(["1.2", "1.3", {"kernel": ["B40f"]}, ["1.4", "1.5", "1.6"]])
    expected = hashlib.sha256(identity.encode()).hexdigest()[:32]
    assert series_key("1.2", "1.3", {"kernel": ["B40f"]}, {"1.6", "1.4", "1.5"}) == expected
    others = {
        series_key("1.20", "1.3", {"kernel": ["B40f"]}, {"1.6", "1.4", "1.5"}),
        series_key("1.2", "1.30", {"kernel": ["B40f"]}, {"1.6", "1.4", "1.5"}),
        series_key("1.2", "1.3", {"kernel": ["B70f"]}, {"1.6", "1.4", "1.5"}),
        series_key("1.2", "1.3", {"kernel": ["B40f"]}, {"1.6", "1.4"}),
    }
    assert len(others) == 4 and expected not in others


def test_i25_the_key_depends_on_no_path_and_no_order(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "one")
    for number, path in enumerate(reversed(paths)):
        target = tmp_path / "other" / f"f{number % 3}" / f"{number}.bin"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    keys = {scan_archive(tmp_path / name, tmp_path / f"{name}.work").only.series_key for name in ("one", "other")}
    assert len(keys) == 1
    paths[-1].unlink()
    assert scan_archive(tmp_path / "one", tmp_path / "fewer.work").only.series_key not in keys
