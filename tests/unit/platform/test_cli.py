"""The command line's root: errors become one line and a code, and nothing more is said."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import pytest
import typer

from presage_platform import cli
from presage_platform.errors import DatabaseError, ExitCode, PresageError, VocabularyError


@pytest.fixture
def one_command(monkeypatch: pytest.MonkeyPatch) -> object:
    def install(function: object) -> None:
        class Point:
            name = "probe"

            def load(self) -> object:
                return function

        monkeypatch.setattr(cli, "entry_points", lambda group: [Point()])

    return install


def raising(error: BaseException) -> object:
    def probe(value: Annotated[int, typer.Option(help="A number.")] = 1) -> None:
        """Fail.

        Example: platform probe
        """
        raise error

    return probe


@pytest.mark.parametrize("kind", [PresageError, DatabaseError, VocabularyError])
def test_p15_a_users_error_is_one_line(one_command, capsys, kind) -> None:  # type: ignore[no-untyped-def]
    one_command(raising(kind("found this, expected that: do so")))
    code = cli.run([])
    out, err = capsys.readouterr()
    assert code == kind.exit_code
    assert err == "platform: found this, expected that: do so\n" and out == ""


def test_p15_a_bug_shows_where_but_not_what_was_read(one_command, capsys) -> None:  # type: ignore[no-untyped-def]
    one_command(raising(ValueError("Test-Aster Quillon")))
    assert cli.run([]) == ExitCode.BUG
    err = capsys.readouterr().err
    assert "Quillon" not in err and "unexpected ValueError" in err and "probe" in err


def test_p14_interruption_and_full_disk(one_command, capsys) -> None:  # type: ignore[no-untyped-def]
    one_command(raising(KeyboardInterrupt()))
    assert cli.run([]) == ExitCode.INTERRUPTED
    one_command(raising(OSError(28, "No space left on device")))
    assert cli.run([]) == ExitCode.DISK_FULL
    assert capsys.readouterr().err.count("\n") == 2


def test_p14_a_wrong_option_is_usage(one_command, capsys) -> None:  # type: ignore[no-untyped-def]
    one_command(raising(AssertionError()))
    assert cli.run(["--no-such-thing"]) == ExitCode.USAGE
    err = capsys.readouterr().err
    assert err.startswith("platform: usage:") and err.count("\n") == 1


def test_p11_every_command_takes_the_shared_options() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "presage_platform", "doctor", "--help"], capture_output=True, text=True, check=True
    )
    for option in ("--quiet", "--verbose", "--debug", "--workspace", "--json"):
        assert option in run.stdout
