"""`platform tasks …`: write, check, test, preview and lock outcomes defined in SQL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from presage_platform.options import Json, Workspace

if TYPE_CHECKING:
    from presage_platform.settings import Settings

NO_FILES = "no task files; `platform tasks copy all_cause_mortality` brings a first one"
Files = Annotated[
    list[Path] | None, typer.Argument(help="Task files or folders of them (default: the workspace's tasks/).")
]


def tasks_list(files: Files = None, workspace: Workspace = None, as_json: Json = False) -> None:
    """List task files: name, kind, version, lock.

    Example: platform tasks list
    """
    from presage_platform.labeling.tasks.definition import read_task
    from presage_platform.labeling.tasks.engine import lock_state

    rows = []
    for path in find_files(files, workspace):
        task = read_task(path)
        rows.append({"task": task.name, "kind": task.front.kind, "version": task.front.version,
                     "lock": lock_state(task, None), "title": task.front.title})  # fmt: skip
    lines = [f"{r['task']:<28} {r['kind']:<14} v{r['version']:<3} {r['lock']:<7} {r['title']}" for r in rows]
    _say(rows, lines, as_json)


def tasks_check(
    files: Files = None,
    cost: Annotated[bool, typer.Option("--cost", help="Also plan the queries in the database; none is run.")] = False,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Check task files: front matter, rules Q1 to Q11, warnings, and with --cost what they would cost; no data is read.

    Example: platform tasks check tasks/
    """
    from presage_platform.labeling.tasks.compile import compile_task
    from presage_platform.labeling.tasks.definition import read_task
    from presage_platform.labeling.tasks.locks import warnings_of

    found = find_files(files, workspace)
    rows: list[dict[str, Any]] = []
    for path in found:
        task = compile_task(read_task(path)).task
        notes = [*warnings_of(task), *filter(None, [_compares_with_t0(task.body)])]
        rows.append({"task": task.name, "ok": True, "warnings": notes})
    for name, estimate in (_estimates(found, workspace) if cost else {}).items():
        next(row for row in rows if row["task"] == name).update(estimate)
    lines = []
    for row in rows:
        planned = f" (cost {row['cost']:,.0f}, {row['rows']:,.0f} rows expected)" if "cost" in row else ""
        lines += [f"{row['task']}: ok{planned}", *(f"{row['task']}: warning: {note}" for note in row["warnings"])]
    _say(rows, lines, as_json)


def tasks_test(files: Files = None, workspace: Workspace = None, as_json: Json = False) -> None:
    """Run the fixtures of task files, and the laws that every task obeys, through the engine that labels.

    Example: platform tasks test tasks/
    """
    from presage_platform.labeling.tasks.engine import prepare_in
    from presage_platform.labeling.tasks.metamorphic import run_laws
    from presage_platform.labeling.tasks.passes import Passes
    from presage_platform.labeling.tasks.testing import run_fixture
    from presage_platform.postgres.connection import open_database

    rows, lines = [], []
    settings = _settings(workspace)
    passes = Passes(settings.task_passes_file)
    with open_database(settings, command="tasks") as database:
        for compiled, lock in prepare_in(find_files(files, workspace), database):
            name = compiled.task.name
            if not compiled.task.has_body:
                rows.append({"task": name, "passed": 0, "laws": {}})
                lines.append(f"{name}: no query to test")
                continue
            passed, laws = run_fixture(compiled, lock, database), run_laws(compiled, lock, database)
            passes.remember(compiled, lock)
            rows.append({"task": name, "passed": passed, "laws": laws})
            tested = ", ".join(f"{law} {number}" for law, number in laws.items())
            lines.append(f"{name}: {passed} cases passed; laws held, changed cases: {tested}")
    _say(rows, lines, as_json)


