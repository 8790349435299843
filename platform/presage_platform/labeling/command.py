"""The use cases of `platform label`: label, plan, verify."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from presage_platform.errors import IntegrityError, QualityError, TaskError, UsageError
from presage_platform.labeling.exclusions import guarded
from presage_platform.labeling.hashing import hash_file
from presage_platform.labeling.inputs import Inputs, read_from_database, read_from_files
from presage_platform.labeling.outcomes import read_notes, write_notes
from presage_platform.labeling.pipeline import LabelReport, make_labels
from presage_platform.labeling.store import LabelStore
from presage_platform.labeling.tasks.locks import UNVERSIONED, FolderConcepts
from presage_platform.labeling.timeline import Snapshot, choose_n_shards
from presage_platform.postgres.connection import open_database
from presage_platform.runs import canonical_json, write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping

    from presage_platform.labeling.ontology import Vocabulary
    from presage_platform.labeling.tasks.engine import Ready
    from presage_platform.postgres.connection import Database
    from presage_platform.settings import Settings

ALARMS_SHOWN = 5
ROWS_PER_SECOND, EVENTS_PER_SECOND, BYTES_PER_EVENT = 2_000_000, 15_000_000, 13


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the command line asks for."""

    index: Path | None = None
    snapshot: str | None = None
    vocabulary: Path | None = None
    guard: Path | None = None
    tasks: Path | None = None
    allow_fewer: bool = False
    new_split: bool = False
    skip_tests: bool = False
    strict: bool = False

    @property
    def without_database(self) -> bool:
        """Whether files alone are read."""
        return self.snapshot is not None or self.vocabulary is not None


