"""`platform db …`: the server of a workspace and its schema, by hand."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from presage_platform.options import Json, Workspace

if TYPE_CHECKING:
    from presage_platform.settings import Settings


def db_upgrade(workspace: Workspace = None) -> None:
    """Create the schema, or bring it to the newest revision.

    Example: platform db upgrade
    """
    from presage_platform.postgres.connection import open_database, schema_owner
    from presage_platform.settings import read_settings

    with open_database(read_settings(workspace, create=True), command="db-upgrade", check_schema=False) as database:
        owner = schema_owner()
        before = owner.state(database)
        owner.upgrade(database)
        after = owner.state(database)
    if before.is_current:
        typer.echo(f"schema is at {after.revision} already")
    else:
        typer.echo(f"schema upgraded from {before.revision or 'nothing'} to {after.revision}")


def db_status(workspace: Workspace = None, json: Json = False) -> None:
    """Show the server, the revision of the schema and the number of rows of each table that has any.

    Example: platform db status --json
    """
    from presage_platform.postgres.connection import open_database
    from presage_platform.postgres.status import describe
    from presage_platform.settings import read_settings

    with open_database(read_settings(workspace), command="db-status", check_schema=False) as database:
        state = describe(database)
    typer.echo(json_format.dumps(state.as_json(), indent=2) if json else state.as_text())


def db_url(workspace: Workspace = None) -> None:
    """Print where the database is, the password masked; the embedded server must be running to be used.

    Example: platform db url
    """
    from presage_platform.postgres.connection import embedded_server
    from presage_platform.postgres.status import masked_url
    from presage_platform.settings import read_settings

    with embedded_server(read_settings(workspace)) as (conninfo, _):
        typer.echo(masked_url(conninfo))


def db_psql(
    arguments: Annotated[list[str] | None, typer.Argument(help="Passed on to psql, after `--`.")] = None,
    workspace: Workspace = None,
) -> None:
    """Open psql on the database; the embedded server runs at least as long.

    Example: platform db psql -- -c "select count(*) from person"
    """
    from presage_platform.postgres.connection import open_database
    from presage_platform.postgres.psql import run_psql
    from presage_platform.settings import read_settings

    with open_database(read_settings(workspace), command="db-psql", check_schema=False) as database:
        code = run_psql(database, arguments or [])
    raise typer.Exit(code)


def db_start(
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running until `platform db stop`.")] = False,
    workspace: Workspace = None,
) -> None:
    """Start the embedded server; without --keep it runs until Ctrl-C.

    Example: platform db start --keep
    """
    import signal

    from presage_platform.postgres.embedded import keep_server, use_server
    from presage_platform.settings import read_settings

    settings = read_settings(workspace, create=True)
    _refuse_foreign_server(settings)
    if keep:
        keep_server(settings.workspace, data_home=settings.database.data_home)
        typer.echo("the server runs until `platform db stop`")
        return
    with use_server(settings.workspace, data_home=settings.database.data_home):
        typer.echo("the server runs until Ctrl-C")
        signal.pause()


def db_stop(workspace: Workspace = None) -> None:
    """Stop the embedded server, also one that was started with --keep.

    Example: platform db stop
    """
    from presage_platform.postgres.embedded import stop_server
    from presage_platform.settings import read_settings

    settings = read_settings(workspace)
    _refuse_foreign_server(settings)
    was_running = stop_server(settings.workspace, data_home=settings.database.data_home)
    typer.echo("the server has stopped" if was_running else "no server was running")


def db_backup(
    file: Annotated[Path, typer.Argument(help="File to write; it must not exist.")], workspace: Workspace = None
) -> None:
    """Write CDM, ledger and results into one file.

    Example: platform db backup presage.dump
    """
    from presage_platform.postgres.backup import write_backup
    from presage_platform.postgres.connection import open_database
    from presage_platform.settings import read_settings

    with open_database(read_settings(workspace), command="db-backup", check_schema=False) as database:
        size_bytes = write_backup(database, file)
    typer.echo(f"{file}: {size_bytes / 1e6:.1f} MB")


def db_restore(
    file: Annotated[Path, typer.Argument(help="A file that `platform db backup` wrote.")], workspace: Workspace = None
) -> None:
    """Bring a backup into an empty database, and its schema to the newest revision.

    Example: platform db restore presage.dump --workspace restored
    """
    from presage_platform.postgres.backup import restore_backup
    from presage_platform.postgres.connection import open_database
    from presage_platform.settings import read_settings

    with open_database(read_settings(workspace, create=True), command="db-restore", check_schema=False) as database:
        revision = restore_backup(database, file)
    typer.echo(f"restored; the backup held schema revision {revision}")


def _refuse_foreign_server(settings: Settings) -> None:
    from presage_platform.errors import UsageError

    if settings.database.url is not None:
        raise UsageError("database.url names a server that presage does not run: start and stop it where it is")