def tasks_lock(
    files: Files = None,
    vocabulary: Annotated[
        Path | None, typer.Option(help="Folder of concept.parquet, concept_ancestor.parquet instead of the database.")
    ] = None,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Resolve the concepts of task files in the loaded vocabulary and fix them in lock files.

    Example: platform tasks lock tasks/
    """
    from presage_platform.labeling.tasks.engine import lock_tasks
    from presage_platform.labeling.tasks.locks import DatabaseConcepts, FolderConcepts
    from presage_platform.postgres.connection import open_database

    found = find_files(files, workspace)
    if vocabulary is not None:
        changes = lock_tasks(found, FolderConcepts(vocabulary))
    else:
        with open_database(_settings(workspace), command="tasks") as database, database.connect() as connection:
            changes = lock_tasks(found, DatabaseConcepts(connection), database)
    rows = [
        {
            "task": c.task,
            "sets": {n: {"gained": g, "lost": lost} for n, (g, lost) in c.changes.items()},
            "without_records": c.without_records,
        }
        for c in changes
    ]
    lines = []
    for change in changes:
        sets = ", ".join(f"{name} +{gained} −{lost}" for name, (gained, lost) in change.changes.items())
        lines.append(f"{change.task}: locked{f' ({sets})' if sets else ''}")
        lines += [f"{change.task}: warning: no record here has a concept of {n}" for n in change.without_records]
    _say(rows, lines, as_json)


def tasks_copy(
    name: Annotated[str, typer.Argument(help="Name of a shipped task, or `all`.")],
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Copy a shipped task and its fixture into the workspace's tasks/.

    Example: platform tasks copy all_cause_mortality
    """
    from presage_platform.labeling.tasks.library import copy_tasks
    from presage_platform.settings import read_settings

    copied = copy_tasks(name, read_settings(workspace, create=True).workspace / "tasks")
    _say({"copied": copied}, [f"copied {one}" for one in copied], as_json)


def tasks_preview(
    task: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A task file.")],
    number: Annotated[int, typer.Option("--n", min=1, help="Studies of each state.")] = 5,
    show_patients: Annotated[
        bool, typer.Option("--show-patients", help="Print rows of patients, to a terminal or to --out.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="A file in the workspace, for its owner alone.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the sample.")] = 20,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Run one task on the label store and count its states; with --show-patients print the rows behind a sample.

    Example: platform tasks preview tasks/pleural_effusion.sql --n 5
    """
    import sys

    from presage_platform.errors import UsageError
    from presage_platform.labeling.tasks.preview import preview, write_privately

    if show_patients and out is None and not sys.stdout.isatty():
        raise UsageError(
            "usage: --show-patients prints to a terminal only, and this output goes elsewhere: name a file of the "
            "workspace with --out"
        )
    settings = _settings(workspace)
    document = preview(settings, task, number=number, show_patients=show_patients, seed=seed)
    if out is not None:
        write_privately(settings, out, document)
        document = {**document, "rows": []}
    lines = [f"{state}: {count}" for state, count in document["states"].items()]
    lines += [f"dropped, {reason.replace('_', ' ')}: {count}" for reason, count in document["dropped"].items()]
    lines += [" ".join(f"{key}={value}" for key, value in row.items()) for row in document["rows"]]
    _say(document, lines, as_json)


def find_files(files: list[Path] | None, workspace: Path | None) -> list[Path]:
    """Return the task files that are named, those of named folders, or those of the workspace."""
    from presage_platform.errors import InputError

    given = files or [_settings(workspace).workspace / "tasks"]
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            found += sorted(path.glob("*.sql"))
        elif path.is_file():
            found.append(path)
        elif files:
            raise InputError(f"no task file {path}: expected a .sql file or a folder of them")
    if files and not found:
        raise InputError("no .sql file in what was named: expected task files")
    return found


def _estimates(files: list[Path], workspace: Path | None) -> dict[str, dict[str, float]]:
    from presage_platform.labeling.tasks.cost import CostGate
    from presage_platform.labeling.tasks.engine import estimate
    from presage_platform.postgres.connection import open_database

    settings = _settings(workspace)
    stores = sorted(settings.labels_dir.glob("*/manifest.json"))
    store = stores[0].parent if len(stores) == 1 else None
    with open_database(settings, command="tasks") as database:
        return estimate(files, database, store=store, gate=CostGate.of_settings(settings.labeling))


def _compares_with_t0(body: str) -> str | None:
    import re

    if re.search(r"(<|>|between)[^\n]*\bt0(_date)?\b|\bt0(_date)?\b\s*(<|>)", body, re.IGNORECASE):
        return "compares with t0; the engine decides what lies after the scan, leave that condition out"
    return None


def _settings(workspace: Path | None) -> Settings:
    from presage_platform.settings import read_settings

    return read_settings(workspace)


def _say(document: Any, lines: list[str], as_json: bool) -> None:
    import json

    typer.echo(json.dumps(document, default=str) if as_json else "\n".join(lines or [NO_FILES]))
