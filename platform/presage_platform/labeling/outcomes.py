"""Outcome tasks: from candidate events and risk windows to the rows that evaluation reads (labeling L93).

A task returns candidates only. After t0, first, censoring, death, horizon: all of it is decided here, by the semantics
that the kernel uses, so that a wrong condition in a query cannot leak the future.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from presage_platform.errors import DiskFullError
from presage_platform.labeling.event import SECONDS_PER_DAY, Event, Mask, State
from presage_platform.labeling.semantics import (
    NEVER,
    IndexFacts,
    Policy,
    RiskWindows,
    day_end,
    event_time,
    relative,
)
from presage_platform.labeling.store_writer import SPLITS, write_json

OUTCOME_SCHEMA = pa.schema(
    [
        pa.field("study_id", pa.int64(), nullable=False),
        pa.field("state", pa.dictionary(pa.int8(), pa.string()), nullable=False),
        pa.field("prevalent", pa.bool_(), nullable=False),
        pa.field("mask", pa.uint16(), nullable=False),
        pa.field("entry_s", pa.int32(), nullable=False),
        pa.field("time_s", pa.int32()),
        pa.field("end_s", pa.int32(), nullable=False),
        pa.field("end_cause", pa.uint8(), nullable=False),
        pa.field("window_label", pa.int8()),
        pa.field("count", pa.int32()),
        pa.field("exposure_s", pa.int32()),
    ]
)
"""Columns of `outcomes/<task>.parquet`; `window_label` is null throughout for a task that is no `binary_window`,
`count` and `exposure_s` (seconds under observation within the window) for one that is no `recurrent_count`."""
OutcomeKind = Literal["time_to_event", "binary_window", "recurrent_count"]
WORDS = [state.word for state in State]


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Candidate events of an outcome task, before, at and after t0 alike. n = candidates.

    Attributes
    ----------
    row : int64, shape = (n,)
        Number of the study within the index facts.
    time_s : int64
        Absolute seconds; a bare date stands at its day's midnight.
    is_date : bool
    cause : uint8
        `Event.EVENT` or `Event.COMPETING`.
    """

    row: NDArray[np.int64]
    time_s: NDArray[np.int64]
    is_date: NDArray[np.bool_]
    cause: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Firsts:
    """What candidates come down to, one entry a study. n = studies; absolute seconds, `NEVER` = none.

    Attributes
    ----------
    event, competing : int64, shape = (n,)
        First of each after the risk start and within follow-up.
    prevalent : bool
        An event in the history.
    """

    event: NDArray[np.int64]
    competing: NDArray[np.int64]
    prevalent: NDArray[np.bool_]


def outcome_rows(
    facts: IndexFacts,
    windows: RiskWindows,
    candidates: Candidates,
    policy: Policy,
    *,
    kind: OutcomeKind = "time_to_event",
    risk: Literal["incident", "next"] = "incident",
    horizon_s: int | None = None,
    window_s: int | None = None,
    era_gap_s: int = 0,
    clock_s: NDArray[np.int64] | None = None,
    extra_mask: NDArray[np.uint16] | None = None,
) -> pa.Table:
    """Return one row a study, in the order of `facts`, with the columns of `OUTCOME_SCHEMA`.

    Parameters
    ----------
    windows
        Of this task: `semantics.risk_windows(facts, policy, …)`.
    risk
        `next`: an earlier event says nothing about being at risk (readmission), so no row is prevalent.
    horizon_s
        Follow-up is cut here (then censored); an event at the horizon counts.
    window_s
        Length of a `binary_window` or a `recurrent_count`.
    era_gap_s
        Events of a `recurrent_count` closer than this to the one before are one.
    clock_s
        Where the task's clock starts (absolute); t0 where None.
    extra_mask
        Further bits, e.g. `Mask.SEX`, `Mask.AGE`.
    """
    time = _counted_times(facts, candidates, policy)
    firsts = _first_times(facts, windows, candidates, time)
    rows = rows_of_firsts(
        facts,
        windows,
        firsts,
        risk=risk,
        horizon_s=horizon_s,
        window_s=window_s if kind == "binary_window" else None,
        clock_s=clock_s,
        extra_mask=extra_mask,
    )
    if kind == "binary_window" and window_s is None:
        raise ValueError("a binary window needs its length")
    if kind == "recurrent_count":
        if window_s is None:
            raise ValueError("a recurrent count needs the length of its window")
        rows = _with_counts(rows, facts, windows, candidates, time, (window_s, era_gap_s), clock_s)
    return rows


