"""`platform etl vocabulary`: the OMOP vocabulary that every other command stands on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from presage_platform.options import Json, Workspace


def etl_vocabulary(
    path: Annotated[Path, typer.Argument(help="Folder of Athena files, plain or gzipped, or their .zip.")],
    all_relationships: Annotated[
        bool, typer.Option("--all-relationships", help="Load every relationship, not only Maps to and Maps to value.")
    ] = False,
    synonyms: Annotated[bool, typer.Option("--synonyms", help="Load the synonyms too.")] = False,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Load an OMOP vocabulary; the one in use stays until the new one is complete.

    Example: platform etl vocabulary ~/Downloads/vocabulary_download_v5.zip
    """
    from presage_etl.fhir.ledger import writer_lock
    from presage_etl.omop.athena import load_vocabulary
    from presage_etl.omop.vocabulary_files import find_files
    from presage_platform.postgres.connection import open_database
    from presage_platform.settings import read_settings

    find_files(path)  # a wrong path is said before a workspace is made or a server started
    settings = read_settings(workspace, create=True)
    with (
        open_database(settings, command="etl vocabulary") as database,
        writer_lock(database),  # a load that reads the old vocabulary must not see it change (E92)
        database.connect() as connection,
    ):
        report = load_vocabulary(path, connection, all_relationships=all_relationships, synonyms=synonyms)
        connection.commit()
    if as_json:
        import json
        from dataclasses import asdict

        typer.echo(json.dumps(asdict(report), default=str))
        return
    typer.echo(report.summary())
