"""`platform demo` on a small hospital: every public command once, all counts as planted, a report at the end."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from presage_platform.demo import Count, Demonstration

PLATFORM = Path(sys.executable).parent / "platform"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_p2_s50_the_demo_prints_each_command_and_finds_what_was_planted(tmp_path: Path) -> None:
    run = subprocess.run(
        [PLATFORM, "demo", "--out", tmp_path / "demo", "--patients", "150"], capture_output=True, text=True, timeout=800
    )
    assert run.returncode == 0, run.stderr[-2000:]
    printed = re.findall(r"^\$ platform (\S+(?: \S+)?)", run.stdout, re.MULTILINE)
    for command in ("synth", "etl vocabulary", "etl fhir", "etl dicom", "link", "tasks lock", "tasks test", "label",
                    "train tiny", "embed", "eval"):  # fmt: skip
        assert any(words.startswith(command) for words in printed), command
    assert "differs" not in run.stdout
    assert "planted" in run.stdout and "ceiling" in run.stdout
    report = Path(run.stdout.strip().splitlines()[-1])
    assert report.name == "report.html" and "synthetic data" in report.read_text()


def test_s50_a_count_that_differs_is_marked() -> None:
    found = Demonstration(
        counts=[Count("etl", "table", "person", 60, 60), Count("etl", "table", "death", 20, 19)],
        evaluation={"report": "r", "answer": "a", "summary": [], "comparisons": []},
    )
    marked = [line for line in found.text().splitlines() if "differs" in line]
    assert len(marked) == 1 and "death" in marked[0]
    assert "cannot be compared" in found.text()
