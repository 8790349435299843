"""Outcomes that users define in SQL: one file a task, checked, locked, tested on rows, run behind a wall."""