@dataclass
class Message:
    """A short report: numbers, and lines for people."""

    numbers: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the numbers."""
        return self.numbers

    def text(self) -> str:
        """Return the lines."""
        return "\n".join(self.lines)


def label(settings: Settings, request: Request) -> LabelReport:
    """Run index → snapshot → task set → kernel → outcome tasks."""
    task_files = _task_files(settings, request)
    if request.without_database:
        if request.index is None or request.snapshot is None or request.vocabulary is None:
            raise UsageError("usage: without a database all of --index, --snapshot and --vocabulary are needed")
        release = Snapshot.open(settings.timeline_dir / request.snapshot).manifest.get("vocabulary_version")
        ready = _ready(task_files, FolderConcepts(request.vocabulary, str(release or UNVERSIONED)))
        inputs = read_from_files(
            settings,
            index_file=request.index,
            snapshot_id=request.snapshot,
            vocabulary=request.vocabulary,
            guard=request.guard,
        )
        report, store = _make(settings, inputs, request)
        _add_outcomes(settings, ready, store, inputs, None, request, report)
        _look_at(settings, store, request, report)
        return report
    with open_database(settings, command="label") as database:
        prepared = _prepared(settings, task_files, database, request)
        inputs = read_from_database(settings, database, index_file=request.index, guard=request.guard)
        report, store = _make(settings, inputs, request)
        _add_outcomes(settings, prepared, store, inputs, database, request, report)
        _look_at(settings, store, request, report)
        return report


def plan(settings: Settings, request: Request) -> Message:
    """Say what a run would read and make, how large it is and how long it takes; write nothing."""
    if request.without_database:
        events = int(Snapshot.open(settings.timeline_dir / str(request.snapshot)).manifest["num_events"])
        linked = pq.read_metadata(request.index).num_rows if request.index is not None else 0
        rows = 0
    else:
        from presage_platform.labeling.extraction import count_rows
        from presage_platform.labeling.statements import statement

        with open_database(settings, command="label") as database, database.connect() as connection:
            rows = events = sum(count_rows(connection, database).values())
            found = connection.execute(statement("num_linked").encode()).fetchone()
            linked = int(found[0]) if found else 0
    message = Message(
        numbers={
            "studies": linked,
            "rows_to_read": rows,
            "events": events,
            "n_shards": settings.labeling.n_shards or choose_n_shards(events),
            "array_bytes": events * BYTES_PER_EVENT,
            "extraction_s": round(rows / ROWS_PER_SECOND, 1),
            "kernel_s": round(events / EVENTS_PER_SECOND, 1),
        }
    )
    numbers = message.numbers
    message.lines = [
        f"index     {linked:,} linked studies",
        f"snapshot  {rows:,} rows to read, about {numbers['extraction_s']} s, {numbers['n_shards']} shards, "
        f"{numbers['array_bytes'] / 1e6:,.1f} MB of arrays",
        f"kernel    about {numbers['kernel_s']} s a core for up to {settings.labeling.k:,} tasks",
        "nothing was written",
    ]
    return message


def export(settings: Settings, kind: str, horizons: str) -> Any:
    """Write the outcomes of the workspace's labels in the form of another tool.

    Raises
    ------
    UsageError
        If the form or a horizon is unknown.
    """
    from presage_platform.labeling.cohorts import export_cohorts
    from presage_platform.labeling.meds import export_meds
    from presage_platform.labeling.store import open_labels

    if kind == "meds":
        labels = open_labels(settings)
        return export_meds(labels, settings.workspace / "exports" / f"meds-{labels.label_hash}", _horizons(horizons))
    if kind == "cohort":
        labels = open_labels(settings)
        with open_database(settings, command="label") as database:
            return export_cohorts(labels, database)
    raise UsageError(f"usage: --export {kind}: expected meds or cohort")


def _horizons(text: str) -> list[float]:
    found = [re.fullmatch(r"(\d+(?:\.\d+)?)d?", part.strip()) for part in text.split(",")]
    days = [float(match.group(1)) for match in found if match]
    if len(days) < len(found) or min(days) <= 0:
        raise UsageError(f"usage: --horizon {text}: expected days above 0, for example 365d or 30d,365d")
    return days


def verify(settings: Settings) -> Message:
    """Read every label store and snapshot of the workspace again.

    Raises
    ------
    IntegrityError
        Naming the first file whose content is not that of its manifest.
    """
    message = Message(numbers={"stores": 0, "files": 0, "snapshots": 0})
    for path in sorted(settings.labels_dir.glob("*/manifest.json")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for name, expected in sorted(manifest["files"].items()):
            file = path.parent / name
            if not file.is_file() or hash_file(file) != expected:
                raise IntegrityError(
                    f"integrity: {name} of labels/{path.parent.name} is not what its manifest says: delete that "
                    "folder and run `platform label` again"
                )
            message.numbers["files"] += 1
        message.numbers["stores"] += 1
    for path in sorted(settings.timeline_dir.glob("*/manifest.json")):
        Snapshot.open(path.parent).verify()
        message.numbers["snapshots"] += 1
    numbers = message.numbers
    message.lines = [
        f"{numbers['stores']} label stores ({numbers['files']} files), {numbers['snapshots']} snapshots: intact"
    ]
    return message


def _make(settings: Settings, inputs: Inputs, request: Request) -> tuple[LabelReport, Path]:
    return make_labels(settings, inputs, allow_fewer=request.allow_fewer, new_split=request.new_split)


def _look_at(settings: Settings, store: Path, request: Request, report: LabelReport) -> None:
    """Audit the labels for leaks, check their orientation, and compare them with the store before them.

    Raises
    ------
    QualityError
        With `--strict`, when the audit raises an alarm; the labels stay.
    """
    from presage_platform.labeling import audit, difference
    from presage_platform.labeling.orientation import check_store

    labels = LabelStore.open(store)
    check_store(labels)
    rows = audit.audit(labels)
    _keep(store / "audit.json", {"tasks": rows})
    raised = audit.alarms(rows)
    report.numbers["audit alarms"] = len(raised)
    report.warnings = [*report.warnings, *(f"audit: {line}" for line in raised[:ALARMS_SHOWN])]
    if len(raised) > ALARMS_SHOWN:
        report.warnings.append(f"audit: {len(raised) - ALARMS_SHOWN} more alarms in labels/{store.name}/audit.json")
    before = None if report.reused else difference.previous_store(settings.labels_dir, store)
    if before is not None:
        found = difference.difference(LabelStore.open(before), labels)
        settings.reports_dir.mkdir(mode=0o700, exist_ok=True)
        _keep(settings.reports_dir / f"labels-{before.name}-{store.name}.json", found)
        report.difference = difference.summary(found)
    if raised and request.strict:
        raise QualityError(
            f"labels: the audit raises {len(raised)} alarms (first: {raised[0]}): read labels/{store.name}/audit.json; "
            "the labels are written"
        )


def _keep(path: Path, document: dict[str, Any]) -> None:
    """Write a document unless the file holds it already."""
    content = canonical_json(document).encode()
    if not path.is_file() or path.read_bytes() != content:
        write_atomically(path, content)


def _task_files(settings: Settings, request: Request) -> list[Path]:
    folder = request.tasks or settings.workspace / "tasks"
    if request.tasks is not None and not folder.is_dir():
        raise UsageError(f"usage: --tasks {folder} is no folder, expected one with SQL tasks")
    return sorted(folder.glob("*.sql")) if folder.is_dir() else []


def _ready(files: list[Path], concepts: FolderConcepts) -> Ready:
    """Check tasks that run on a snapshot alone."""
    from presage_platform.labeling.tasks.engine import prepare

    ready = prepare(files, concepts)
    for compiled, _ in ready:
        if compiled.task.front.kind != "concept":
            raise TaskError(
                f"task {compiled.task.name}: `kind: {compiled.task.front.kind}` needs the database, only concept tasks "
                "do not: leave --snapshot out, or the task"
            )
    return ready


def _prepared(settings: Settings, files: list[Path], database: Database, request: Request) -> Ready:
    """Check tasks and run their own tests before anything is written."""
    if not files:
        return []
    from presage_platform.labeling.tasks.engine import prepare_in, require_sound
    from presage_platform.labeling.tasks.passes import Passes

    ready = prepare_in(files, database)
    if not request.skip_tests:
        require_sound(ready, database, Passes(settings.task_passes_file))
    return ready


def _add_outcomes(
    settings: Settings,
    ready: Ready,
    store: Path,
    inputs: Inputs,
    database: Database | None,
    request: Request,
    report: LabelReport,
) -> None:
    """Run the outcome tasks over the index and its facts, and add their rows to the store."""
    if not ready:
        return
    from presage_platform.labeling.tasks.cost import CostGate
    from presage_platform.labeling.tasks.engine import add_task_outcomes

    gate = CostGate.of_settings(settings.labeling)
    made = add_task_outcomes(
        store, ready, snapshot=inputs.snapshot, database=database, gate=gate, tests_skipped=request.skip_tests
    )
    report.numbers["outcomes"] = len(made.written) + len(made.found)
    report.warnings = made.warnings
    note_overlap(store, {compiled.task.name: lock.every_concept_id for compiled, lock in ready}, inputs.vocabulary)
    made.raise_failure()


def note_overlap(store: Path, concepts: Mapping[str, list[int]], vocabulary: Vocabulary) -> None:
    """Note beside each outcome how many tasks of the set would tell it; a report on it says so (labeling L40)."""
    chosen = set(LabelStore.open(store).tasks.column("concept_id").to_pylist())
    notes = read_notes(store)
    for name in notes.keys() & concepts.keys():
        notes[name]["overlap"] = len(chosen & guarded(concepts[name], vocabulary, "full"))
    write_notes(store, notes)
