"""The root of the command line: finds commands, gives each the shared options, turns an error into a line and a code.

Commands are listed in `pyproject.toml` under the entry-point group `presage.commands`; a name such as `etl.fhir` is
the command `fhir` of the group `etl`. A command module imports only typer, the standard library and
`presage_platform.options` at its top, so that `platform --help` stays quick.
"""

from __future__ import annotations

import functools
import inspect
import signal
import sys
import typing
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from presage_platform.errors import ExitCode, InterruptedRun, PresageError
from presage_platform.truth_guard import truth_withheld

ENTRY_POINTS = "presage.commands"

# The order of the help page; a command that is not named here follows in alphabetical order.
PANELS = {
    "Start": ("demo", "synth", "doctor"),
    "Ingest": ("etl", "link", "volumes"),
    "Label": ("tasks", "label"),
    "Learn": ("train", "embed", "eval", "weights"),
    "Database": ("db",),
}
GROUPS = {
    "etl": "Load health records, vocabularies and images; see what became of them.",
    "volumes": "Look into the volume store and check it.",
    "tasks": "Write, check, test and lock outcomes defined in SQL.",
    "db": "The PostgreSQL server and its schema.",
    "weights": "Bring and inspect encoder weights.",
}

_SHARED: dict[str, Any] = {
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")],
    "verbose": Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more; twice: say everything.")],
    "debug": Annotated[bool, typer.Option("--debug", help="Show where an error arose.")],
}
_SHARED_DEFAULTS: dict[str, Any] = {"quiet": False, "verbose": 0, "debug": False}


def build_app() -> typer.Typer:
    """Return the whole command line, assembled from the entry points of the installed packages."""
    commands = {point.name: point.load() for point in entry_points(group=ENTRY_POINTS)}
    app = typer.Typer(
        name="platform",
        help="presage: learn the future from images. Records and scans in, censored labels, encoders, reports out.",
        no_args_is_help=True,
        add_completion=False,
        epilog=_examples(commands),
        pretty_exceptions_enable=False,
    )
    groups: dict[str, typer.Typer] = {}
    for name in sorted(commands, key=_position):
        group, _, command = name.rpartition(".")
        function = with_shared_options(commands[name])
        if not group:
            app.command(command, rich_help_panel=_panel(command))(function)
            continue
        if group not in groups:
            groups[group] = typer.Typer(help=GROUPS[group], no_args_is_help=True)
            app.add_typer(groups[group], name=group, rich_help_panel=_panel(group))
        groups[group].command(command)(function)
    return app


def with_shared_options(function: Callable[..., None]) -> Callable[..., None]:
    """Return `function` with `--quiet`, `--verbose` and `--debug` added to its options, and acted upon."""
    signature = inspect.signature(function)
    hints = typing.get_type_hints(function, include_extras=True)
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_SHARED_DEFAULTS[name], annotation=annotation)
        for name, annotation in _SHARED.items()
    ]
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name])
        for parameter in signature.parameters.values()
    ]

    @functools.wraps(function)
    def command(**arguments: Any) -> None:
        quiet, verbose, debug = (arguments.pop(name) for name in _SHARED)
        _prepare(quiet=quiet, verbosity=verbose, workspace=arguments.get("workspace"))
        try:
            with truth_withheld(function.__name__, arguments):
                function(**arguments)
        except PresageError as error:
            if debug:
                _print_frames(error)
            raise

    del command.__wrapped__
    command.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
    command.__annotations__ = {**hints, **_SHARED}
    return command


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code: the script `platform`."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; nothing is raised."""
    command = typer.main.get_command(build_app())
    signal.signal(signal.SIGTERM, _interrupt)
    usage_error = typer.BadParameter.__mro__[2]  # ClickException, which typer carries but does not export
    try:
        result = command.main(args=list(arguments) if arguments is not None else None, standalone_mode=False)
        if result == ExitCode.INTERRUPTED:  # typer's own translation of Ctrl-C
            raise KeyboardInterrupt
        return result if isinstance(result, int) else ExitCode.OK
    except PresageError as error:
        return _say(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _say(str(InterruptedRun("stopped; the same command continues")), ExitCode.INTERRUPTED)
    except typer.Abort:
        return _say("stopped", ExitCode.INTERRUPTED)
    except OSError as error:
        return _os_error(error)
    except Exception as error:
        if isinstance(error, usage_error):
            return _usage(error)
        return _bug(error)


def _prepare(*, quiet: bool, verbosity: int, workspace: Path | None) -> None:
    from presage_platform.logs import configure_logs, new_run_id
    from presage_platform.progress import silence
    from presage_platform.settings import find_workspace

    silence(quiet)
    folder = find_workspace(workspace)
    configure_logs(verbosity=verbosity, quiet=quiet, run_id=new_run_id(), workspace=folder)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _usage(error: Exception) -> int:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(message)
        return ExitCode.USAGE
    return _say(f"usage: {' '.join(message.split())}", ExitCode.USAGE)


def _os_error(error: OSError) -> int:
    import errno

    if error.errno == errno.ENOSPC:
        return _say("disk: no space left; what was written before is intact, the same command continues", 16)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        # Without the path: files below an input are named after patients.
        return _say(
            f"a file or folder may not be read or written ({error.strerror}): check owner and rights of the workspace "
            "and of the inputs",
            ExitCode.USAGE,
        )
    if error.errno == errno.EPIPE:
        return ExitCode.BUG
    return _bug(error)


def _bug(error: Exception) -> int:
    # Messages of unforeseen exceptions may quote what was being read, hence type and place only.
    _print_frames(error)
    return _say(f"unexpected {type(error).__name__}: a bug in presage, please report the lines above", ExitCode.BUG)


def _print_frames(error: BaseException) -> None:
    from presage_platform.logs import where

    for line in where(error):
        print(f"  {line}", file=sys.stderr)


def _say(message: str, code: int) -> int:
    print(f"platform: {message}", file=sys.stderr)
    return int(code)


def _panel(name: str) -> str:
    return next((panel for panel, names in PANELS.items() if name in names), "Start")


def _position(name: str) -> tuple[int, str]:
    order = [command for names in PANELS.values() for command in names]
    first = name.split(".")[0]
    return (order.index(first) if first in order else len(order), name)


def _examples(commands: dict[str, Callable[..., None]]) -> str:
    lines: dict[str, str] = {}
    for name in sorted(commands, key=_position):
        example = next(
            (line for line in (inspect.getdoc(commands[name]) or "").splitlines() if "Example:" in line), None
        )
        if example is not None:
            lines.setdefault(name.split(".")[0], example.partition("Example:")[2].strip().strip("`"))
    return "Examples:\n\n" + "\n\n".join(lines.values()) if lines else ""
