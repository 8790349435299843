"""What changed between two label stores: events gained, lost and moved, task by task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from presage_platform.labeling.store import LabelStore


def previous_store(labels_dir: Path, current: Path) -> Path | None:
    """Return the store that was written last before `current`; None when there is no other."""
    others = [path.parent for path in labels_dir.glob("*/manifest.json") if path.parent != current]
    return max(others, key=lambda path: (path / "manifest.json").stat().st_mtime_ns, default=None)


def difference(before: LabelStore, after: LabelStore) -> dict[str, Any]:
    """Compare next events of studies and tasks that both stores have.

    Returns
    -------
    dict
        `studies` and `tasks`: how many are in both, only before, only after. `changed`: task → gained, lost, moved
        (another second), for tasks in which anything changed. Totals of these three stand beside it.
    """
    studies = _shared(before.studies.column("study_id").to_pylist(), after.studies.column("study_id").to_pylist())
    tasks = _shared(before.task_names, after.task_names)
    old, new = _events(before, studies, tasks), _events(after, studies, tasks)
    key_old, key_new = old[0], new[0]
    common, place_old, place_new = np.intersect1d(key_old, key_new, assume_unique=True, return_indices=True)
    number = len(tasks)
    gained = _by_task(np.setdiff1d(key_new, key_old, assume_unique=True), number)
    lost = _by_task(np.setdiff1d(key_old, key_new, assume_unique=True), number)
    moved = _by_task(common[old[1][place_old] != new[1][place_new]], number)
    changed = np.flatnonzero(gained + lost + moved)
    return {
        "before": before.label_hash,
        "after": after.label_hash,
        "studies": _counts(before.num_studies, after.num_studies, len(studies)),
        "tasks": _counts(before.num_tasks, after.num_tasks, number),
        "gained": int(gained.sum()),
        "lost": int(lost.sum()),
        "moved": int(moved.sum()),
        "changed": {
            tasks[k]: {"gained": int(gained[k]), "lost": int(lost[k]), "moved": int(moved[k])} for k in changed.tolist()
        },
    }


def summary(found: dict[str, Any]) -> str:
    """Return one line for people."""
    return (
        f"against labels/{found['before']}: {found['studies']['both']:,} studies and {found['tasks']['both']:,} tasks "
        f"in both, {found['gained']:,} events gained, {found['lost']:,} lost, {found['moved']:,} moved"
    )


def _shared(first: list[Any], second: list[Any]) -> list[Any]:
    kept = set(second)
    return [item for item in first if item in kept]


def _events(store: LabelStore, studies: list[int], tasks: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Key (study, task by their place in the shared lists) and time of every shared event, keys ascending."""
    place = np.full(store.num_tasks, -1, dtype=np.int64)
    number = {name: k for k, name in enumerate(store.task_names)}
    for k, name in enumerate(tasks):
        place[number[name]] = k
    known = np.asarray(store.studies.column("study_id"), dtype=np.int64)
    order = np.argsort(known)
    rows = order[np.searchsorted(known, np.array(studies, dtype=np.int64), sorter=order)]
    batch = store.rows(rows)
    row = np.repeat(np.arange(len(rows)), np.diff(batch.indptr))
    task = place[batch.task.astype(np.int64)]
    kept = task >= 0
    key = row[kept] * max(len(tasks), 1) + task[kept]
    order = np.argsort(key)
    return key[order], batch.time[kept].astype(np.int64)[order]


def _by_task(key: NDArray[np.int64], num_tasks: int) -> NDArray[np.int64]:
    return np.bincount(key % max(num_tasks, 1), minlength=num_tasks)


def _counts(before: int, after: int, both: int) -> dict[str, int]:
    return {"both": both, "only_before": before - both, "only_after": after - both}
