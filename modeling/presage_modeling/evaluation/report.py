"""The report: one immutable folder with report.json, report.html drawn from it alone, and run.json with the clock."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from presage_modeling.evaluation import figures
from presage_platform.runs import canonical_json, sha256_json, write_atomically

SIGNIFICANT_DIGITS = 10
SUPPRESSED = "<11"
COUNT_FIELDS = ("num_studies", "num_persons", "num_events", "num_competing")

METRIC_NAMES = {
    "harrell_c": "Harrell C",
    "uno_c": "Uno C",
    "auc_t": "AUC(t)",
    "auroc": "AUROC",
    "observed_expected": "O/E",
}


def report_hash(inputs: dict[str, Any], settings: dict[str, Any]) -> str:
    """Return the name of a report: a hash over what it was made from and how."""
    return sha256_json({"inputs": inputs, "settings": settings})[:16]


def write_report(document: dict[str, Any], folder: Path) -> Path:
    """Write report.json and report.html into `folder` and return the page's path.

    Counts from 1 to 10 become "<11" (unless the data are declared synthetic), floats keep ten significant digits, so
    equal inputs give equal bytes.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    final = rounded(document if document["synthetic"] else suppressed(document))
    write_atomically(folder / "report.json", canonical_json(final, indent=1).encode())
    page = folder / "report.html"
    write_atomically(page, render(final).encode())
    return page


def render(document: dict[str, Any]) -> str:
    """Return the self-contained HTML page of a report document: no script, no request, system fonts."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(number=number, interval=interval, count=count, duration=duration, share=share)
    template = environment.from_string(
        (files("presage_modeling.evaluation") / "report.html.j2").read_text(encoding="utf-8")
    )
    return template.render(report=document, names=METRIC_NAMES, draw=figures.draw, answer=answer(document))


def read_report(path: Path) -> dict[str, Any]:
    """Read a report.json."""
    from presage_platform.errors import InputError

    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{path} is not a readable report.json: name one below reports/") from None
    if str(document.get("schema_version", "")).split(".")[0] != "1":
        raise InputError(f"{path} has another schema version, expected 1.x: evaluate again")
    return dict(document)


def answer(document: dict[str, Any]) -> str:
    """Return the one paragraph that says what was found, in words and with numbers."""
    summary = [row for row in document["summary"] if row["name"] == "harrell_c"]
    known = sorted((row for row in summary if row["estimate"] is not None), key=lambda row: -row["estimate"])
    if not known:
        return "No arm could be scored on every headline task; each table below says why."
    arms = "; ".join(f"{row['arm']} {number(row['estimate'])} {interval(row)}" for row in known)
    text = f"Mean Harrell C over {known[0]['num_tasks']} headline tasks, test persons only: {arms}."
    means = [row for row in document["comparisons"] if row["task"] is None and row["name"] == "harrell_c"]
    return text + "".join(f" {comparison_words(row)}" for row in means)


def comparison_words(row: dict[str, Any]) -> str:
    """Return a paired difference as a sentence that says whether its interval is clear of zero."""
    if row["low"] is None:
        return f"{row['first']} minus {row['second']}: {row['difference']:+.3f} (no interval)."
    clear = "clear of zero" if row["low"] > 0 or row["high"] < 0 else "not clear of zero"
    return (
        f"{row['first']} minus {row['second']}: {row['difference']:+.3f} "
        f"(95 % interval {row['low']:+.3f} to {row['high']:+.3f}, {clear})."
    )


def suppressed(value: Any, key: str = "") -> Any:
    """Return the document with every count from 1 to 10 shown as "<11"; zero stays zero."""
    if isinstance(value, dict):
        within = key in ("states", "lost", "num_studies", "num_persons")
        return {
            name: SUPPRESSED if (within or name in COUNT_FIELDS) and _small(item) else suppressed(item, name)
            for name, item in _with_states(value, key).items()
        }
    if isinstance(value, list):
        return [suppressed(item, key) for item in value]
    return value


def rounded(value: Any) -> Any:
    """Return the document with floats at ten significant digits; NaN and infinities are refused, never written."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        short = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
        if short != short or short in (float("inf"), float("-inf")):
            raise ValueError("a report holds a NaN or an infinity: a metric must be missing with a reason instead")
        return short
    return value


def number(value: float | None, digits: int = 3) -> str:
    """Return a number for people; a dash when missing."""
    return "–" if value is None else f"{value:.{digits}f}"


def interval(row: dict[str, Any]) -> str:
    """Return `(low–high)` of a row, or nothing."""
    return "" if row.get("low") is None else f"({row['low']:.3f}–{row['high']:.3f})"


def count(value: int | str | None) -> str:
    """Return a count with thin separators, or its suppressed form."""
    return f"{value:,}" if isinstance(value, int) else str(value if value is not None else "–")


def duration(days: float | None) -> str:
    """Return days as `n d` below two years, else as years."""
    if days is None:
        return "–"
    return f"{days:.0f} d" if days < 730 else f"{days / 365.25:.1f} y"


def share(value: float) -> str:
    """Return a share as a percentage."""
    return f"{100 * value:.1f} %"


def _small(item: Any) -> bool:
    return isinstance(item, int) and not isinstance(item, bool) and 1 <= item <= 10


def _with_states(value: dict[str, Any], key: str) -> dict[str, Any]:
    if key != "states":
        return value
    return {
        split: {state: SUPPRESSED if _small(number) else number for state, number in counts.items()}
        for split, counts in value.items()
    }
