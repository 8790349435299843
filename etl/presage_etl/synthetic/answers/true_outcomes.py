"""What twelve outcome tasks must give in both views: death, two readmissions, seven diagnoses, two laboratory values.

A plain reading of the simulated life, one study and one task at a time: stays from the visits, values as they were
drawn. The rules are those of the labeling documentation, written a second time on purpose: nothing here is shared with
the code that it checks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from presage_etl.synthetic.answers.true_labels import (
    CENSORED,
    COMPETING,
    EVENT,
    LAST_SECOND,
    MASKED,
    PREVALENT,
    Label,
    Window,
    follow_up,
)
from presage_etl.synthetic.clock import DAY_S
from presage_etl.synthetic.lives.events import History
from presage_etl.synthetic.records.chart_entries import Chart

INPATIENT = "IMP"
STAY_GAP_DAYS = 1  # a transfer is one stay
VIEWS = ("incident", "next")


@dataclass(frozen=True)
class ThresholdTask:
    """First value beyond a threshold, in the unit that is simulated; history of so many days makes it prevalent."""

    task: str
    code: str
    below: float | None = None
    above: float | None = None
    lookback_days: int | None = None

    def holds(self, value: float) -> bool:
        """Whether a value is beyond the threshold."""
        return value < self.below if self.below is not None else self.above is not None and value > self.above


THRESHOLDS = (
    ThresholdTask("haemoglobin_below_12", "718-7", below=12.0, lookback_days=30),
    ThresholdTask("nt_probnp_above_300", "33762-6", above=300.0),
)
READMISSIONS = ("readmission_30d", "readmission_any")


def other_views(labels: Iterable[Label]) -> list[Label]:
    """Return the headline labels in the view that is not the task's own."""
    found = []
    for label in labels:
        if label.view == "next":
            # A task at risk whatever came before has one reading: nobody is prevalent.
            found.append(replace(label, view="incident"))
        else:
            found.append(replace(label, view="next", state=label.state_next))
    return found


def outcome_labels(history: History, chart: Chart, window: Window) -> list[Label]:
    """Labels of the readmissions and of the thresholds, in both views."""
    found = []
    for task in READMISSIONS:
        label = _readmission(task, history, window)
        found += [replace(label, view=view) for view in VIEWS]
    for threshold in THRESHOLDS:
        times = [when for code, value, when in chart.labs if code == threshold.code and threshold.holds(value)]
        found += _threshold(threshold, sorted(times), window)
    return found


def _readmission(task: str, history: History, window: Window) -> Label:
    """The next stay that begins after the stay that holds the scan; the clock starts at the end of that stay's day."""
    stays = _stays(history)
    day = window.t0 // DAY_S
    ends = [last for first, last, _ in stays if first <= day <= last]
    end, by_death = follow_up(window)
    if not ends:
        return Label(task, "next", MASKED, False, None, max(end - window.t0, 0), MASKED)
    clock = min(ends) * DAY_S + LAST_SECOND
    later = [start for _, _, start in stays if max(clock, window.t0) < start <= end]
    time = min(later) - clock if later else None
    gone = window.death is not None and window.death <= clock
    following = EVENT if later else COMPETING if by_death else CENSORED
    state = MASKED if gone or end <= clock else following
    return Label(task, "next", state, False, time, max(end - clock, 0), state)


def _stays(history: History) -> list[tuple[int, int, int]]:
    """First day, last day and first second of each stay: inpatient visits joined over a gap of a day."""
    visits = sorted(
        (visit.start // DAY_S, visit.end // DAY_S, visit.start) for visit in history.visits if visit.kind == INPATIENT
    )
    stays: list[tuple[int, int, int]] = []
    for first, last, start in visits:
        if stays and first <= stays[-1][1] + STAY_GAP_DAYS:
            stays[-1] = (stays[-1][0], max(last, stays[-1][1]), stays[-1][2])
        else:
            stays.append((first, last, start))
    return stays


def _threshold(threshold: ThresholdTask, times: list[int], window: Window) -> list[Label]:
    end, by_death = follow_up(window)
    oldest = window.t0 - (threshold.lookback_days or 100 * 366) * DAY_S
    prevalent = any(oldest <= time <= window.t0 for time in times)
    later = [time for time in times if window.t0 < time <= end]
    following = EVENT if later else COMPETING if by_death else CENSORED
    following = MASKED if end <= window.t0 else following
    time = later[0] - window.t0 if later else None
    length = max(end - window.t0, 0)
    states = {"next": following, "incident": PREVALENT if prevalent and following != MASKED else following}
    return [Label(threshold.task, view, states[view], prevalent, time, length, states["next"]) for view in VIEWS]
