"""Shipped outcome tasks: starting points to copy, each with the rows that test it."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from presage_platform.errors import UsageError

PACKAGE = "presage_platform.labeling.tasks.library"
PARITY = "_parity"
PARITY_RULES = "risk: next\nmin_prior_obs: 0 days\nvisit_guard: none\ncensor: last_event\n"
PARITY_FIXTURE = "parity.yaml.in"
"""Cases of every parity variant; `{code}` stands for its concept."""
CODE = re.compile(r"\"(?P<code>SNOMED:\d+)\"")


def shipped_tasks() -> list[str]:
    """Return the names of the shipped tasks."""
    return sorted(entry.name.removesuffix(".sql") for entry in files(PACKAGE).iterdir() if entry.name.endswith(".sql"))


def parity_of(source: str, task: str) -> str:
    """Return a diagnosis task under the rules of the published evaluation: next event, last event censors, no guard."""
    text = source.replace(f"task: {task}\n", f"task: {task}{PARITY}\n", 1)
    return text.replace("min_prior_obs: 365 days\n", PARITY_RULES, 1)


def copy_tasks(name: str, folder: Path) -> list[str]:
    """Copy one shipped task (or `all`) with its fixture into `folder`; a file that is there already is kept.

    Raises
    ------
    UsageError
        When no shipped task has that name.
    """
    task = name.removesuffix(PARITY)
    names = shipped_tasks() if name == "all" else [task]
    parity = name.endswith(PARITY)
    if not set(names) <= set(shipped_tasks()) or (parity and not has_parity(task)):
        raise UsageError(
            f"no shipped task `{name}`: expected all, {', '.join(shipped_tasks())}; a diagnosis also with {PARITY} at "
            "its end"
        )
    (folder / "tests").mkdir(mode=0o700, parents=True, exist_ok=True)
    copied = []
    for one in names:
        contents = _parity_contents(one) if parity else _contents(one)
        for relative, content in contents.items():
            target = folder / relative
            if not target.exists():
                target.write_text(content, encoding="utf-8")
                copied.append(relative)
    return copied


def has_parity(task: str) -> bool:
    """Whether a shipped task is a diagnosis, of which a parity variant exists."""
    return "min_prior_obs: 365 days\n" in _read(f"{task}.sql")


def _contents(task: str) -> dict[str, str]:
    return {relative: _read(relative) for relative in (f"{task}.sql", f"tests/{task}.yaml")}


def _parity_contents(task: str) -> dict[str, str]:
    source = _read(f"{task}.sql")
    found = CODE.search(source)
    assert found is not None
    fixture = _read(f"tests/{PARITY_FIXTURE}").replace("{code}", found["code"])
    return {f"{task}{PARITY}.sql": parity_of(source, task), f"tests/{task}{PARITY}.yaml": fixture}


def _read(relative: str) -> str:
    return files(PACKAGE).joinpath(relative).read_text(encoding="utf-8")
