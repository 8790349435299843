"""The golden hash: preset `small` of seed 1, byte for byte, as this version of the generator makes it.

`python -m presage_etl.synthetic.golden tests/reference/synthetic/golden.json` makes the hospital anew and writes its
hashes. They change only with the generator's version and a line in the change log.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from presage_etl.synthetic.parameters import PRESETS, read_parameters
from presage_etl.synthetic.synth import SUMMARY, make_hospital

PRESET, SEED = "small", 1
WRITERS = ("pyarrow", "pydicom", "numpy", "pylibjpeg-openjpeg", "pyjpegls")  # their versions decide bytes, too


def golden_of(hospital: Path) -> dict[str, Any]:
    """Return the hash over the sorted list of files and their sha256, of all and of each part; and who wrote them."""
    summary = json.loads((hospital / SUMMARY).read_text(encoding="utf-8"))
    files = sorted(summary["files"].items())
    parts = sorted({name.split("/")[0] for name, _ in files})
    return {
        "generator": summary["generator"],
        "preset": PRESET,
        "seed": SEED,
        "defaults": {preset: read_parameters(preset).digest() for preset in PRESETS},
        "sha256": _hash(files),
        "parts": {part: _hash([row for row in files if row[0].split("/")[0] == part]) for part in parts},
        "files": len(files),
        "written_with": {name: version(name) for name in WRITERS},
    }


def make_golden(*, workers: int | None = None) -> dict[str, Any]:
    """Make the hospital in a folder that is thrown away, and return its hashes."""
    with tempfile.TemporaryDirectory() as folder:
        hospital = Path(folder) / "hospital"
        make_hospital(hospital, read_parameters(PRESET, seed=SEED), workers=workers)
        return golden_of(hospital)


def _hash(files: list[tuple[str, str]]) -> str:
    return hashlib.sha256("".join(f"{sha}  {name}\n" for name, sha in files).encode()).hexdigest()


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(make_golden(), indent=1) + "\n", encoding="utf-8")
