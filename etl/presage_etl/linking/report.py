"""What `platform link` says: where every study stands, in counts that add up."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from presage_etl.linking.evidence import statement
from presage_platform.errors import IntegrityError

SHIFT_MIN_PERSONS = 20
SHIFT_SHARE = 0.05


@dataclass(slots=True)
class LinkReport:
    """Counts of one run and of the state it left; no identifier, no date of a person."""

    run_no: int = 0
    num_studies: int = 0
    num_examined: int = 0
    num_not_examined: int = 0
    linked: dict[str, dict[str, int]] = field(default_factory=dict)  # class → confidence → studies
    quarantined: dict[str, int] = field(default_factory=dict)  # reason → studies
    num_no_visit: int = 0
    num_rows_changed: int = 0
    num_rows_removed: int = 0
    num_procedures_synthetic: int = 0
    num_images: int = 0
    disagreements: dict[str, int] = field(default_factory=dict)
    mapping: dict[str, int] = field(default_factory=dict)
    record_studies: int = 0
    record_studies_without_image: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    date_shift: dict[str, float | int | None] = field(default_factory=dict)
    identifiers: str = "hashed"

    @property
    def num_linked(self) -> int:
        """Studies with a person."""
        return sum(sum(confidences.values()) for confidences in self.linked.values())

    @property
    def num_quarantined(self) -> int:
        """Studies without a person."""
        return sum(self.quarantined.values())

    @property
    def shifted_differently(self) -> bool:
        """True when so many persons are off that record and images cannot share one date shift."""
        persons, off = int(self.date_shift["persons"] or 0), int(self.date_shift["persons_off"] or 0)
        return persons >= SHIFT_MIN_PERSONS and off >= SHIFT_SHARE * persons

    def as_json(self) -> dict[str, Any]:
        """The report as one object."""
        return {**asdict(self), "num_linked": self.num_linked, "num_quarantined": self.num_quarantined}

    def summary(self) -> str:
        """The report as it is printed."""
        lines = [f"studies: {self.num_studies}, linked {self.num_linked}, in quarantine {self.num_quarantined}"]
        if self.num_not_examined:
            lines[0] += f", not examined {self.num_not_examined}: run `platform link`"
        for word, confidences in self.linked.items():
            lines.append(f"  linked by {word}: {_counts(confidences)}")
        for reason, count in self.quarantined.items():
            lines.append(f"  in quarantine, {reason}: {count}")
        if self.mapping:
            lines.append(f"mapping: {_counts(self.mapping)}")
        lines.append(
            f"series: {self.num_images} in image_occurrence; procedures: {self.num_procedures_synthetic} synthetic; "
            f"rows: {self.num_rows_changed} changed, {self.num_rows_removed} removed"
        )
        if self.disagreements:
            lines.append(f"record and images disagree: {_counts(self.disagreements)}")
        lines.append(
            f"images without person: {self.num_quarantined}; studies of the record without image: "
            f"{self.record_studies_without_image} of {self.record_studies}"
        )
        if self.verdicts:
            lines.append(f"series by verdict: {_counts(self.verdicts)}")
        lines += self._shift_lines()
        return "\n".join(lines)

    def _shift_lines(self) -> list[str]:
        shift = self.date_shift
        if not shift["pairs"]:
            return []
        lines = [
            f"date shift: {shift['pairs']} dated pairs, median {shift['median_days']:g} days, "
            f"{shift['persons_off']} of {shift['persons']} persons off by more than 2 days"
        ]
        if self.shifted_differently:
            lines.append("warning: EHR and images are shifted differently")
        return lines


def describe_standing(connection: psycopg.Connection[Any], report: LinkReport) -> None:
    """Fill in where all studies stand, and refuse counts that do not add up."""
    for place, word, confidence, studies in connection.execute(statement("standing")):
        if place == "linked":
            report.linked.setdefault(word, {})[confidence] = studies
        elif place == "quarantined":
            report.quarantined[word] = studies
        else:
            report.num_not_examined = studies
    row = connection.execute("SELECT count(*) FROM image_study").fetchone()
    report.num_studies = int(row[0]) if row else 0
    if report.num_linked + report.num_quarantined + report.num_not_examined != report.num_studies:
        raise IntegrityError(
            f"{report.num_linked} linked and {report.num_quarantined} quarantined studies do not add up to "
            f"{report.num_studies}: please report this; nothing was written"
        )
    report.verdicts = dict(connection.execute(statement("verdicts")).fetchall())
    found = connection.execute(statement("record_without_image")).fetchone()
    report.record_studies, report.record_studies_without_image = found or (0, 0)
    shift = connection.execute(statement("date_shift")).fetchone()
    assert shift is not None
    report.date_shift = dict(zip(("pairs", "median_days", "persons", "persons_off"), shift, strict=True))


def write_report(report: LinkReport, folder: Path) -> Path:
    """Write the report as text and JSON; returns the path of the JSON."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / f"link-{report.run_no}.txt").write_text(report.summary() + "\n", encoding="utf-8")
    path = folder / f"link-{report.run_no}.json"
    path.write_text(json.dumps(report.as_json(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{word} {count}" for word, count in sorted(counts.items()))
