"""A synthetic hospital that was killed on the way: the same command ends it, byte for byte (rules S3, S55)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from presage_etl.synthetic import synth
from presage_etl.synthetic.records.vocabulary import Concept
from presage_etl.synthetic.resume import RECORDS, decode, encode
from presage_etl.synthetic.synth import make_hospital
from tests.lib.synthetic import make, tiny_parameters

PROGRAM = """
import sys
from pathlib import Path
from presage_etl.synthetic.synth import make_hospital
from presage_etl.synthetic.records.vocabulary import Concept
from tests.lib.synthetic import tiny_parameters
make_hospital(Path(sys.argv[1]), tiny_parameters(patients=24, persons_per_shard=4, studies_per_task=3), workers=1)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """synth.json of the hospital that nobody interrupted: it holds the sha256 of every file."""
    folder = make(tmp_path_factory.mktemp("whole") / "w", patients=24, persons_per_shard=4, studies_per_task=3)
    return (folder / "synth.json").read_bytes()


def records(folder: Path) -> set[str]:
    return {path.relative_to(folder / RECORDS).as_posix() for path in (folder / RECORDS).glob("*/*.json")}


@pytest.mark.parametrize("after", ["persons/000002.json", "images/000003.json"])
def test_s55_a_killed_run_resumes_by_shard_to_the_same_bytes(after: str, whole: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "h"
    root = Path(__file__).resolve().parents[3]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(root)])}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder)], cwd=root, env=environment)
    deadline = time.monotonic() + 200
    while not (folder / RECORDS / after).exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / "synth.partial").is_file()
    assert not (folder / "synth.json").exists()
    kept = records(folder)
    stamps = {name: (folder / RECORDS / name).stat().st_mtime_ns for name in kept}
    assert after in kept
    (folder / "dicom" / "left-over").write_text("half a file")
    made: list[str] = []
    original = synth.make_shard

    def watched(task: synth.ShardTask) -> synth.ShardResult:
        made.append(f"persons/{task.shard:06d}.json")
        now = {name: (folder / RECORDS / name).stat().st_mtime_ns for name in kept}
        assert now == stamps
        return original(task)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synth, "make_shard", watched)
        parameters = tiny_parameters(patients=24, persons_per_shard=4, studies_per_task=3)
        make_hospital(folder, parameters, workers=1)
    assert set(made) == {f"persons/{number:06d}.json" for number in range(6)} - kept
    assert (folder / "synth.json").read_bytes() == whole
    assert not (folder / RECORDS).exists()
    assert not (folder / "synth.partial").exists()
    assert not (folder / "dicom" / "left-over").exists()


def test_s55_a_record_gives_back_what_it_was_given_and_builds_no_foreign_class() -> None:
    result = Concept(1, "a", "Condition", "SNOMED", "Clinical Finding", "S", "c", "there")
    table = pa.table({"a": pa.array([1, None], pa.int32()), "b": ["x", "y"]})
    values = {
        "rows": [{"t": 1.1, "n": None}, {"t": 0.1 + 0.2, "n": True}],
        "mixed": [{"list": [1, (2, "z")]}, {}],
        "count": Counter({("etl", "table"): 3}),
        "states": {"MA", "NY"},
        "table": table,
        "number": np.float64(0.1),
        "result": result,
    }
    back = decode(encode(values))
    assert back == values
    assert type(back["count"]) is Counter
    with pytest.raises(TypeError, match="no record can keep"):
        encode({"x": object()})
    with pytest.raises(TypeError, match="no data class of the generator"):
        decode({"$": "data", "type": "subprocess:Popen", "value": {}})