def rows_of_firsts(
    facts: IndexFacts,
    windows: RiskWindows,
    firsts: Firsts,
    *,
    risk: Literal["incident", "next"] = "incident",
    horizon_s: int | None = None,
    window_s: int | None = None,
    clock_s: NDArray[np.int64] | None = None,
    extra_mask: NDArray[np.uint16] | None = None,
) -> pa.Table:
    """Return the rows of a task from its first times; parameters as those of `outcome_rows`, `window_s` of a label."""
    clock = facts.t0_s if clock_s is None else clock_s
    first, competing, prevalent = firsts.event, firsts.competing, firsts.prevalent
    if risk == "next":
        prevalent = np.zeros_like(prevalent)
    end, cause = windows.follow_up_end_s, windows.end_cause
    earlier = competing < np.where(cause == Event.COMPETING, end, end + 1)
    end = np.where(earlier, competing, end)
    cause = np.where(earlier, np.uint8(Event.COMPETING), cause).astype(np.uint8)
    happens = first <= end  # an event at the instant of a competing end counts: event before death before censoring
    if horizon_s is not None:
        beyond = end > clock + horizon_s
        happens &= first <= clock + horizon_s
        end = np.where(beyond, clock + horizon_s, end)
        cause = np.where(beyond, np.uint8(Event.CENSORED), cause).astype(np.uint8)
    mask = windows.mask if extra_mask is None else windows.mask | extra_mask
    time_s = relative(np.where(happens, first, clock), clock)
    end_s = relative(np.maximum(end, clock), clock)
    label = None if window_s is None else _window_label(happens, time_s, end_s, cause, window_s)
    nothing = pa.nulls(len(facts), pa.int32())
    return pa.table(
        {
            "study_id": facts.study_id,
            "state": _state_words(states(mask, prevalent, happens, cause)),
            "prevalent": prevalent,
            "mask": mask,
            "entry_s": relative(windows.risk_start_s, clock),
            "time_s": pa.array(time_s, pa.int32(), mask=~happens),
            "end_s": end_s,
            "end_cause": cause,
            "window_label": pa.nulls(len(facts), pa.int8())
            if label is None
            else pa.array(label, pa.int8(), mask=label < 0),
            "count": nothing,
            "exposure_s": nothing,
        },
        schema=OUTCOME_SCHEMA,
    )


