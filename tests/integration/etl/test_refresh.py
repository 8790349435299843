"""After a load, the ledger says which persons to read again, and the snapshot equals a full extraction (labeling L15)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from presage_etl.fhir.pipeline import load_export
from presage_platform.labeling import refresh
from presage_platform.labeling.extraction import extract_snapshot
from presage_platform.labeling.timeline import Snapshot
from presage_platform.postgres.connection import open_database
from presage_platform.settings import LabelingSettings, Settings
from tests.integration.etl.test_two_exports import ALL_MAY_WAIT, FIRST, SECOND, database_of
from tests.lib.fhir_export import condition, load, small_hospital, write_ndjson
from tests.lib.synthetic import make

SHARDS = 8
HOSPITAL = small_hospital(num_persons=12)


@pytest.fixture
def extract(hospital: Settings, tmp_path: Path) -> Iterator[Callable[[str], Snapshot]]:
    """Extract into a folder: into an empty one everything is read."""
    chosen = LabelingSettings(n_shards=SHARDS)

    def run(folder: str) -> Snapshot:
        with open_database(hospital, command="test") as database:
            return extract_snapshot(database, chosen, tmp_path / folder)

    yield run


def persons(resources: list[dict[str, Any]]) -> list[str]:
    return [resource["id"] for resource in resources if resource["resourceType"] == "Patient"]


def content(snapshot: Snapshot) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(snapshot.path.iterdir()) if path.is_file()}


ONE, OTHER = persons(HOSPITAL)[:2]
DIAGNOSIS = condition("moving", ONE, "2020-05-05")
CHANGES: dict[str, list[dict[str, Any]]] = {
    "a new resource": [condition("new", ONE, "2021-01-01")],
    "a changed date": [condition("moving", ONE, "2020-05-06")],
    "another person": [condition("moving", OTHER, "2020-05-05")],
    "no longer a diagnosis": [{**DIAGNOSIS, "verificationStatus": {"coding": [{"code": "entered-in-error"}]}}],
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_l15_after_a_load_only_touched_persons_are_read(
    hospital: Settings,
    extract: Callable[[str], Snapshot],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    monkeypatch.setattr(refresh, "fingerprints", lambda *_: pytest.fail("rows were compared"))
    write_ndjson(tmp_path / "export" / "a.ndjson", [*HOSPITAL, DIAGNOSIS])
    load(hospital, tmp_path / "export")
    first = extract("timeline")
    write_ndjson(tmp_path / "second" / "b.ndjson", CHANGES[change])
    load(hospital, tmp_path / "second")
    again, full = extract("timeline"), extract("elsewhere")
    assert again.snapshot_id == full.snapshot_id != first.snapshot_id
    assert content(again) == content(full)
    names = [f"shard-{number:05d}.parquet" for number in range(SHARDS)]
    kept = [(first.path / name).samefile(again.path / name) for name in names]
    assert 0 < kept.count(False) < SHARDS


def test_l15_a_second_delivery_with_merges_and_deletions_gives_a_full_extraction(
    server: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hospital = make(tmp_path_factory.mktemp("exports") / "two", patients=12, exports=2, modes=("fhir",))
    chosen = LabelingSettings(n_shards=SHARDS)
    with database_of(hospital, server, tmp_path_factory.mktemp("workspace")) as settings:
        load_export(hospital / FIRST, settings=settings, options=ALL_MAY_WAIT)
        with open_database(settings, command="test") as database:
            first = extract_snapshot(database, chosen, tmp_path / "timeline")
        load_export(hospital / SECOND, settings=settings, options=ALL_MAY_WAIT)
        with open_database(settings, command="test") as database:
            again = extract_snapshot(database, chosen, tmp_path / "timeline")
            full = extract_snapshot(database, chosen, tmp_path / "elsewhere")
    assert again.snapshot_id == full.snapshot_id != first.snapshot_id
    assert content(again) == content(full)
