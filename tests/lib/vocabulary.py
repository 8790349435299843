"""A tiny OMOP vocabulary by hand: enough concepts to show every rule of code resolution, in memory or as Athena files.

Ids from 2,000,000,000 on are invented; so is everything that no published source confirms.
"""

from __future__ import annotations

import csv
import gzip
import zipfile
from collections.abc import Iterable, Mapping
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

from presage_etl.fhir.coding import CodeSystems
from presage_etl.fhir.concepts import find_concepts
from presage_etl.fhir.context import Context
from presage_etl.policies import read_policies
from presage_platform.omop.vocabulary import Pair, Resolution, Target

EXTRACTED = date(2024, 6, 30)

# id, vocabulary, code, domain, standard, invalid, name
CONCEPTS = """
201820|SNOMED|73211009|Condition|S||Diabetes mellitus
201826|SNOMED|44054006|Condition|S||Type 2 diabetes mellitus
255848|SNOMED|233604007|Condition|S||Pneumonia
321052|SNOMED|400047006|Condition|S||Peripheral vascular disease
440417|SNOMED|59282003|Condition|S||Pulmonary embolism
4163872|SNOMED|399208008|Procedure|S||Plain chest X-ray
4120120|SNOMED|302497006|Procedure|S||Hemodialysis
4030875|SNOMED|14106009|Device|S||Cardiac pacemaker
4001225|SNOMED|119297000|Specimen|S||Blood specimen
4132161|SNOMED|26643006|Route|S||Oral route
4240903|SNOMED|91936005|Observation|S||Allergy to penicillin
4222295|SNOMED|716186003|Observation|S||No known allergy
4298794|SNOMED|8517006|Observation|S||Ex-smoker
439224|SNOMED|416098002|Observation|S||Allergy to drug
2000000001|SNOMED|247472004|Condition|S||Weal
2000000002|SNOMED|111111111|Condition||U|Pneumonia, retired code
2000000003|SNOMED|165816005|Condition/Meas|S||HIV positive
2000000004|SNOMED|372687004|Observation|||Amoxicillin, the substance
2000000005|SNOMED|51185008|Spec Anatomic Site|S||Thorax
2000000006|SNOMED|71388002|Metadata|S||A term of a domain without a table
2000000007|SNOMED|723511001|Observation|S||Refuted
2000000008|SNOMED|385660001|Observation|S||Not done
2000000009|SNOMED|419099009|Observation|S||Dead
2000000010|SNOMED|419199007|Observation|S||Allergic disposition
2000000011|SNOMED|183452005|Visit|S||Emergency hospital admission
2000000012|SNOMED|222222222|Condition|S|D|Standard once, deleted today
4171756|SNOMED|276139006|Meas Value Operator|S||<
4171754|SNOMED|276137008|Meas Value Operator|S||<=
4172704|SNOMED|276140008|Meas Value Operator|S||>
4188027|SNOMED|414285001|Observation|S||Allergy to food
4240582|SNOMED|59037007|Observation|S||Drug intolerance
4013886|SNOMED|103579009|Observation|S||Race
2000000101|ICD10CM|E11.9|Condition|||Type 2 diabetes mellitus without complications
2000000102|ICD10CM|E11.51|Condition|||Type 2 diabetes mellitus with peripheral angiopathy
2000000103|ICD10CM|Z88.0|Observation|||Allergy status to penicillin
2000000104|ICD10CM|Z99.99|Observation|||Maps to what is no longer valid
2000000105|ICD10|J18|Condition|||Pneumonia, organism unspecified
2000000106|ICD9CM|250.00|Condition|||Diabetes mellitus without complication
2000000107|ICD9Proc|39.95|Procedure|||Hemodialysis
2000000108|ICD10CM|R76.8|Measurement|||One code for two measurements
3000963|LOINC|718-7|Measurement|S||Hemoglobin [Mass/volume] in Blood
3004249|LOINC|8480-6|Measurement|S||Systolic blood pressure
3012888|LOINC|8462-4|Measurement|S||Diastolic blood pressure
40762499|LOINC|85354-9|Measurement|S||Blood pressure panel
43054909|LOINC|72166-2|Observation|S||Tobacco smoking status
2000000201|LOINC|99999-9|Measurement|||Not standard, maps nowhere
2000000202|LOINC|LA33-6|Meas Value|S||Yes
2000000203|LOINC|LA32-8|Meas Value|S||No
2000000204|LOINC|LA0001-1|Meas Value|S||High
2000000205|LOINC|LA0002-2|Meas Value|S||Low
2000000206|LOINC|24627-2|Procedure|S||CT Chest
8713|UCUM|g/dL|Unit|S||gram per deciliter
8876|UCUM|mm[Hg]|Unit|S||millimeter mercury column
8840|UCUM|mg/dL|Unit|S||milligram per deciliter
1713332|RxNorm|723|Drug|S||amoxicillin
1728416|RxNorm|7980|Drug|S||penicillin G
2000000301|RxNorm|308182|Drug|S||amoxicillin 250 MG Oral Capsule
2000000302|NDC|00093310901|Drug|||Amoxicillin 250 mg, package
2000000303|NDC|12345067890|Drug|||Package with two spellings
2000000304|NDC|01234567890|Drug|||Package with two spellings, the other one
2000000305|ATC|J01CA04|Drug|C||amoxicillin; systemic
40213154|CVX|140|Drug|S||influenza, seasonal, injectable, preservative free
2000000306|CVX|8|Drug|S||Hepatitis B vaccine, written without its zero
8870|CMS Place of Service|23|Visit|S||Emergency Room - Hospital
2000000401|DICOM|CT|Observation|S||Computed Tomography
38004456|NUCC|207R00000X|Provider|S||Internal Medicine
2000000402|UB04 Pt dis status|30|Visit|||Still patient
2000000403|Race|2028-9|Race|||Asian, detailed
2000000501|CDM|measurement.measurement_id|Metadata|S||measurement.measurement_id
2000000502|CDM|observation.observation_id|Metadata|S||observation.observation_id
2000000503|Type Concept|patient-filled-survey|Type Concept|S||Patient filled survey
"""

