"""The documents are true: commands, options, settings, tasks, links and terms that they name exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
HEREDOC = re.compile(r"<<'(?P<end>\w+)'\n(?P<text>.*?)^(?P=end)$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
TERM = re.compile(r"^- \*\*(?P<term>[^*]+)\*\*: (?P<sentence>.+) \*(?P<source>[^*]+)\*$", re.MULTILINE)


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def fenced(page: Path, *languages: str) -> list[str]:
    """Return the fenced blocks of a page in these languages."""
    return [m["text"] for m in FENCE.finditer(page.read_text("utf-8")) if m["language"] in languages]


def command_lines(page: Path) -> list[str]:
    """Return every line of a page that is typed as `platform …`: in shell blocks, and between backticks."""
    shell = [HEREDOC.sub("", block) for block in fenced(page, "sh", "bash", "shell", "console")]
    lines = [line.strip().removeprefix("$ ") for block in shell for line in block.replace("\\\n", " ").splitlines()]
    prose = FENCE.sub("", page.read_text("utf-8"))
    lines += [" ".join(span.split()) for span in re.findall(r"`(platform [^`]+)`", prose)]
    return [line for line in lines if line.startswith("platform ") and "…" not in line]


@cache
def command_tree() -> Any:
    import typer

    from presage_platform.cli import build_app

    return typer.main.get_command(build_app())


def fault(line: str) -> str | None:
    """Return what is wrong with a command line, None when command, options and number of arguments exist."""
    words = shlex.split(line, comments=True)[1:]
    command = command_tree()
    while hasattr(command, "commands"):
        if words in ([], ["--help"]):
            return None  # a group that is named as a whole
        if words[0] not in command.commands:
            return f"no command `{words[0]}`"
        command = command.commands[words.pop(0)]
    options = {name: p for p in command.params for name in p.opts if p.param_type_name == "option"}
    places = [p for p in command.params if p.param_type_name == "argument"]
    given = 0
    while words:
        word, _, value = words.pop(0).partition("=")
        if word == "--":
            break
        if not word.startswith("-"):
            given += 1
        elif word not in options and word != "--help":
            return f"no option `{word}`"
        elif not value and not (word == "--help" or options[word].is_flag or options[word].count):
            if not words:
                return f"option `{word}` without its value"
            words.pop(0)
    most = None if any(p.nargs == -1 for p in places) else len(places)
    return f"{given} arguments, at most {most}" if most is not None and given > most else None


def test_the_check_of_command_lines_sees_what_is_wrong() -> None:
    assert fault("platform etl dicom /data --recipe tiny  # a comment") is None
    assert fault("platform etl dicomweb http://x") == "no command `dicomweb`"
    assert fault("platform etl dicom /data --recipes tiny") == "no option `--recipes`"
    assert fault("platform embed one two") == "2 arguments, at most 1"
    assert fault("platform train tiny --arm") == "option `--arm` without its value"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_p10_every_command_line_exists(page: Path) -> None:
    faults = {line: found for line in command_lines(page) if (found := fault(line)) is not None}
    assert faults == {}


def test_the_pages_show_every_command_of_the_day() -> None:
    shown = {" ".join(line.split()[1:3]) for page in PAGES for line in command_lines(page)}
    for command in ("etl fhir", "etl dicom", "tasks lock", "tasks test", "db backup", "volumes verify", "train tiny"):
        assert command in shown


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_relative_link_resolves(page: Path) -> None:
    text = FENCE.sub("", page.read_text("utf-8"))
    broken = []
    for target in (m["target"] for m in LINK.finditer(text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        aim = (page.parent / path).resolve() if path else page
        if not aim.is_file() or (anchor and anchor not in anchors(aim)):
            broken.append(target)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def settings_blocks() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        blocks = fenced(page, "toml")
        blocks += [m["text"] for block in fenced(page, "sh") for m in HEREDOC.finditer(block) if m["end"] == "TOML"]
        for number, block in enumerate(blocks):
            yield f"{page_name(page)}-{number}", block


@pytest.mark.parametrize(("name", "block"), list(settings_blocks()), ids=lambda value: str(value)[:40])
def test_p13_every_platform_toml_is_accepted(name: str, block: str, tmp_path: Path) -> None:
    from presage_etl.policies import read_policies
    from presage_platform.settings import parse_settings

    settings = parse_settings(tmp_path, tomllib.loads(block), environment={})
    assert read_policies(settings.etl.policies, ())["timezone"] == settings.timezone


def test_every_term_of_the_glossary_stands_once_in_order_with_its_source() -> None:
    text = (ROOT / "GLOSSARY.md").read_text("utf-8")
    terms = [m["term"] for m in TERM.finditer(text)]
    assert len(terms) == len([line for line in text.splitlines() if line.startswith("- ")])
    assert terms == sorted(terms, key=str.casefold)
    assert len({term.casefold() for term in terms}) == len(terms)
    assert {"index time", "prevalent", "censored", "competing", "verdict", "recipe", "run", "slot", "lock"} <= set(
        terms
    )


def test_every_file_that_the_glossary_names_exists() -> None:
    known = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    named = re.findall(r"`([\w/]+(?:\.(?:py|sql|csv|toml)|/))`", (ROOT / "GLOSSARY.md").read_text("utf-8"))
    assert len(named) > 50
    assert [name for name in named if not any(name in path for path in known)] == []


def test_decisions_are_numbered_short_and_complete() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    for number, path in enumerate(decisions, start=1):
        text = path.read_text("utf-8")
        assert text.startswith(f"# {number:03d}: ") and path.stem == f"{number:03d}"
        assert text.count("\n") <= 12, path.name
        for word in ("Status:", "Decides:", "Context:", "Decision:", "Consequences:", "Rejected:", "Evidence:"):
            assert word in text, f"{path.name}: {word}"
        for name in re.findall(r"\b(?:tests|benchmarks)/[\w/]+(?:\.py|/)", text):
            assert (ROOT / name).exists(), name


def test_every_page_is_reached_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    pages = [page.relative_to(ROOT / "docs") for page in PAGES if page.is_relative_to(ROOT / "docs")]
    assert [str(page) for page in pages if page.name != "index.md" and f"({page})" not in index] == []
