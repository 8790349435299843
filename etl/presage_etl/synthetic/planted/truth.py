"""What planted image defects change in the truth: who is linked, which series is chosen, how much of everything.

Also decides, from the rows of truth alone, which study bears which defect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from presage_etl.synthetic.identifiers import accession, study_key
from presage_etl.synthetic.lives.persons import draw_person
from presage_etl.synthetic.parameters import Parameters
from presage_etl.synthetic.planted.dicom import BY_KIND, Assignment, assign
from presage_etl.synthetic.planted.identity import Claim, Extra
from presage_etl.synthetic.planted.series import FIRST_INSTANCE, Facts
from presage_etl.synthetic.planted.study import PlantedStudy
from presage_etl.synthetic.records.omop import Row, When, study_rows

Rows = list[dict[str, Any]]
Counted = tuple[str, str, str, int]  # stage, kind, name, number

ONLY_CANDIDATE = "only candidate"
_TEXTS = pa.list_(pa.string())
PLANTED_DICOM = pa.schema(
    [
        ("study", pa.string()),
        ("study_uid", pa.string()),
        ("series_uid", pa.string()),
        ("group", pa.string()),
        ("kind", pa.string()),
        ("fixture", pa.string()),
        ("sop_uids", _TEXTS),
        ("touched", _TEXTS),
        ("verdict", pa.string()),
        ("reasons", _TEXTS),
        ("actions", _TEXTS),
        ("used", _TEXTS),
        ("volume_sha256", pa.string()),
        ("affine_ras", pa.list_(pa.float64())),
        ("shape_zyx", pa.list_(pa.int64())),
        ("chosen", pa.bool_()),
        ("beside", _TEXTS),
    ]
)


@dataclass(frozen=True)
class Plan:
    """Which study bears which defect, and what the record must hold for it."""

    assignments: Mapping[str, Assignment] = field(default_factory=dict)
    extras: tuple[Extra, ...] = ()

    @property
    def claims(self) -> list[Claim]:
        """Further ImagingStudies of the record."""
        return [extra.claim for extra in self.extras if extra.claim is not None]

    def of(self, studies: Iterable[tuple[int, int]]) -> dict[str, Assignment]:
        """The defects of some studies, by person and scan."""
        keys = {study_key(*study) for study in studies}
        return {study: assignment for study, assignment in self.assignments.items() if study in keys}

    def cdm_rows(self, parameters: Parameters, modality: int) -> Iterator[Row]:
        """CDM rows that the extra resources make; `modality` is the concept of CT."""
        for claim in self.claims:
            person = draw_person(parameters, int(claim.person[1:]))
            uids = claim.study_uid, claim.series_uid
            yield from study_rows(person, claim.identity, When(claim.t0), None, *uids, modality)


def write_extras(folder: Path, plan: Plan) -> dict[str, int]:
    """Write the extra resources as files of an export; return lines by file name."""
    by_type: dict[str, list[bytes]] = {}
    for extra in plan.extras:
        by_type.setdefault(extra.resource["resourceType"], []).append(orjson.dumps(extra.resource) + b"\n")
    counts = {}
    for kind, lines in sorted(by_type.items()):
        name = f"{kind}.traps.ndjson"
        (folder / name).write_bytes(b"".join(lines))
        counts[name] = len(lines)
    return counts


def make_plan(parameters: Parameters, tables: Mapping[str, Rows]) -> Plan:
    """Plan the defects from the tables of truth `joins`, `scans`, `persons` and `death_censor`."""
    if not (parameters.defects.dicom_all or parameters.defects.dicom_rate) or "dicom" not in parameters.modes:
        return Plan()
    assignments = assign(parameters, study_facts(parameters, tables))
    uids = {row["study"]: row["study_uid"] for row in tables["joins"]}
    extras = []
    for study, assignment in sorted(assignments.items()):
        make = BY_KIND[assignment.kind].extra
        if make is not None:
            extras.append(make(assignment.facts, uids[study]))
    return Plan(assignments, tuple(extras))


def study_facts(parameters: Parameters, tables: Mapping[str, Rows]) -> list[Facts]:
    """What the hospital knows of each study, in order of their keys; studies without a person bear no defect."""
    births = {row["person"]: row["birth"] for row in tables["persons"]}
    deaths = {row["person"]: row["death_s"] for row in tables["death_censor"]}
    times = {row["study"]: row["t0_s"] for row in tables["scans"]}
    joins = sorted((row for row in tables["joins"] if row["patient"]), key=lambda row: str(row["study"]))
    recorded = [row for row in joins if row["imaging_study"]]
    found = []
    for place, row in enumerate(joins):
        other = _other_person(row, recorded, place)
        if other is None:
            continue
        index, scan = _numbers(row)
        other_index, other_scan = _numbers(other)
        found.append(
            Facts(
                study=row["study"],
                person=row["person"],
                person_index=index,
                scan=scan,
                t0=times[row["study"]],
                zone=parameters.calendar.zone,
                in_record=row["imaging_study"] is not None,
                birth=births[row["person"]],
                death_s=deaths[row["person"]],
                other_person=other["person"],
                other_mrn=f"SYN{other_index:07d}",
                other_accession=accession(other_index, other_scan),
                other_t0=times[other["study"]],
            )
        )
    return found


def planted_links(links: Rows, joins: Rows, planted: Iterable[PlantedStudy]) -> Rows:
    """Links with the fate of planted studies, and of the second studies that they brought."""
    uids = {row["study"]: row["study_uid"] for row in joins}
    rows = {row["study"]: row | {"study_uid": uids[row["study"]]} for row in links}
    for study in planted:
        first = study.rows[0]
        row = rows[first["study"]]
        row["study_uid"] = first["study_uid"]
        if study.link is not None:
            row |= {
                "person": row["person"] if study.link.reason is None else None,
                "class": study.link.link_class,
                "confidence": study.link.confidence,
                "reason": study.link.reason,
                "date_shift_days": study.link.date_shift_days,
            }
        if study.other_study is not None:
            other = f"{first['study']}+"
            rows[other] = row | {"study": other, "study_uid": study.other_study}
    return list(rows.values())


def chosen_rows(scans: Rows, planted: Iterable[PlantedStudy]) -> Rows:
    """The series that must represent each study; none where every candidate is rejected."""
    special = {study.chosen["study"]: study.chosen for study in planted}
    return [special.get(row["study"]) or _only(row) for row in scans]


def image_counts(links: Rows, joins: Rows, planted: Sequence[PlantedStudy], num_made: int, plan: Plan) -> list[Counted]:
    """Counts after `etl dicom` and `link`; those of tables add to what the record alone makes."""
    linked = [link for link in links if link["person"] is not None]
    quarantined = Counter(link["reason"] for link in links if link["person"] is None)
    series: dict[str, set[str]] = {row["study"]: {row["series_uid"]} for row in joins}
    recorded = {row["series_uid"] for row in joins if row["imaging_study"]}
    recorded |= {claim.series_uid for claim in plan.claims}
    verdicts = Counter({"ok": num_made - len(planted)})
    for study in planted:
        verdicts.update(row["verdict"] for row in study.rows)
        series[study.rows[0]["study"]] = {row["series_uid"] for row in study.rows if row["series_uid"]}
    images = recorded.union(*(series.get(link["study"], set()) for link in linked))
    made_by_link = sum(link["class"] == "patient_id" for link in linked)
    found: list[Counted] = [
        ("link", "table", "image_occurrence", len(images)),
        # A linked study without an order or procedure in the EHR gets one made by the link.
        ("link", "table", "procedure_occurrence", made_by_link),
        ("link", "linked", "all", len(linked)),
        ("images", "studies", "all", num_made + sum(study.other_study is not None for study in planted)),
    ]
    found += [("link", "quarantine", str(reason), number) for reason, number in quarantined.items()]
    return found + [("images", "verdict", verdict, number) for verdict, number in verdicts.items()]


def planted_table(planted: Iterable[PlantedStudy]) -> pa.Table:
    """The rows of `planted_dicom`."""
    return pa.Table.from_pylist([row for study in planted for row in study.rows], schema=PLANTED_DICOM)


def _only(row: dict[str, Any]) -> dict[str, Any]:
    first = f"{row['series_uid']}.{FIRST_INSTANCE}"
    return {
        "study": row["study"],
        "series_uid": row["series_uid"],
        "first_sop_uid": first,
        "reason": ONLY_CANDIDATE,
    }


def _numbers(join: dict[str, Any]) -> tuple[int, int]:
    """Numbers of person and scan."""
    person, scan = str(join["study"])[1:].split("-")
    return int(person), int(scan)


def _other_person(row: dict[str, Any], recorded: Rows, place: int) -> dict[str, Any] | None:
    """Some other person's study that the record knows: the next one, around the end."""
    ahead = [recorded[(place + step) % len(recorded)] for step in range(len(recorded))]
    return next((other for other in ahead if other["person"] != row["person"]), None)
