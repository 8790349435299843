"""Whether outcomes still say what was written: a flipped indicator turns events into censorings, and is found here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from presage_platform.errors import IntegrityError
from presage_platform.labeling.event import Event
from presage_platform.labeling.store import LabelStore
from presage_platform.labeling.store_writer import SPLITS
from presage_platform.labeling.views import TaskView

WORDS = {Event.EVENT: "event", Event.CENSORED: "censored", Event.COMPETING: "competing"}


def check_orientation(
    view: TaskView, name: str, split: NDArray[np.integer], written: dict[str, dict[str, int]]
) -> None:
    """Prove that a task's view ends its studies as often in each way as was counted when it was written.

    Parameters
    ----------
    view
        The incident view of all studies.
    split
        The split number of each study.
    written
        Split → state → number, from `outcomes.json`.

    Raises
    ------
    IntegrityError
        If a number differs: the indicator is flipped, or means another thing.
    """
    for number, part in enumerate(SPLITS):
        here = np.asarray(view.at_risk) & (np.asarray(split) == number)
        for cause, word in WORDS.items():
            found, expected = int((np.asarray(view.cause)[here] == int(cause)).sum()), written[part].get(word, 0)
            if found != expected:
                raise IntegrityError(
                    f"integrity: outcome {name} shows {found} {part} studies as {word} where {expected} were written: "
                    "its indicator is flipped or damaged; delete the label store and run `platform label` again"
                )


def check_store(store: LabelStore) -> int:
    """Check every outcome of a store; return how many there are."""
    split = np.asarray(store.studies.column("split"))
    for name, written in store.outcome_states.items():
        check_orientation(store.task_view(name, risk="incident"), name, split, written)
    return len(store.outcome_states)
