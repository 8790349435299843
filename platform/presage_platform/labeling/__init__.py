"""Labels of the future: index times, timelines, tasks, first occurrences, the label store and its reader."""

from __future__ import annotations

from presage_platform.labeling.event import Event, Mask, State

__all__ = ["Event", "Mask", "State"]
