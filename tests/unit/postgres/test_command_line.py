"""The `db` commands can be assembled into the command line, each with help and an example."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from presage_platform.cli import with_shared_options
from presage_platform.postgres import cli

COMMANDS = ("upgrade", "status", "url", "psql", "start", "stop", "backup", "restore")


@pytest.mark.parametrize("name", COMMANDS)
def test_p11_every_command_has_help_with_an_example(name: str) -> None:
    app = typer.Typer()
    app.command()(with_shared_options(getattr(cli, f"db_{name}")))
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    assert f"Example: platform db {name}" in shown.output
    assert "--workspace" in shown.output


def test_p11_command_module_imports_nothing_heavy() -> None:
    probe = "import sys, presage_platform.postgres.cli; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert {"psycopg", "sqlalchemy", "pyarrow", "alembic", "pydantic"}.isdisjoint(run.stdout.split())
