"""Do the tests notice when the labels are wrong? Mutants of three modules, one at a time, each against its tests.

    python -m venv .mutation && .mutation/bin/pip install cosmic-ray==8.7.0
    python benchmarks/mutation.py --tool .mutation/lib/python3.11/site-packages --sample 120
    … --again mutation.json      once more the survivors of an earlier run, after a test was added

cosmic-ray finds and makes the mutants; a seeded sample of them is run (labeling L91). It stays in an environment of its
own and is only added at the end of the path. Each mutant is written into a copy of the tree and tested by a fork that
has the libraries loaded already: a mutant costs a second and not the imports. Not counted as mutants: changes of
an annotation (never evaluated) and of the decorator `@compiled` (off here: the kernel runs as plain Python).
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LABELING = "platform/presage_platform/labeling"
TESTS = {
    f"{LABELING}/first_occurrence.py": (
        "tests/unit/labeling/test_first_occurrence.py",
        "tests/spec/labeling/test_semantics.py",
        "tests/generative/labeling/test_kernel_laws.py",
    ),
    f"{LABELING}/selection.py": ("tests/unit/labeling/test_selection.py", "tests/spec/labeling/test_task_set.py"),
    f"{LABELING}/tasks/guard.py": (
        "tests/unit/labeling/tasks/test_guard_rules.py",
        "tests/unit/labeling/tasks/test_guard.py",
    ),
}
"""Module to the tests that hold it, the quickest first; none needs a database."""
SLOW = "not duckdb"
"""The comparison with DuckDB takes longer than all others together and is left out."""
TIMEOUT_S = 90
MEMORY_BYTES = 4 << 30


@dataclass(frozen=True)
class Mutant:
    """A change: the n-th place (`occurrence`) at which an operator of cosmic-ray applies in a module."""

    module: str
    operator: str
    occurrence: int
    line: int


@dataclass(frozen=True)
class Result:
    """What became of a mutant: `killed`, `survived` or `timeout`; `before` and `after` are the changed line."""

    mutant: Mutant
    outcome: str
    before: str
    after: str
    wall_s: float


def main() -> int:
    """Run the sample, print each survivor and the score of each module, write all results as JSON."""
    arguments = _arguments()
    sys.path.append(str(arguments.tool.resolve()))
    os.environ.update(PRESAGE_NO_JIT="1", OMP_NUM_THREADS="1")
    modules = [module for module in TESTS if module.endswith(arguments.module)]
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name:
        copy = _copy_tree(Path(name))
        os.chdir(copy)
        sys.path[:0] = [str(copy), *(str(copy / root) for root in ("platform", "etl", "modeling", "migrations"))]
        for module in modules:
            every = list(mutants_of(copy, module))
            chosen = _chosen(every, arguments)
            print(f"{module}: {len(every)} mutants, {len(chosen)} to run", flush=True)
            _warm(copy, module)
            for mutant in chosen:
                results.append(run(copy, mutant))
                arguments.out.write_text(json.dumps([asdict(result) for result in results], indent=1))
                if results[-1].outcome != "killed":
                    print(_line(results[-1]), flush=True)
            print(summary(module, [r for r in results if r.mutant.module == module], len(every)), flush=True)
    return 0


def mutants_of(copy: Path, module: str) -> Iterator[Mutant]:
    """Yield every mutant of a module, in the order of operators and places."""
    tool_ast, plugins = importlib.import_module("cosmic_ray.ast"), importlib.import_module("cosmic_ray.plugins")
    text = (copy / module).read_text()
    tree = tool_ast.get_ast(text)
    ignored = _ignored(text)
    for name in sorted(plugins.operator_names()):
        operator = plugins.get_operator(name)
        if operator.arguments():
            continue
        places = (place for node in tool_ast.ast_nodes(tree) for place in operator().mutation_positions(node))
        for occurrence, (start, _) in enumerate(places):
            if not any(low <= tuple(start) < high for low, high in ignored):
                yield Mutant(module, name, occurrence, start[0])


def run(copy: Path, mutant: Mutant) -> Result:
    """Write one mutant into the copy, run the module's tests in a fork, put the module back."""
    path = copy / mutant.module
    original = path.read_text()
    mutated = _mutated(original, mutant)
    began = time.monotonic()
    try:
        _write(path, mutated)
        code = _fork_tests(mutant.module)
    finally:
        _write(path, original)
    outcome = {None: "timeout", 0: "survived", 1: "killed", 2: "killed"}.get(code, f"exit {code}")
    pairs = zip(original.splitlines(), mutated.splitlines(), strict=False)
    before, after = next(((a.strip(), b.strip()) for a, b in pairs if a != b), ("", ""))
    return Result(mutant, outcome, before, after, round(time.monotonic() - began, 1))


def summary(module: str, results: list[Result], num_mutants: int) -> str:
    """Return outcomes, score and the score's exact binomial 95 % interval; a timeout is a mutant that was noticed."""
    outcomes = Counter(result.outcome for result in results)
    noticed = outcomes["killed"] + outcomes["timeout"]
    low, high = binomial_interval(noticed, len(results))
    return (
        f"{module}: {noticed}/{len(results)} = {noticed / max(len(results), 1):.1%} [{low:.1%}, {high:.1%}] "
        f"of {num_mutants}; {dict(outcomes)}"
    )


