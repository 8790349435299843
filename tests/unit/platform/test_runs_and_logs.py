"""Run folders, canonical JSON, logs without values, and the one map over partitions."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from presage_platform import logs
from presage_platform.errors import InputError, LockedError, RecipeError, UsageError
from presage_platform.parallel import map_partitions
from presage_platform.progress import Progress
from presage_platform.runs import RunFolder, canonical_json, check_same, sha256_json


def square(number: int) -> int:
    return number * number


def test_p40_the_number_of_workers_changes_no_result() -> None:
    expected = [square(number) for number in range(12)]
    assert sorted(map_partitions(square, range(12), workers=2)) == expected
    assert list(map_partitions(square, iter(range(12)), workers=1)) == expected


def test_p40_an_unknown_engine_is_refused() -> None:
    with pytest.raises(UsageError, match="engine `quantum`"):
        list(map_partitions(square, [1], engine="quantum"))


def test_a_run_folder_has_one_holder(tmp_path: Path) -> None:
    held, again = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    with held, pytest.raises(LockedError, match=r"in use by .* pid"), again:
        pass
    with RunFolder(tmp_path / "run"):
        pass


def test_a_killed_run_does_not_block_its_resumption(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from presage_platform.runs import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(LockedError), RunFolder(tmp_path / "run"):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with RunFolder(tmp_path / "run") as run:
        run.write_json("a.json", {"b": 1})
        assert run.read_json("a.json") == {"b": 1}
        with pytest.raises(InputError, match="holds no nothing"):
            run.read_json("nothing.json")
    holder.stdout.close()


def test_canonical_json_is_one_text_a_document() -> None:
    assert canonical_json({"b": 1.5, "a": [1, "é"]}) == '{"a":[1,"é"],"b":1.5}'
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": float("nan")})


def test_check_same_names_both_hashes() -> None:
    check_same("label store", found="abc", expected="abc")
    with pytest.raises(RecipeError, match="label store is abc, the run was started with def"):
        check_same("label store", found="abc", expected="def")


def test_p16_a_record_holds_counts_and_places_but_no_message_of_an_exception(tmp_path: Path) -> None:
    logs.configure_logs(verbosity=0, quiet=True, run_id="r1", workspace=tmp_path)
    log = logs.get_logger("presage_etl.fhir.reader")
    try:
        raise ValueError("Test-Aster Quillon")
    except ValueError:
        log.warning("line refused", extra={"fields": {"lines": 3}}, exc_info=True)
    logging.getLogger(logs.ROOT).handlers.clear()
    text = next((tmp_path / "logs").glob("*.jsonl")).read_text()
    record = json.loads(text)
    assert record["run"] == "r1" and record["lines"] == 3 and record["exception"] == "ValueError"
    assert "Quillon" not in text


def test_p17_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("scan", total=3, unit="files") as bar:
        bar.advance(3, dead=1)
    assert capsys.readouterr().err == ""


def test_p17_long_work_says_counts_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 10.0, 31.0, 32.0])
    monkeypatch.setattr("presage_platform.progress.time.monotonic", lambda: next(clock))
    with Progress("scan", total=100, unit="files") as bar:
        bar.advance(10)
        bar.advance(21, dead=2)
        bar.advance(1)
    assert capsys.readouterr().err == "scan: 31 of 100 files, 1/s, 2 dead, 69 s left\n"
