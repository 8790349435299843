"""Attrition: what each rule took away, in order, so that the rows add up exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from presage_platform.labeling.event import Mask

RULES = (
    ("in observation", Mask.NO_OBSERVATION),
    ("alive at the scan", Mask.DEAD_AT_INDEX),
    ("follow-up", Mask.NO_FOLLOWUP),
    ("record beyond the day of the scan", Mask.PAPER_SAME_DAY),
    ("an event of some task", Mask.PAPER_NO_TASK_EVENT),
    ("not primary", Mask.NOT_PRIMARY),
    ("history (incident view)", Mask.SHORT_HISTORY),
)
"""Rules that mask a study, in the order in which they are counted: a study is lost to the first that holds."""
PAPER_ONLY = (Mask.PAPER_SAME_DAY, Mask.PAPER_NO_TASK_EVENT)


@dataclass(frozen=True, slots=True)
class Step:
    """What one rule left: (studies, persons, events) before and after."""

    rule: str
    before: tuple[int, int, int]
    after: tuple[int, int, int]

    def to_json(self) -> dict[str, Any]:
        """Return the step as JSON values."""
        names = ("studies", "persons", "events")
        return {
            "rule": self.rule,
            **{f"{name}_before": value for name, value in zip(names, self.before, strict=True)},
            **{f"{name}_after": value for name, value in zip(names, self.after, strict=True)},
        }


def attrition(
    num_linked: tuple[int, int],
    num_usable: tuple[int, int],
    person_id: NDArray[np.int64],
    mask: NDArray[np.uint16],
    num_events: NDArray[np.int64],
    *,
    paper: bool = False,
) -> list[Step]:
    """Return the steps from linked studies to the incident risk set.

    Parameters
    ----------
    num_linked, num_usable
        (studies, persons) that are linked, and that also have a usable series.
    person_id, mask, num_events
        Of each indexed study: person, mask bits, stored events of the task set (0 for studies that were not indexed).
    paper
        Whether the two rules of the paper's labels apply.
    """
    total = int(num_events.sum())
    indexed = (len(person_id), len(np.unique(person_id)), total)
    counts = [("linked", (*num_linked, total)), ("usable series", (*num_usable, total)), ("t0 found", indexed)]
    left = np.ones(len(person_id), dtype=np.bool_)
    for rule, bit in RULES:
        if bit in PAPER_ONLY and not paper:
            continue
        left &= (mask & int(bit)) == 0
        counts.append((rule, (int(left.sum()), len(np.unique(person_id[left])), int(num_events[left].sum()))))
    before = counts[0][1]
    steps = []
    for rule, after in counts:
        steps.append(Step(rule, before, after))
        before = after
    return steps


def attrition_text(steps: Sequence[Step]) -> str:
    """Return the steps as a table for people."""
    lines = [f"{'rule':<34}{'studies':>10}{'persons':>10}{'events':>14}{'lost':>8}"]
    for step in steps:
        studies, persons, events = step.after
        lines.append(f"{step.rule:<34}{studies:>10,}{persons:>10,}{events:>14,}{step.before[0] - studies:>8,}")
    return "\n".join(lines)
