"""What a load did, in numbers: the accounts that must balance, as text, as JSON, and in the ledger (E93, E95, E100)."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOADED = ("new", "updated", "unchanged", "used-by-reference", "deleted")


@dataclass(slots=True)
class Account:
    """The resources of one type, or of one file: how many came in, and what became of them."""

    num_in: int = 0
    loaded: Counter[str] = field(default_factory=Counter)
    excluded: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)

    @property
    def num_loaded(self) -> int:
        """New, updated, unchanged, used by reference, deleted."""
        return sum(self.loaded.values())

    @property
    def num_excluded(self) -> int:
        """Left out on purpose."""
        return sum(self.excluded.values())

    @property
    def num_dead(self) -> int:
        """Could not be loaded."""
        return sum(self.dead.values())

    @property
    def balances(self) -> bool:
        """Whether nothing was lost (E95)."""
        return self.num_in == self.num_loaded + self.num_excluded + self.num_dead

    def count(self, outcome: str, reason: str | None, number: int) -> None:
        """Add resources that ended in one way."""
        if outcome in LOADED:
            self.loaded[outcome] += number
        elif outcome == "excluded":
            self.excluded[reason or ""] += number
        else:
            self.dead[reason or ""] += number

    def as_dict(self) -> dict[str, Any]:
        """Return the account as plain values."""
        return {
            "in": self.num_in,
            "loaded": dict(sorted(self.loaded.items())),
            "excluded": dict(sorted(self.excluded.items())),
            "dead": dict(sorted(self.dead.items())),
        }

    def add(self, values: Mapping[str, Any], *, unchanged: bool = False) -> None:
        """Add an account that was kept; with `unchanged` what was loaded counts as unchanged now."""
        self.num_in += values["in"]
        for outcome, number in values["loaded"].items():
            self.loaded["unchanged" if unchanged else outcome] += number
        self.excluded.update(values["excluded"])
        self.dead.update(values["dead"])


@dataclass(slots=True)
class LoadReport:
    """The result of one load."""

    run_no: int
    source: str
    types: dict[str, Account]
    files: dict[int, dict[str, Account]]
    tables: dict[str, dict[str, int]]
    notes: Counter[tuple[str, str, str, str]]
    seconds: dict[str, float]
    facts: dict[str, Any]
    folder: Path | None = None

    @property
    def total(self) -> Account:
        """All types together."""
        whole = Account()
        for account in self.types.values():
            whole.add(account.as_dict())
        return whole

    @property
    def num_inserted(self) -> int:
        """CDM rows that are new."""
        return sum(changes["inserted"] for changes in self.tables.values())

    @property
    def num_updated(self) -> int:
        """CDM rows that changed."""
        return sum(changes["updated"] for changes in self.tables.values())

    @property
    def num_deleted(self) -> int:
        """CDM rows that went."""
        return sum(changes["deleted"] for changes in self.tables.values())

    @property
    def num_unchanged(self) -> int:
        """Resources that were loaded before as they are."""
        return self.total.loaded["unchanged"]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values, without names of files."""
        return {
            "run": self.run_no,
            "source": self.source,
            "facts": self.facts,
            "total": self.total.as_dict(),
            "types": {name: account.as_dict() for name, account in sorted(self.types.items())},
            "tables": self.tables,
            "notes": [[*key, number] for key, number in sorted(self.notes.items())],
            "seconds": self.seconds,
        }

    def text(self) -> str:
        """Return the report as it is printed."""
        return "\n".join([*self._types_table(), *self._reasons(), *self._tables_table(), *self._facts()])

    def summary(self) -> str:
        """Return one line."""
        total = self.total
        return (
            f"run {self.run_no}: {total.num_in} resources in = {total.num_loaded} loaded "
            f"({_listed(total.loaded)}) + {total.num_excluded} excluded + {total.num_dead} dead"
        )

    def _types_table(self) -> list[str]:
        lines = [f"{'resource type':28}{'in':>10}{'loaded':>10}{'excluded':>10}{'dead':>10}"]
        for name, account in [*sorted(self.types.items()), ("all", self.total)]:
            shown = name or "(not told)"
            lines.append(
                f""
                f"{shown:28}{account.num_in:>10}{account.num_loaded:>10}"
                f"{account.num_excluded:>10}{account.num_dead:>10}"
            )
        lines.append(f"in = loaded + excluded + dead for each type and file: {'yes' if self.balances else 'NO'}")
        return lines

    @property
    def balances(self) -> bool:
        """Whether every account balances: by type, by file, in all (E95)."""
        accounts = [*self.types.values(), *(account for kinds in self.files.values() for account in kinds.values())]
        return all(account.balances for account in accounts)

    def _reasons(self) -> list[str]:
        total = self.total
        lines = [f"loaded: {_listed(total.loaded)}"]
        if total.excluded:
            lines.append(f"excluded: {_listed(total.excluded)}")
        if total.dead:
            lines.append(f"dead: {_listed(total.dead)}")
        kinds: Counter[str] = Counter()
        for (_, kind, _, _), number in self.notes.items():
            kinds[kind] += number
        return [*lines, f"noted: {_listed(kinds)}"] if kinds else lines

    def _tables_table(self) -> list[str]:
        if not self.tables:
            return ["no row changed"]
        lines = [f"{'table':28}{'inserted':>10}{'updated':>10}{'deleted':>10}"]
        for name, changes in sorted(self.tables.items()):
            lines.append(f"{name:28}{changes['inserted']:>10}{changes['updated']:>10}{changes['deleted']:>10}")
        return lines

    def _facts(self) -> list[str]:
        lines = [f"{name}: {value}" for name, value in self.facts.items()]
        spent = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self.seconds.items())
        return [*lines, f"time: {spent}"]

    def write(self, reports: Path) -> None:
        """Write report.txt and report.json to `reports/etl_<run>` (mode 0700)."""
        folder = reports / f"etl_{self.run_no}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(folder / "report.txt", self.text() + "\n")
        _write(folder / "report.json", json.dumps(self.as_dict(), indent=1) + "\n")
        self.folder = folder


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items()) if number) or "none"


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(path.suffix + ".part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    partial.replace(path)


def accounts_by_file(
    read: Iterable[tuple[int, str, int]], ended: Iterable[tuple[int, str, str, str | None, int]]
) -> dict[int, dict[str, Account]]:
    """Return file → type → account, from what the workers read and from what the merge says became of it."""
    files: dict[int, dict[str, Account]] = defaultdict(lambda: defaultdict(Account))
    for file_no, kind, number in read:
        files[file_no][kind].num_in += number
    for file_no, kind, outcome, reason, number in ended:
        files[file_no][kind].count(outcome, reason, number)
    return {file_no: dict(kinds) for file_no, kinds in files.items()}


def accounts_by_type(files: Mapping[int, Mapping[str, Account]]) -> dict[str, Account]:
    """Return type → account over all files."""
    types: dict[str, Account] = defaultdict(Account)
    for kinds in files.values():
        for kind, account in kinds.items():
            types[kind].add(account.as_dict())
    return dict(types)
