"""What a run would cost, said before it is made."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from presage_platform.labeling.command import Request, plan
from presage_platform.settings import parse_settings


def test_l81_the_dry_run_prints_sizes_and_times(tmp_path: Path) -> None:
    """Kernel 15 M events a second a core, 13 B an event: 225 M events are 15 s and 2.9 GB."""
    folder = tmp_path / "timeline" / ("0" * 16)
    folder.mkdir(parents=True)
    manifest = {"snapshot_id": folder.name, "shards": [], "num_events": 225_000_000, "settings": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    index = tmp_path / "index.parquet"
    pq.write_table(pa.table({"study_id": [1, 2], "person_id": [1, 2], "t0": [0, 0]}), index)
    found = plan(
        parse_settings(tmp_path, {}, environment={}), Request(snapshot=folder.name, index=index, vocabulary=tmp_path)
    )
    assert (found.numbers["kernel_s"], found.numbers["array_bytes"]) == (15.0, 2_925_000_000)
    assert (found.numbers["studies"], found.numbers["n_shards"], found.numbers["rows_to_read"]) == (2, 64, 0)
    assert "kernel    about 15.0 s a core for up to 8,192 tasks" in found.text() and "2,925.0 MB" in found.text()
