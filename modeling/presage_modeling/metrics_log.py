"""metrics.jsonl: one object every few steps; a resumed run drops what it will write again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from presage_platform.runs import write_atomically


class MetricsLog:
    """The two line files of a run: `metrics.jsonl` (scalars only) and `skipped.jsonl` (study ids of skipped steps)."""

    def __init__(self, run: Path) -> None:
        self._metrics, self._skipped = run / "metrics.jsonl", run / "skipped.jsonl"

    def restart(self, step: int) -> None:
        """Forget everything after a step."""
        for path in (self._metrics, self._skipped):
            kept = [line for line in _lines(path) if json.loads(line)["step"] <= step] if step else []
            if path.exists() or path == self._metrics:
                write_atomically(path, "".join(f"{line}\n" for line in kept).encode())

    def write(self, scalars: dict[str, Any]) -> None:
        """Append one object; a number that is not finite becomes null."""
        plain = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in scalars.items()}
        _append(self._metrics, plain)

    def skipped(self, step: int, study_ids: list[int]) -> None:
        """Append the studies of a step whose update was skipped."""
        _append(self._skipped, {"step": step, "study_ids": study_ids})


def _append(path: Path, document: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(document, allow_nan=False) + "\n")


def _lines(path: Path) -> list[str]:
    """Return the whole lines of a file; a kill may have cut the last one."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [line for line in text[: text.rfind("\n") + 1].splitlines() if line]
