"""Every planted image defect through the public commands: verdict, reasons, actions, choice and link as truth says.

A case that the product does not handle as its specification says stands in `NOT_YET_CLAIMED`, with the reason; one that
begins to work must be taken from the list.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from presage_etl.dicom.candidate import Candidate
from presage_etl.synthetic.parameters import read_parameters
from presage_etl.synthetic.planted.dicom import CASES
from presage_etl.synthetic.synth import make_hospital
from tests.lib.synthetic import truth

pytestmark = pytest.mark.slow

COMMANDS = (
    ("etl", "vocabulary", "{hospital}/vocabulary"),
    ("etl", "fhir", "{hospital}/fhir"),
    ("etl", "dicom", "{hospital}/dicom", "--recipe", "tiny"),
    ("link",),
)
NOT_YET_CLAIMED = {
    "variable_spacing": "varying steps are refused: resampling at the true positions is not there yet",
    "tilt_plus": "gantry tilt is refused: resampling to an orthogonal grid is not there yet",
    "tilt_minus": "gantry tilt is refused: resampling to an orthogonal grid is not there yet",
    "tilt_and_steps": "tilt and varying steps are refused: the one interpolation is not there yet",
    "enhanced": "objects of many frames are refused: functional groups are not read yet",
    "legacy_converted": "objects of many frames are refused: functional groups are not read yet",
    "rescale_per_frame": "objects of many frames are refused: functional groups are not read yet",
    "contradictory_groups": "refused, but for being of many frames: functional groups are not read yet",
}
"""Kinds of which verdict, reasons, actions, slices or voxels differ from the specification."""
READ_BY_ROOT = {"no_permission": "not_dicom"}
"""Where every file can be read, so can the one without permissions."""


@dataclass(frozen=True)
class Found:
    """What the product made of one candidate."""

    candidate: Candidate
    verdict: str
    reasons: list[str]
    actions: list[str]
    rank: int | None
    rank_reason: str | None


def platform(workspace: Path, *words: str) -> None:
    command = [sys.executable, "-c", "from presage_platform.cli import main; main()", *words]
    environment = {**os.environ, "PRESAGE_WORKSPACE": str(workspace), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=280)
    assert run.returncode == 0, f"{' '.join(words)}: {run.stdout[-2000:]}{run.stderr[-2000:]}"


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("defects") / "hospital"
    make_hospital(folder, read_parameters("defects", ceiling_persons=2000), workers=2)
    return folder


@pytest.fixture(scope="module")
def workspace(hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("workspace") / "w"
    folder.mkdir(mode=0o700)
    (folder / "platform.toml").write_text((hospital / "site.toml").read_text())
    for words in COMMANDS:
        platform(folder, *(word.format(hospital=hospital) for word in words))
    yield folder
    platform(folder, "db", "stop")


@pytest.fixture(scope="module")
def rows(hospital: Path) -> list[dict[str, Any]]:
    return truth(hospital, "planted_dicom")


@pytest.fixture(scope="module")
def found(workspace: Path) -> dict[frozenset[str], Found]:
    """What the ledger says of each candidate, by the SOP UIDs of its slices."""
    from presage_etl.dicom.ingest import read_candidates
    from presage_platform.settings import read_settings

    statement = "select series_key, verdict, reasons, actions, rank, rank_reason from image_series where not stale"
    ledger = {key: rest for key, *rest in query(workspace, statement)}
    result = {}
    for candidate in read_candidates(read_settings(workspace)):
        verdict, reasons, actions, rank, why = ledger[candidate.series_key]
        members = frozenset(ref.sop_uid for ref in candidate.slices)
        result[members] = Found(candidate, verdict, words_of(reasons), words_of(actions), rank, why)
    return result


def query(workspace: Path, statement: str) -> list[Any]:
    from presage_platform.postgres.connection import open_database
    from presage_platform.settings import read_settings

    with open_database(read_settings(workspace), command="test") as database, database.connect() as connection:
        return connection.execute(statement).fetchall()


def words_of(lines: list[str]) -> list[str]:
    return sorted({line.split(":")[0] for line in lines})


def described(one: Found | None) -> tuple[str, list[str], list[str]] | None:
    return None if one is None else (one.verdict, one.reasons, one.actions)


def test_s31_every_kind_and_every_fixture_is_planted(rows: list[dict[str, Any]]) -> None:
    assert {row["kind"] for row in rows} == {case.kind for case in CASES}
    assert len({row["study"] for row in rows}) == len(CASES)


def test_s32_every_defect_ends_as_truth_says(
    rows: list[dict[str, Any]], found: dict[frozenset[str], Found], workspace: Path
) -> None:
    differing: dict[str, str] = {}
    for row in rows:
        one = found.get(frozenset(row["sop_uids"]))
        wanted = (row["verdict"], row["reasons"], row["actions"])
        problem = f"{wanted} but {described(one)}" if described(one) != wanted else voxel_problem(row, one, workspace)
        if problem:
            differing[row["kind"]] = problem
    print("\n".join(f"{kind}: {problem}" for kind, problem in sorted(differing.items())))
    print("\n".join(f"not yet claimed: {kind}: {why}" for kind, why in NOT_YET_CLAIMED.items()))
    unexpected = {kind: problem for kind, problem in differing.items() if kind not in NOT_YET_CLAIMED}
    assert not unexpected
    assert set(differing) == set(NOT_YET_CLAIMED), "a case of the list works now: take it away"


def voxel_problem(row: dict[str, Any], one: Found | None, workspace: Path) -> str | None:
    """Compare slices in order, and voxels and affine where they are known, of a candidate that became a volume."""
    if one is None or not row["used"]:
        return None
    from presage_etl.dicom.decode import read_native
    from presage_etl.dicom.walk import read_roots
    from presage_platform.settings import read_settings

    settings = read_settings(workspace)
    volume = read_native(one.candidate, read_roots(settings.catalogue_dir), settings.imaging.series)
    if [ref.sop_uid for ref in volume.slices] != row["used"]:
        return "other slices, or in another order"
    assert volume.array is not None
    if row["volume_sha256"] and hashlib.sha256(volume.array.tobytes()).hexdigest() != row["volume_sha256"]:
        return "other voxels"
    if row["affine_ras"] and not np.allclose(volume.affine_ras.ravel(), row["affine_ras"], atol=1e-3):
        return "another affine"
    return None


def test_s32_every_other_series_is_ok(
    rows: list[dict[str, Any]], found: dict[frozenset[str], Found], hospital: Path
) -> None:
    planted = {frozenset(row["sop_uids"]) for row in rows}
    others = [one for members, one in found.items() if members not in planted]
    assert Counter(one.verdict for one in others) == {"ok": len(others)}
    clean = len(truth(hospital, "scans")) - len({row["study"] for row in rows})
    assert len(others) == clean


def test_s32_the_chosen_series_represents_its_study(hospital: Path, found: dict[frozenset[str], Found]) -> None:
    first_in_rank = {min(members): one for members, one in found.items() if one.rank == 1}
    kinds = {row["study"]: row["kind"] for row in truth(hospital, "planted_dicom")}
    wanted = {row["first_sop_uid"]: row for row in truth(hospital, "chosen") if row["first_sop_uid"]}
    missing = {kinds.get(row["study"]) for uid, row in wanted.items() if uid not in first_in_rank}
    assert missing <= set(NOT_YET_CLAIMED)
    assert set(first_in_rank) <= set(wanted)
    for uid, one in first_in_rank.items():
        assert one.candidate.series_uid == wanted[uid]["series_uid"]
        assert (one.rank_reason or "").split(":")[0] == wanted[uid]["reason"], (wanted[uid]["study"], one.rank_reason)


def test_s32_every_study_finds_its_person_or_its_quarantine(
    hospital: Path, workspace: Path, found: dict[frozenset[str], Found]
) -> None:
    kinds = {row["study"]: row["kind"] for row in truth(hospital, "planted_dicom")}
    uid_of_members = {frozenset(row["sop_uids"]): row["study"] for row in truth(hospital, "planted_dicom")}
    nameless = {one.candidate.study_uid: uid_of_members.get(members) for members, one in found.items()}
    persons = dict(query(workspace, PERSONS))
    linked = query(
        workspace,
        "select study_uid, person_id, link_class, confidence from study_link join image_study using (study_id)",
    )
    held = query(
        workspace,
        "select study_uid, reason from link_quarantine join image_study using (study_id) where resolved_run is null",
    )
    seen = {uid: (persons[person], link_class, confidence, None) for uid, person, link_class, confidence in linked}
    seen |= {uid: (None, None, None, reason) for uid, reason in held}
    problems = {}
    links = truth(hospital, "links")
    assert len(seen) == len(links)
    for row in links:
        uid = row["study_uid"] or next(uid for uid, study in nameless.items() if study == row["study"])
        wanted = (row["person"], row["class"], row["confidence"], row["reason"])
        if seen.get(uid) != wanted:
            problems[kinds.get(row["study"], row["study"])] = f"{wanted} but {seen.get(uid)}"
    assert not problems


PERSONS = """
select o.row_id, r.resource_id from origin as o join resource as r using (resource_no)
where o.table_no = 1 and r.resource_type = 'Patient'
"""


def test_s32_what_lies_beside_the_images_is_counted(hospital: Path, workspace: Path) -> None:
    from presage_etl.dicom.instances import read_instances
    from presage_platform.settings import read_settings

    wanted: Counter[str] = Counter()
    for row in truth(hospital, "planted_dicom"):
        for status in row["beside"]:
            wanted[READ_BY_ROOT.get(row["kind"], status) if os.geteuid() == 0 else status] += 1
    table = read_instances(read_settings(workspace).catalogue_dir, ["read_status"])
    seen = Counter(status for status in table["read_status"].to_pylist() if status != "ok")
    assert seen == wanted


def test_s43_the_counts_of_images_and_links_are_as_planted(hospital: Path, workspace: Path) -> None:
    from presage_platform.demo import compare

    unclaimed = {row["verdict"] for row in truth(hospital, "planted_dicom") if row["kind"] in NOT_YET_CLAIMED}
    for stage in ("images", "link"):
        differing = [one for one in compare(hospital, workspace, stage) if one.found != one.planted]
        assert not [one for one in differing if one.kind != "verdict" or one.name not in unclaimed | NEAREST]


NEAREST = {"rejected_spacing", "rejected_position_drift", "rejected_functional_groups"}
"""Verdicts in which the cases that are not claimed yet end."""