def states(
    mask: NDArray[np.uint16], prevalent: NDArray[np.bool_], happens: NDArray[np.bool_], cause: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return the state of each study in the incident view: the first that holds."""
    conditions = [mask != 0, prevalent, happens, cause == Event.COMPETING]
    choices = [State.MASKED, State.PREVALENT, State.EVENT, State.COMPETING]
    return np.select(conditions, [np.uint8(choice) for choice in choices], np.uint8(State.CENSORED)).astype(np.uint8)


def add_outcomes(store: Path, outcomes: Mapping[str, pa.Table], notes: Mapping[str, Mapping[str, Any]]) -> None:
    """Add (or renew) outcome files of a label store; its label hash does not cover them.

    Parameters
    ----------
    outcomes
        Task name to its rows, in the order of `studies.parquet`.
    notes
        Task name to what else is written in `outcomes.json`: `outcome_hash` (over index, snapshot, lock, body and
        semantics), candidates that were dropped.
    """
    studies = pq.read_table(store / "studies.parquet", columns=["study_id", "split"])
    split = np.asarray(studies.column("split"))
    document = read_notes(store)
    for name, table in outcomes.items():
        if table.column("study_id").to_pylist() != studies.column("study_id").to_pylist():
            raise ValueError(f"outcome {name}: rows are not those of studies.parquet")
        _write_rows(store / "outcomes" / f"{name}.parquet", table)
        words = np.asarray(table.column("state").to_pylist())
        document[name] = {
            **notes[name],
            "states": {
                part: {word: int(((split == number) & (words == word)).sum()) for word in WORDS}
                for number, part in enumerate(SPLITS)
            },
        }
    write_notes(store, document)


def _write_rows(path: Path, table: pa.Table) -> None:
    partial = path.with_suffix(".partial")
    try:
        pq.write_table(table, partial, compression="zstd")
        partial.rename(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise DiskFullError("disk: no space left while outcomes were written; free some and run again") from None
        raise


def read_notes(store: Path) -> dict[str, Any]:
    """Return what `outcomes.json` says of each outcome of a store whose file is there."""
    path = store / "outcomes.json"
    document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {name: note for name, note in document.items() if (store / "outcomes" / f"{name}.parquet").is_file()}


def remove_outcomes(store: Path, names: Iterable[str]) -> None:
    """Remove outcomes of a store, where they are."""
    for name in names:
        (store / "outcomes" / f"{name}.parquet").unlink(missing_ok=True)
    write_notes(store, read_notes(store))


def write_notes(store: Path, document: Mapping[str, Any]) -> None:
    """Replace `outcomes.json`."""
    partial = store / "outcomes.json.partial"
    write_json(partial, document)
    partial.rename(store / "outcomes.json")


def _counted_times(facts: IndexFacts, candidates: Candidates, policy: Policy) -> NDArray[np.int64]:
    """Return when each candidate counts; a bare date of death stands at its day's end."""
    if policy.follows_death:
        return np.where(candidates.is_date, day_end(candidates.time_s), candidates.time_s)
    return event_time(candidates.time_s, candidates.is_date, facts.t0_s[candidates.row], policy.same_day)


def _first_times(facts: IndexFacts, windows: RiskWindows, candidates: Candidates, time: NDArray[np.int64]) -> Firsts:
    row = candidates.row
    r, f = windows.risk_start_s[row], windows.follow_up_end_s[row]
    after = (time > r) & (time <= f)
    first = np.full(len(facts), NEVER, dtype=np.int64)
    competing = first.copy()
    for target, cause in ((first, Event.EVENT), (competing, Event.COMPETING)):
        chosen = after & (candidates.cause == cause)
        np.minimum.at(target, row[chosen], time[chosen])
    prevalent = np.zeros(len(facts), dtype=np.bool_)
    prevalent[row[(time <= r) & (time >= windows.lookback_from_s[row]) & (candidates.cause == Event.EVENT)]] = True
    return Firsts(first, competing, prevalent)


def _with_counts(
    rows: pa.Table,
    facts: IndexFacts,
    windows: RiskWindows,
    candidates: Candidates,
    time: NDArray[np.int64],
    lengths_s: tuple[int, int],
    clock_s: NDArray[np.int64] | None,
) -> pa.Table:
    """Fill `count` and `exposure_s`: events after the risk start, within window and follow-up, merged where close.

    One moment is one event however often it is recorded. Masked rows stay null.
    """
    window_s, era_gap_s = lengths_s
    clock = facts.t0_s if clock_s is None else clock_s
    end = np.minimum(clock + np.asarray(rows.column("end_s")).astype(np.int64), clock + window_s)
    row = candidates.row
    inside = (time > windows.risk_start_s[row]) & (time <= end[row]) & (candidates.cause == Event.EVENT)
    row, time = row[inside], time[inside]
    order = np.lexsort((time, row))
    row, time = row[order], time[order]
    opens = np.ones(len(row), dtype=np.bool_)
    opens[1:] = (row[1:] != row[:-1]) | (np.diff(time) >= max(era_gap_s, 1))
    count = np.bincount(row[opens], minlength=len(facts)).astype(np.int32)
    exposure = np.maximum(end - windows.risk_start_s, 0).astype(np.int32)
    masked = np.asarray(rows.column("mask")) != 0
    for name, values in (("count", count), ("exposure_s", exposure)):
        rows = rows.set_column(
            rows.column_names.index(name), OUTCOME_SCHEMA.field(name), pa.array(values, pa.int32(), mask=masked)
        )
    return rows


def _window_label(
    happens: NDArray[np.bool_],
    time_s: NDArray[np.int32],
    end_s: NDArray[np.int32],
    cause: NDArray[np.uint8],
    window_s: int,
) -> NDArray[np.int8]:
    """Return 1 for an event in the window, 0 if followed (or ended by a competing event) without, -1 if unknown."""
    label = np.full(len(time_s), -1, dtype=np.int8)
    label[(end_s >= window_s) | (cause == Event.COMPETING)] = 0
    label[happens] = np.where(time_s[happens] <= window_s, 1, 0)
    return label


def _state_words(codes: NDArray[np.uint8]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int8)), pa.array(WORDS))


def days(number: float) -> int:
    """Return days as whole seconds."""
    return round(number * SECONDS_PER_DAY)


def sex_mask(sex: list[str | None], wanted: str | None) -> NDArray[np.uint16]:
    """Return `Mask.SEX` where a study's sex is not the one a task is about; unknown is not."""
    return np.array([0 if wanted is None or value == wanted else int(Mask.SEX) for value in sex], dtype=np.uint16)


def age_mask(age_years: list[int | None], low: int | None, high: int | None) -> NDArray[np.uint16]:
    """Return `Mask.AGE` where the age at t0 lies outside the limits (both included); unknown is outside."""
    if low is None and high is None:
        return np.zeros(len(age_years), dtype=np.uint16)
    inside = [a is not None and (low is None or a >= low) and (high is None or a <= high) for a in age_years]
    return np.where(np.array(inside, dtype=np.bool_), 0, int(Mask.AGE)).astype(np.uint16)
