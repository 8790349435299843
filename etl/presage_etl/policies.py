"""The named choices of `platform etl`: policies.toml, overridden by the site, validated, hashed (E27, E28)."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from typing import Any

from presage_platform.errors import SettingsError, UsageError


class Policies(Mapping[str, Any]):
    """The effective policies of one run: every name has a value; equal sets have equal digests."""

    def __init__(self, values: Mapping[str, Any], version: int) -> None:
        self._values = dict(values)
        self.version = version

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def text(self) -> str:
        """The set as one line of JSON, as it is stamped into each run."""
        return json.dumps({"version": self.version, **self._values}, sort_keys=True, ensure_ascii=True)

    @property
    def digest(self) -> str:
        """16 hex digits that change with any value."""
        return blake2b(self.text.encode(), digest_size=8).hexdigest()


def read_policies(overrides: Mapping[str, Any] | None = None, given: Sequence[str] = ()) -> Policies:
    """Return the effective policies.

    Parameters
    ----------
    overrides
        `[etl.policies]` of platform.toml.
    given
        `name=value` pairs of the command line; they go before `overrides`.

    Raises
    ------
    SettingsError, UsageError
        For an unknown name (the nearest known one is named) or a value that is not allowed.
    """
    declared = _declared()
    values = {name: entry["default"] for name, entry in declared.items() if isinstance(entry, dict)}
    for name, value in (overrides or {}).items():
        values[name] = _checked(name, value, SettingsError, "etl.policies")
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--policy expects name=value, got {text!r}")
        values[name] = _checked(name, _parsed(value), UsageError, "--policy")
    return Policies(values, declared["version"])


@cache
def _declared() -> dict[str, Any]:
    return tomllib.loads(files("presage_etl").joinpath("policies.toml").read_text(encoding="utf-8"))


def _parsed(value: str) -> Any:
    return int(value) if value.isascii() and value.isdigit() else value


def _checked(name: str, value: Any, error: type[SettingsError] | type[UsageError], where: str) -> Any:
    declared = _declared()
    entry = declared.get(name)
    if not isinstance(entry, dict):
        names = [known for known, found in declared.items() if isinstance(found, dict)]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(names)}"
        raise error(f"{where}: unknown policy `{name}`: {hint}")
    if isinstance(entry["default"], dict):
        return _checked_map(name, value, entry["values"], error, where)
    allowed = entry["allowed"]
    patterns = entry.get("patterns", [])
    if not allowed or value in allowed or any(re.fullmatch(pattern, str(value)) for pattern in patterns):
        return value
    expected = ", ".join(str(word) for word in [*allowed, *patterns])
    raise error(f"{where}: policy `{name}` cannot be {value!r}; allowed: {expected}")


def _checked_map(
    name: str, value: Any, allowed: Sequence[str], error: type[SettingsError] | type[UsageError], where: str
) -> dict[str, str]:
    if not isinstance(value, dict) or any(word not in allowed for word in value.values()):
        raise error(f"{where}: policy `{name}` expects a table of URL = one of {', '.join(allowed)}")
    return dict(value)