def binomial_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the Clopper–Pearson 95 % interval, by bisection of the binomial tail."""

    def tail(p: float, least: int) -> float:
        return sum(math.comb(trials, i) * p**i * (1 - p) ** (trials - i) for i in range(least, trials + 1))

    def solve(least: int, level: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if tail(middle, least) < level else (low, middle)
        return low

    lower = solve(successes, 0.025) if successes else 0.0
    return lower, solve(successes + 1, 0.975) if successes < trials else 1.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", type=Path, required=True, help="site-packages of an environment with cosmic-ray")
    parser.add_argument("--sample", type=int, default=120, help="mutants a module")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--module", default=".py", help="only modules whose path ends so, e.g. guard.py")
    parser.add_argument("--again", type=Path, help="results of an earlier run: only its survivors")
    parser.add_argument("--out", type=Path, default=Path("mutation.json"))
    arguments = parser.parse_args()
    arguments.out = arguments.out.resolve()
    return arguments


def _chosen(every: list[Mutant], arguments: argparse.Namespace) -> list[Mutant]:
    if arguments.again:
        earlier = [row for row in json.loads(arguments.again.read_text()) if row["outcome"] != "killed"]
        wanted = {Mutant(**row["mutant"]) for row in earlier}
        return [mutant for mutant in every if mutant in wanted]
    return random.Random(arguments.seed).sample(every, min(arguments.sample, len(every)))


def _copy_tree(folder: Path) -> Path:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-c", "-o", "--exclude-standard", "platform", "etl", "modeling", "migrations",
         "tests", "pyproject.toml"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder.resolve()


def _ignored(text: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return where a mutant says nothing: annotations, and the decorator that is off in this run."""
    found: list[Any] = []
    for node in ast.walk(ast.parse(text)):
        found += [getattr(node, name, None) for name in ("annotation", "returns")]
        found += [d for d in getattr(node, "decorator_list", ()) if isinstance(d, ast.Name) and d.id == "compiled"]
    return [
        ((node.lineno, max(0, node.col_offset - 1)), (node.end_lineno or 0, node.end_col_offset or 0))
        for node in found
        if isinstance(node, ast.expr)
    ]


def _mutated(text: str, mutant: Mutant) -> str:
    tool, plugins = importlib.import_module("cosmic_ray.mutating"), importlib.import_module("cosmic_ray.plugins")
    changed = tool.mutate_code(text, plugins.get_operator(mutant.operator)(), mutant.occurrence)
    if changed is None:
        raise SystemExit(f"mutation: {mutant} does not apply")
    return str(changed)


_writes = iter(range(1, 1 << 30))


def _write(path: Path, text: str) -> None:
    """Write a module with a time that no earlier version had, so that no cached byte code can pass for it."""
    path.write_text(text)
    stamp = 1_000_000_000 + next(_writes)
    os.utime(path, (stamp, stamp))


def _warm(copy: Path, module: str) -> None:
    """Run the tests on the module as it is: they must pass; then load here the libraries that they loaded."""
    names = copy / "loaded.json"
    began = time.monotonic()
    _write(copy / module, (copy / module).read_text())
    if _fork_tests(module, names) != 0:
        raise SystemExit(f"mutation: the tests of {module} do not pass on the module as it is")
    for name in json.loads(names.read_text()):
        if name.split(".")[0] not in {"tests", "conftest", "__main__", "__mp_main__"} and "presage_" not in name:
            try:
                importlib.import_module(name)
            except Exception as error:  # a part of a library that only loads when its tests run
                print(f"  not loaded ahead: {name}: {type(error).__name__}", file=sys.stderr)
    print(f"  the module as it is passes in {time.monotonic() - began:.1f} s", flush=True)


def _fork_tests(module: str, names: Path | None = None) -> int | None:
    """Return pytest's exit code, None when the tests ran too long."""
    child = os.fork()
    if child == 0:
        _child(module, names)
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _child(module: str, names: Path | None) -> None:
    code = 70
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2) if names is None else (1,):
            os.dup2(quiet, stream)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        import hypothesis
        import pytest

        search_only = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        hypothesis.settings.register_profile("mutation", phases=search_only, database=None)
        hypothesis.settings.load_profile("mutation")
        options = ["-x", "-q", "--tb=no", "-k", SLOW, "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        code = int(pytest.main([*options, *(test for test in TESTS[module] if Path(test).exists())]))
        if names is not None:
            loaded = sys.modules[".".join(Path(module).with_suffix("").parts[1:])].__file__
            assert loaded is not None and Path(loaded) == Path(module).resolve(), loaded
            names.write_text(json.dumps(sorted(sys.modules)))
    finally:
        os._exit(code)


def _line(result: Result) -> str:
    operator = result.mutant.operator.removeprefix("core/")
    return f"  {result.outcome} {result.mutant.line} {operator}: `{result.before}` → `{result.after}`"


if __name__ == "__main__":
    sys.exit(main())
