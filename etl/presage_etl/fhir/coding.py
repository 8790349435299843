"""FHIR codings → vocabulary lookups: which vocabulary a system URI means and how its codes are written there (E29–E31).

Normalisers affect the lookup only; the code as received stays the source value.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from presage_platform.errors import SettingsError
from presage_platform.omop.vocabulary import CONCEPT_ID

Setting = Literal["general", "laboratory", "drug", "procedure"]
Refusal = Literal["unknown-system", "no-system", "expression"]

NO_SYSTEM = "px-nosystem"
CONCEPT_ID_SYSTEM = "http://fhir-terminology.ohdsi.org"
Normaliser = Callable[[str], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class CodeSystem:
    """One code system: its vocabularies in order, the spelling of its codes, its rank among other systems."""

    vocabularies: tuple[str, ...]
    normalise: str = ""
    family: str = "other"
    procedure_vocabularies: tuple[str, ...] = ()
    local: bool = False


@dataclass(frozen=True, slots=True)
class Lookup:
    """The (vocabulary, code) pairs to try for one coding, in order; a refusal says why there are only local ones."""

    pairs: tuple[tuple[str, str], ...]
    family: str
    refusal: Refusal | None = None
    only_one: bool = False
    """The spellings are guesses: accept only when exactly one of them exists."""


class SiteSystem(Protocol):
    """A code system of the site, as platform.toml declares it (E30)."""

    @property
    def vocabularies(self) -> tuple[str, ...]: ...
    @property
    def normalise(self) -> str | None: ...
    @property
    def local(self) -> str | None: ...


class CodeSystems:
    """All code systems that this run knows: those of presage and those of the site."""

    def __init__(self, site: Mapping[str, SiteSystem] | None = None) -> None:
        systems, self._order = _shipped()
        self._systems = dict(systems)
        for uri, declared in (site or {}).items():
            self._systems[canonical_uri(uri)] = _site_system(uri, declared)

    def lookup(self, system: str | None, code: str, setting: Setting = "general") -> Lookup:
        """Return what to look up for a coding."""
        if not system:
            return Lookup(((NO_SYSTEM, code.strip()),), "other", "no-system")
        uri = canonical_uri(system)
        if uri == CONCEPT_ID_SYSTEM:
            return Lookup(((CONCEPT_ID, code.strip()),), "snomed")
        known = self._systems.get(uri)
        if known is None:
            return Lookup(((local_vocabulary(uri), code.strip()),), "other", "unknown-system")
        if known.normalise == "no-expression" and any(sign in code for sign in ":+="):
            return Lookup((), known.family, "expression")
        vocabularies = known.vocabularies
        if setting == "procedure" and known.procedure_vocabularies:
            vocabularies = known.procedure_vocabularies
        # ICD9Proc writes its dot after two characters where ICD9CM does after three
        pairs = [
            (vocabulary, spelling)
            for vocabulary in vocabularies
            for spelling in _spellings(known.normalise, vocabulary, code)
        ]
        distinct = tuple(dict.fromkeys(pairs))
        return Lookup(distinct, known.family, only_one=known.normalise == "ndc11" and len(distinct) > 1)

    def rank(self, family: str, setting: Setting) -> int:
        """Return the place of a family in the order of preference for this setting; smaller goes first."""
        order = self._order["general" if setting == "procedure" else setting]
        return order.index(family) if family in order else len(order) - 1


def canonical_uri(system: str) -> str:
    """Bring the spellings of one code system's URI to one form (E29)."""
    return _canonical(system)


@cache
def _shipped() -> tuple[dict[str, CodeSystem], dict[str, list[str]]]:
    declared = tomllib.loads(files("presage_etl.fhir").joinpath("code_systems.toml").read_text(encoding="utf-8"))
    systems: dict[str, CodeSystem] = {}
    for entry in declared["system"]:
        known = CodeSystem(
            vocabularies=tuple(entry["vocabularies"]),
            normalise=entry.get("normalise", ""),
            family=entry.get("family", "other"),
            procedure_vocabularies=tuple(entry.get("procedure_vocabularies", ())),
        )
        systems.update({canonical_uri(uri): known for uri in entry["uris"]})
    return systems, declared["order"]


def _canonical(system: str) -> str:
    uri = system.strip().partition("|")[0].rstrip("/")
    if uri[:4].lower() != "http":
        return uri
    try:
        parts = urlsplit(uri)
    except ValueError:  # an address that no browser would take is a system of its own
        return uri
    if parts.netloc.lower() == "snomed.info" and parts.path.startswith("/sct"):
        return "http://snomed.info/sct"
    return f"http://{parts.netloc.lower()}{parts.path}" + (f"?{parts.query}" if parts.query else "")


def _site_system(uri: str, declared: SiteSystem) -> CodeSystem:
    normalise = declared.normalise or ""
    if normalise and normalise not in NORMALISERS:
        raise SettingsError(
            f"etl.code_systems: unknown normaliser {normalise!r}; expected one of {', '.join(sorted(NORMALISERS))}"
        )
    if declared.local:
        return CodeSystem((declared.local,), normalise, local=True)
    if not declared.vocabularies:
        raise SettingsError(f"etl.code_systems: {uri!r} names neither vocabularies nor a local vocabulary")
    families = {known.vocabularies: known.family for known in _shipped()[0].values()}
    return CodeSystem(declared.vocabularies, normalise, families.get(declared.vocabularies, "other"))


def local_vocabulary(uri: str) -> str:
    """Return the vocabulary id under which codes of an unknown system can be exported and mapped (E30)."""
    return f"px-{blake2b(uri.encode(errors='surrogatepass'), digest_size=4).hexdigest()}"


def _spellings(normalise: str, vocabulary: str, code: str) -> tuple[str, ...]:
    if vocabulary == "ICD9Proc" and normalise == "icd9-dot":
        normalise = "icd9proc-dot"
    code = code.strip()
    return NORMALISERS[normalise](code) if normalise else (code,)


def _dotted(code: str, after: int) -> tuple[str, ...]:
    if "." in code or len(code) <= after:
        return (code,)
    return (f"{code[:after]}.{code[after:]}",)


def icd10_dot(code: str) -> tuple[str, ...]:
    """`E119` → `E11.9`."""
    return _dotted(code.upper(), 3)


def icd10gm(code: str) -> tuple[str, ...]:
    """As ICD-10, without the German marks `*`, `†`, `!`."""
    return icd10_dot(code.strip("*†!"))


def icd9_dot(code: str) -> tuple[str, ...]:
    """`25000` → `250.00`, `E8788` → `E878.8`."""
    code = code.upper()
    return _dotted(code, 4 if code.startswith("E") else 3)


def icd9proc_dot(code: str) -> tuple[str, ...]:
    """`3995` → `39.95`."""
    return _dotted(code, 2)


def ndc11(code: str) -> tuple[str, ...]:
    """Pad an NDC to 5-4-2 digits without dashes; ten digits without dashes give the three paddings (E31)."""
    parts = code.split("-")
    if len(parts) == 3 and all(part.isdigit() for part in parts):
        widths = (5, 4, 2)
        if all(len(part) <= width for part, width in zip(parts, widths, strict=True)):
            return ("".join(part.zfill(width) for part, width in zip(parts, widths, strict=True)),)
    digits = code.replace("-", "")
    if len(digits) == 10 and digits.isdigit():
        return (f"0{digits}", f"{digits[:5]}0{digits[5:]}", f"{digits[:9]}0{digits[9:]}")
    return (digits,)


def leading_zeros(code: str) -> tuple[str, ...]:
    """Try a CVX code as it is written, then without its leading zeros."""
    return tuple(dict.fromkeys((code, code.lstrip("0") or code)))


def two_digits(code: str) -> tuple[str, ...]:
    """`1` → `01`."""
    return (code.zfill(2),)


NORMALISERS: Mapping[str, Normaliser] = {
    "icd10-dot": icd10_dot,
    "icd10gm": icd10gm,
    "icd9-dot": icd9_dot,
    "icd9proc-dot": icd9proc_dot,
    "ndc11": ndc11,
    "leading-zeros": leading_zeros,
    "two-digits": two_digits,
    "upper": lambda code: (code.upper(),),
    "no-dot": lambda code: (code.replace(".", "").upper(),),
    "strip-modifier": lambda code: (code[:5],),
    "no-expression": lambda code: (code,),
}


class CodingSet:
    """The distinct codings of a block of resources, gathered before one query resolves them all (E38)."""

    __slots__ = ("groups", "pairs")

    def __init__(self) -> None:
        self.pairs: set[tuple[str | None, str]] = set()
        self.groups: set[tuple[tuple[str | None, str], ...]] = set()

    def add(self, codings: Iterable[Any]) -> None:
        """Take the codings of one idea; several of them are also kept together, to compare their targets (E33)."""
        pairs = [(coding.system, coding.code) for coding in codings if coding.code]
        self.pairs.update(pairs)
        if len(pairs) > 1:
            self.groups.add(tuple(pairs))

    def add_code(self, system: str | None, code: str | None) -> None:
        """Take one code that stands alone, such as a unit."""
        if code:
            self.pairs.add((system, code))
