"""Laws of the reader: no byte stops it, no line is lost, and where partitions are cut changes nothing."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from presage_etl.fhir import inputs, reader
from presage_etl.fhir.inputs import InputFile
from presage_etl.fhir.outcome import Dead, Excluded, Loaded
from tests.lib.fhir_export import small_hospital
from tests.lib.vocabulary import tiny_context

LINES = st.lists(st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b" ")), max_size=30)
RESOURCES = [json.dumps(resource).encode() for resource in small_hospital(1)]


def _entries(path: Path, block_bytes: int) -> list[tuple[bytes, int, int | None, str | None]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "BLOCK_BYTES", block_bytes)
        patch.setattr(reader, "BLOCK_BYTES", block_bytes)
        file = inputs._hash_and_cut(InputFile(path, path.stat().st_size, "ndjson", _compression(path)))
        found = [entry for partition in reader.partitions([file]) for entry in reader.read(partition)]
    return [(entry.raw, entry.offset, entry.line, entry.dead) for entry in found]


def _compression(path: Path) -> Any:
    return {".gz": "gzip", ".zst": "zstd"}.get(path.suffix, "")


@given(lines=LINES, block_bytes=st.integers(8, 200))
@settings(max_examples=60, deadline=None)
def test_e2_every_line_is_read_once_wherever_the_file_is_cut(lines: list[bytes], block_bytes: int) -> None:
    data = b"\n".join([b'{"x":1}', *lines])
    expected = [line.strip() for line in data.split(b"\n") if line.strip()]
    with tempfile.TemporaryDirectory() as folder:
        plain, packed, frames = (Path(folder) / name for name in ("a.ndjson", "a.ndjson.gz", "a.ndjson.zst"))
        plain.write_bytes(data)
        packed.write_bytes(gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :]))
        frames.write_bytes(zstandard.compress(data[: len(data) // 3]) + zstandard.compress(data[len(data) // 3 :]))
        whole = _entries(plain, 1 << 20)
        assert [raw for raw, *_ in whole] == expected
        for path in (plain, packed, frames):
            assert _entries(path, block_bytes) == whole


@given(choice=st.integers(0, len(RESOURCES) - 1), data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_e95_any_damage_to_a_resource_still_gives_one_outcome(choice: int, data: st.DataObject) -> None:
    from presage_etl.fhir.identify import Resource, identify
    from presage_etl.fhir.mapping import map_resource
    from presage_etl.fhir.reader import Entry

    raw = bytearray(RESOURCES[choice])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place : place + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=4))
    resource = Resource(Entry(bytes(raw), 1, 0, 1), 1)
    identify(resource)
    if resource.state == "loaded":
        outcome = map_resource(resource.resource_type or "", bytes(raw), tiny_context())
        assert isinstance(outcome, (Loaded, Excluded, Dead))
    else:
        assert resource.state == "dead"
        assert resource.reason
