"""A file that is still there is known again, whatever its name."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from presage_etl.dicom.instances import INSTANCE_SCHEMA, Known, write_batch
from presage_etl.dicom.row import empty_row
from presage_etl.dicom.walk import FoundFile


def test_i8_no_file_name_makes_an_unchanged_file_look_new(tmp_path: Path) -> None:
    names = [f"study/{number:05d}.dcm".encode() for number in range(3000)]
    rows = [{**empty_row(), **fields(name)} for name in names]
    columns = {column: [row[column] for row in rows] for column in INSTANCE_SCHEMA.names}
    write_batch(tmp_path, 1, pa.Table.from_pydict(columns, schema=INSTANCE_SCHEMA))
    known = Known(tmp_path)
    assert [known.unchanged_status(FoundFile(0, name, 7, 8)) for name in names].count(None) == 0
    assert len(known.vanished_keys()) == 0


def fields(name: bytes) -> dict[str, object]:
    return {"root_id": 0, "rel_path": name, "size": 7, "mtime_ns": 8, "scan_run": 1, "read_status": "ok"}