# source id, relationship, target id, invalid
RELATIONSHIPS = """
2000000002|Maps to|255848|
2000000004|Maps to|1713332|
2000000101|Maps to|201826|
2000000102|Maps to|321052|
2000000102|Maps to|201826|
2000000103|Maps to|439224|
2000000103|Maps to value|1728416|
2000000104|Maps to|2000000012|
2000000105|Maps to|255848|
2000000106|Maps to|201826|
2000000107|Maps to|4120120|
2000000108|Maps to|3004249|
2000000108|Maps to|3000963|
2000000302|Maps to|2000000301|
2000000303|Maps to|2000000301|
2000000304|Maps to|2000000301|
2000000305|Maps to|1713332|D
2000000403|Maps to|8515|
201826|Maps to|201826|
"""

# ancestor id, descendant id
ANCESTORS = [(201820, 201826), (201820, 201820), (201826, 201826)]

# source vocabulary, source code, target id: rows of source_to_concept_map
LOCAL_MAP = [("HOSP_LAB", "HB", 3000963), ("LOINC", "99999-9", 3012888)]


def concept_rows() -> list[dict[str, str]]:
    """Return the rows of the concept table: those above, and the concept floor."""
    rows = []
    for line in CONCEPTS.strip().splitlines():
        concept_id, vocabulary, code, domain, standard, invalid, name = line.split("|")
        rows.append(_concept(concept_id, name, domain, vocabulary, domain, standard, code, invalid))
    known = {row["concept_id"] for row in rows}
    floor = files("presage_platform.omop").joinpath("concept_floor.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(floor.splitlines()):
        if row["concept_id"] not in known:
            rows.append(
                _concept(
                    row["concept_id"],
                    row["concept_name"],
                    row["domain_id"],
                    row["vocabulary_id"],
                    row["concept_class_id"],
                    row["standard_concept"],
                    f"floor-{row['concept_id']}",
                    "",
                )
            )
    return rows


def _concept(
    concept_id: str, name: str, domain: str, vocabulary: str, concept_class: str, standard: str, code: str, invalid: str
) -> dict[str, str]:
    return {
        "concept_id": concept_id,
        "concept_name": name,
        "domain_id": domain,
        "vocabulary_id": vocabulary,
        "concept_class_id": concept_class,
        "standard_concept": standard,
        "concept_code": code,
        "valid_start_date": "19700101",
        "valid_end_date": "20991231",
        "invalid_reason": invalid,
    }


def relationship_rows() -> list[dict[str, str]]:
    """Return the rows of concept_relationship."""
    rows = []
    for line in RELATIONSHIPS.strip().splitlines():
        source, relationship, target, invalid = line.split("|")
        rows.append(
            {
                "concept_id_1": source,
                "concept_id_2": target,
                "relationship_id": relationship,
                "valid_start_date": "19700101",
                "valid_end_date": "20991231",
                "invalid_reason": invalid,
            }
        )
    return rows


class TinyVocabulary:
    """The tiny vocabulary in memory: E32 in the plainest Python, an oracle for the one that asks the database."""

    def __init__(self, local_map: str = "fallback") -> None:
        self.concepts = {int(row["concept_id"]): row for row in concept_rows()}
        self.local_map = local_map
        self.num_asked = 0

    def resolve(self, pairs: Iterable[Pair]) -> dict[Pair, Resolution]:
        """Return the resolution of every pair."""
        self.num_asked += 1
        return {pair: self._resolve(pair) for pair in pairs}

    def _resolve(self, pair: Pair) -> Resolution:
        vocabulary, code = pair
        sources = sorted(
            (row["invalid_reason"] != "", concept_id)
            for concept_id, row in self.concepts.items()
            if (row["vocabulary_id"], row["concept_code"]) == pair
            or (vocabulary == "concept_id" and code == str(concept_id))
        )
        source = sources[0][1] if sources else 0
        links = [row for row in relationship_rows() if int(row["concept_id_1"]) == source]
        targets = self._usable(links, "Maps to")
        values = self._usable(links, "Maps to value")
        if not targets and source and self._is_standard(source):
            targets = [source]
        local = [target for v, c, target in LOCAL_MAP if (v, c) == pair]
        if local and (self.local_map == "override" or not targets):
            targets = local if self.local_map != "none" else targets
        if targets:
            return Resolution(source, self._targets(targets), self._targets(values), None)
        if not source:
            return Resolution(0, (), (), "unknown-code")
        refused = any(row["relationship_id"] == "Maps to" for row in links)
        return Resolution(source, (), self._targets(values), "invalid-target" if refused else "no-standard-map")

    def _usable(self, links: list[dict[str, str]], relationship: str) -> list[int]:
        return [
            int(row["concept_id_2"])
            for row in links
            if row["relationship_id"] == relationship
            and row["invalid_reason"] == ""
            and self._is_standard(int(row["concept_id_2"]))
        ]

    def _is_standard(self, concept_id: int) -> bool:
        row = self.concepts[concept_id]
        return row["standard_concept"] == "S" and row["invalid_reason"] == ""

    def _targets(self, ids: Iterable[int]) -> tuple[Target, ...]:
        return tuple(Target(concept_id, self.concepts[concept_id]["domain_id"]) for concept_id in sorted(set(ids)))

    def ancestry(self, concept_ids: Iterable[int]) -> set[tuple[int, int]]:
        """Return the (ancestor, descendant) pairs among these concepts."""
        ids = set(concept_ids)
        return {(a, d) for a, d in ANCESTORS if a != d and a in ids and d in ids}

    def named(self, names: list[Pair]) -> Mapping[Pair, int]:
        """Return ids by (vocabulary, name or code)."""
        return {
            (row["vocabulary_id"], word): concept_id
            for concept_id, row in self.concepts.items()
            for word in (row["concept_name"], row["concept_code"])
            if (row["vocabulary_id"], word) in names
        }

    def existing(self, concept_ids: Iterable[int]) -> set[int]:
        """Return those ids that exist."""
        return set(concept_ids) & self.concepts.keys()


def tiny_context(
    policies: Mapping[str, Any] | None = None, *, systems: CodeSystems | None = None, vocabulary: Any = None
) -> Context:
    """Return a context over the tiny vocabulary, extracted on 2024-06-30."""
    chosen = read_policies(policies)
    tiny = vocabulary or TinyVocabulary(chosen["local_map"])
    return Context(tiny, find_concepts(TinyVocabulary()), policies=chosen, extraction_date=EXTRACTED, systems=systems)


def write_athena(
    folder: Path, *, compress: bool = False, release: str | None = "v5.0 tiny", floor: bool = True
) -> Path:
    """Write the tiny vocabulary as Athena files: tab separated, no quotes."""
    folder.mkdir(parents=True, exist_ok=True)
    concepts = [row for row in concept_rows() if floor or not row["concept_code"].startswith("floor-")]
    _write(folder / "CONCEPT.csv", concepts, compress)
    _write(folder / "CONCEPT_RELATIONSHIP.csv", relationship_rows(), compress)
    _write(folder / "CONCEPT_ANCESTOR.csv", _ancestor_rows(), compress)
    _write(folder / "VOCABULARY.csv", _vocabulary_rows(release), compress)
    return folder


def _ancestor_rows() -> list[dict[str, str]]:
    return [
        {
            "ancestor_concept_id": str(ancestor),
            "descendant_concept_id": str(descendant),
            "min_levels_of_separation": str(int(ancestor != descendant)),
            "max_levels_of_separation": str(int(ancestor != descendant)),
        }
        for ancestor, descendant in ANCESTORS
    ]


def _vocabulary_rows(release: str | None) -> list[dict[str, str]]:
    names = ["SNOMED", "LOINC"] + (["None"] if release else [])
    return [
        {
            "vocabulary_id": name,
            "vocabulary_name": name,
            "vocabulary_reference": "",
            "vocabulary_version": (release or "") if name == "None" else "",
            "vocabulary_concept_id": "0",
        }
        for name in names
    ]


def _write(path: Path, rows: list[dict[str, str]], compress: bool) -> None:
    lines = ["\t".join(rows[0])] + ["\t".join(row.values()) for row in rows]
    data = ("\n".join(lines) + "\n").encode()
    if compress:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(data))
    else:
        path.write_bytes(data)


def zip_folder(folder: Path, target: Path) -> Path:
    """Pack the files of a folder into a zip archive."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    return target
