"""Which numbered rules of the specifications this version claims, and which tests bear their numbers.

A rule is proven by a test named after it (`test_e17_…`, leading zeros and case do not count) or by a spec-test folder
whose README names it. A rule that is claimed here and proven nowhere fails `tests/architecture/test_rules.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAMED = re.compile(r"def test_([a-z])0*(\d+)[a-z]?_")
WRITTEN = re.compile(r"\b([EIPLMVS])(\d{1,3})\b")

# By specification: P platform, E etl, I imaging, L labeling, M modeling, V evaluation, S synthetic.
CLAIMED = {
    "P": "1-3, 5, 6, 10-17, 20-24, 26, 30, 32, 33, 50-54",
    "E": "1-5, 14-20, 22-25, 27-38, 41-60, 67-80, 82-89, 91-97",
    "I": "1-14, 18, 20-27, 30-35, 39-45, 50-53, 55-59, 61-68, 72-78, 80-82, 84",
    "L": "1-80, 83, 92-94",
    "M": "1-8, 10-17, 22-27, 29-50, 54, 59, 61, 62, 64, 66-69, 76-78, 80-85, 93, 94, 96, 99-105",
    "V": "1-12, 38-42",
    "S": "1-25, 27-44, 46-55",
}


def claimed() -> list[str]:
    """Return every claimed rule, for example `E17`."""
    return [f"{letter}{number}" for letter, text in CLAIMED.items() for number in _numbers(text)]


def proven() -> set[str]:
    """Return every rule whose number a test or a spec-test folder bears."""
    found = {
        f"{letter.upper()}{number}"
        for path in ROOT.rglob("test_*.py")
        for letter, number in NAMED.findall(path.read_text(encoding="utf-8"))
    }
    for path in (ROOT / "spec").rglob("README.md"):
        found |= {letter + number for letter, number in WRITTEN.findall(path.read_text(encoding="utf-8"))}
    return found


def _numbers(text: str) -> list[int]:
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers
