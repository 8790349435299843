"""A task file: YAML in a leading comment, then one query, with `-- @at_risk` and `-- @censor` blocks if need be.

    /*---
    task: pleural_effusion
    version: 1
    title: First pleural effusion diagnosis after the scan
    concept_sets:
      outcome: {include: ["SNOMED:60046008"], descendants: true, expect_concept_id: 254061}
    requires: [condition_occurrence]
    ---*/
    select i.study_id, c.condition_start_date as event_date …

The body returns candidate events only. What lies after t0, comes first, is censored or competing is decided by the
engine, so that a wrong condition in a query cannot leak the future.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from presage_platform.errors import InputError, TaskError
from presage_platform.labeling.tasks.front_matter import WITHOUT_BODY, FrontMatter

MAX_BYTES = 64 * 1024
NAME = re.compile(r"[a-z][a-z0-9_]{2,62}")
FRONT_MATTER = re.compile(r"\A/\*---[ \t]*\n(?P<yaml>.*?)\n---\*/[ \t]*(?:\n(?P<body>.*))?\Z", re.DOTALL)
BLOCK = re.compile(r"^--[ \t]*@(?P<name>at_risk|censor)[ \t]*$", re.MULTILINE)
BLOCK_AT = {name: re.compile(rf"^--[ \t]*@{name}[ \t]*$", re.MULTILINE) for name in ("at_risk", "censor")}


@dataclass(frozen=True)
class Task:
    """One task as read from its file: front matter, and the queries of its body and blocks (None = absent)."""

    path: Path
    front: FrontMatter
    body: str
    at_risk: str | None
    censor: str | None
    source: str

    def line_of(self, block: str) -> int:
        """Return the line of the file on which the text of a block (`body`, `at_risk`, `censor`) begins."""
        text = {"body": self.body, "at_risk": self.at_risk, "censor": self.censor}[block] or ""
        after = self.source.index("\n---*/") + len("\n---*/")
        marker = BLOCK_AT[block].search(self.source, after) if block in BLOCK_AT else None
        start = self.source.find(text, marker.end() if marker else after) if text else 0
        return self.source.count("\n", 0, max(start, 0)) + 1

    @property
    def name(self) -> str:
        """The task's name, which is the file's."""
        return self.front.task

    @property
    def body_hash(self) -> str:
        """sha256 of the whole file with line ends normalised: a changed definition is another task."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def lock_path(self) -> Path:
        """Where the resolved concepts stand."""
        return self.path.with_name(f"{self.name}.lock.json")

    @property
    def fixture_path(self) -> Path:
        """Where the task's own tests stand."""
        return self.path.parent / (self.front.tests or f"tests/{self.name}.yaml")

    @property
    def min_lag_days(self) -> int:
        """Days after t0 before an event may count: one day when conditions are read, since billing lags the scan."""
        if self.front.min_lag_days is not None:
            return self.front.min_lag_days
        return 1 if self.reads_conditions else 0

    @property
    def has_body(self) -> bool:
        """True where a query returns the candidate events; false where concepts or a cohort name them."""
        return self.front.kind not in WITHOUT_BODY

    @property
    def reads_conditions(self) -> bool:
        """True for a task fed by conditions; one without a body is taken to be, unless `requires` says otherwise."""
        if not self.has_body and not self.front.requires:
            return True
        return "condition_occurrence" in self.front.requires

    @property
    def follows_death(self) -> bool:
        """True for a task whose event is death."""
        return "death" in self.front.requires


def read_task(path: Path) -> Task:
    """Read and validate one task file.

    Raises
    ------
    TaskError
        One line that names the task and what is wrong with its front matter.
    InputError
        When the file cannot be read.
    """
    name = path.stem
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"task {name}: {path} cannot be read ({error.strerror})") from None
    return parse_task(raw, path)


def parse_task(raw: bytes, path: Path) -> Task:
    """Parse the bytes of a task file; `path` gives the name."""
    name = path.stem
    if len(raw) > MAX_BYTES:
        raise TaskError(f"task {name}: {len(raw)} bytes, expected at most {MAX_BYTES}")
    try:
        source = raw.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise TaskError(f"task {name}: not UTF-8: save the file as UTF-8") from None
    match = FRONT_MATTER.match(source)
    if match is None:
        raise TaskError(f"task {name}: no front matter, expected YAML between /*--- and ---*/ at the start of the file")
    front = _front_matter(name, match["yaml"])
    parts = BLOCK.split(match["body"] or "")
    blocks = dict(zip(parts[1::2], (text.strip() for text in parts[2::2]), strict=True))
    body = parts[0].strip()
    if front.kind in WITHOUT_BODY and (body or blocks):
        raise TaskError(f"task {name}: `kind: {front.kind}` has no body, expected nothing after the front matter")
    if front.kind not in WITHOUT_BODY and not body:
        raise TaskError(f"task {name}: no body, expected one query after the front matter")
    return Task(path, front, body, blocks.get("at_risk"), blocks.get("censor"), source)


def find_tasks(folder: Path) -> list[Task]:
    """Read every `.sql` file of a folder, by name."""
    return [read_task(path) for path in sorted(folder.glob("*.sql"))] if folder.is_dir() else []


def _front_matter(name: str, text: str) -> FrontMatter:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 2}" if mark is not None else ""
        raise TaskError(f"task {name}: the front matter is not valid YAML{place}") from None
    if not isinstance(document, dict):
        raise TaskError(
            f"task {name}: the front matter holds no keys, expected at least task, version, title, requires"
        )
    try:
        front = FrontMatter.model_validate(document)
    except ValidationError as error:
        raise TaskError(f"task {name}: {_problem(error)}") from None
    if front.task != name or not NAME.fullmatch(name):
        raise TaskError(f"task {name}: names itself `{front.task}`, expected the file's name in [a-z][a-z0-9_]{{2,62}}")
    return front


def _problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = [field.alias or key for key, field in FrontMatter.model_fields.items()]
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        return f"unknown key `{place}`" + (f", did you mean `{near[0]}`?" if near else "")
    message = first["msg"].removeprefix("Value error, ")
    return f"`{place}` {message}" if place else message
