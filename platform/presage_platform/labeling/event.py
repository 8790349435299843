"""The words of an outcome, declared once: how follow-up ended, why a row is masked, what a pair's state is."""

from __future__ import annotations

from enum import IntEnum, IntFlag


class Event(IntEnum):
    """How the follow-up of a study and task ended. No function takes a bare "is censored" boolean."""

    CENSORED = 0
    EVENT = 1
    COMPETING = 2


class State(IntEnum):
    """State of a (study, task) pair in the incident view: the first that holds, in this order."""

    MASKED = 0
    PREVALENT = 1
    EVENT = 2
    COMPETING = 3
    CENSORED = 4

    @property
    def word(self) -> str:
        """The state as files and reports spell it."""
        return self.name.lower()


class Mask(IntFlag):
    """Why a study is out of the risk set. `SHORT_HISTORY` applies to the incident view only, the others to both."""

    NO_FOLLOWUP = 1
    DEAD_AT_INDEX = 2
    NO_OBSERVATION = 4
    SHORT_HISTORY = 8
    PAPER_SAME_DAY = 16
    PAPER_NO_TASK_EVENT = 32
    NOT_PRIMARY = 64
    SEX = 128
    AGE = 256
    NOT_ELIGIBLE = 512
    """Absent from the `@at_risk` block of an SQL task."""


INCIDENT_ONLY = int(Mask.SHORT_HISTORY)
"""Bits that mask a row in the incident view and leave it in the next view."""

SECONDS_PER_DAY = 86_400
