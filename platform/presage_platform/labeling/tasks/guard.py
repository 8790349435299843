"""Static checks of a task's query (Q1–Q11): a courtesy to its author; the wall is the database role.

Each refusal names rule, line and column. The check is an allow-list over the syntax tree: what is not known to be
harmless is refused, so a new kind of statement is refused until somebody has thought about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, TokenError
from sqlglot.tokens import Token, TokenType  # type: ignore[attr-defined]  # re-exported, without saying so

from presage_platform.errors import TaskError

TASK_INDEX = {
    "study_id": "bigint",
    "person_id": "bigint",
    "t0": "timestamp",
    "t0_date": "date",
    "visit_occurrence_id": "bigint",
    "site": "text",
}
CONCEPT_SET = {"concept_id": "bigint"}
ERA = {
    "person_id": "bigint",
    "start_date": "date",
    "start_datetime": "timestamp",
    "end_date": "date",
    "first_id": "bigint",
}

COHORT = {"subject_id": "bigint", "cohort_start_date": "date", "cohort_end_date": "date"}

OUTPUTS = {
    "body": (
        {"study_id", "event_date"},
        {"event_datetime", "cause", "value", "unit_concept_id", "evidence_concept_id", "evidence_id"},
    ),
    "at_risk": ({"study_id", "risk_start_date"}, {"risk_start_datetime"}),
    "censor": ({"study_id", "censor_date"}, set()),
}
"""Columns that each block must return, and those that it may."""

CAST_TYPES = {
    exp.DataType.Type.DATE,
    exp.DataType.Type.TIMESTAMP,
    exp.DataType.Type.INTERVAL,
    exp.DataType.Type.INT,
    exp.DataType.Type.BIGINT,
    exp.DataType.Type.DECIMAL,
    exp.DataType.Type.DOUBLE,
    exp.DataType.Type.BOOLEAN,
    exp.DataType.Type.TEXT,
}
FUNCTIONS: tuple[type[exp.Expr], ...] = (
    exp.Abs, exp.Avg, exp.Case, exp.Cast, exp.Ceil, exp.Coalesce, exp.Concat, exp.Count, exp.DenseRank, exp.Exists,
    exp.Extract, exp.Floor, exp.Greatest, exp.Lag, exp.Lead, exp.Least, exp.Length, exp.Lower, exp.Max, exp.Min,
    exp.Nullif, exp.Rank, exp.Round, exp.RowNumber, exp.Substring, exp.Sum, exp.TimestampTrunc, exp.Trim, exp.Upper,
    exp.And, exp.Or, exp.Xor, exp.If, exp.FirstValue, exp.LastValue, exp.Array, exp.Any, exp.All,
)  # fmt: skip
"""Functions by node class; sqlglot calls what it does not know Anonymous, which is not among them."""

ALLOWED: tuple[type[exp.Expr], ...] = (
    exp.Select, exp.SetOperation, exp.Subquery, exp.With, exp.CTE, exp.From, exp.Join, exp.Table, exp.TableAlias,
    exp.Where, exp.Group, exp.Having, exp.Order, exp.Ordered, exp.Distinct, exp.Window, exp.WindowSpec, exp.Filter,
    exp.Column, exp.Identifier, exp.Alias, exp.Literal, exp.Null, exp.Boolean, exp.Star, exp.Placeholder, exp.Paren,
    exp.Tuple, exp.Interval, exp.IntervalSpan, exp.Var, exp.DataType, exp.DataTypeParam, exp.Between, exp.In, exp.Is,
    exp.Like, exp.ILike, exp.Not, exp.Neg, exp.Lateral, exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.DPipe, exp.EQ,
    exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ,
    exp.Dot,  # a field of a row: refused by Q9, which says so
)  # fmt: skip

Q4_COMMANDS = {"listen", "discard", "values"}
SYSTEM_COLUMNS = {"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid", "oid"}
Columns = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Refusal:
    """Why a query is refused, and where (line and column from 1)."""

    rule: str
    line: int
    column: int
    message: str


def check_query(sql: str, *, block: str, relations: Columns, parameters: set[str], first_line: int = 1) -> exp.Expr:
    """Return the syntax tree of a query that passes Q1–Q11.

    Parameters
    ----------
    sql
        One query, without a semicolon.
    block
        `body`, `at_risk` or `censor`: which columns it must return.
    relations
        Every relation that the query may read, with its columns and their types.
    parameters
        Declared scalars; all must be used, and no others.
    first_line
        Line of the file on which the query begins.

    Raises
    ------
    TaskError
        `Qn line:col …` of the first refusal.
    """
    refusal = first_refusal(sql, block=block, relations=relations, parameters=parameters)
    if refusal is not None:
        line = first_line + refusal.line - 1
        raise TaskError(f"{refusal.rule} {line}:{refusal.column} {refusal.message}")
    return sqlglot.parse_one(sql, dialect="postgres")


def first_refusal(sql: str, *, block: str, relations: Columns, parameters: set[str]) -> Refusal | None:
    """Return the first rule that a query breaks, None when it breaks none."""
    early = _tokens_refused(sql)
    if early is not None:
        return early
    try:
        trees = [tree for tree in sqlglot.parse(sql, dialect="postgres") if tree is not None]
    except ParseError as error:
        place = error.errors[0] if error.errors else {}
        return Refusal("Q1", int(place.get("line") or 1), int(place.get("col") or 1), "cannot be parsed as one SELECT")
    if len(trees) != 1:
        return Refusal("Q2", 1, 1, f"{len(trees)} statements, expected exactly one")
    return next(_refusals(trees[0], block, relations, parameters), None)


def _tokens_refused(sql: str) -> Refusal | None:
    """Refuse what is visible in the tokens: a semicolon, an operator in schema syntax, a leading keyword."""
    try:
        tokens = sqlglot.tokenize(sql, dialect="postgres")
    except TokenError:
        return Refusal("Q1", 1, 1, "cannot be read: an unclosed quote or comment")
    if not tokens:
        return Refusal("Q1", 1, 1, "is empty, expected one SELECT")
    first = tokens[0].text.lower()
    for token in tokens:
        if token.token_type == TokenType.SEMICOLON:
            return _at("Q2", token, "a semicolon, expected exactly one statement without it")
    for token, following in pairwise(tokens):
        if token.text.lower() == "operator" and following.token_type == TokenType.L_PAREN:
            return _at("Q7", token, "operator(…) may call any function")
    return _first_word(first, tokens[0])


def _first_word(word: str, token: Token) -> Refusal | None:
    if word in ("select", "with", "("):
        return None
    if word == "table":
        return _at("Q9", token, "TABLE returns every column, name those that are needed")
    if word in Q4_COMMANDS:
        return _at("Q4", token, f"{word.upper()} is not a SELECT")
    if word in STATEMENTS:
        return _at("Q3", token, f"{word.upper()} is not a reading SELECT")
    return _at("Q1", token, "cannot be parsed as one SELECT")


STATEMENTS = set(
    [
        "drop",
        "delete",
        "update",
        "insert",
        "truncate",
        "create",
        "alter",
        "grant",
        "revoke",
        "set",
        "reset",
        "load",
        "lock",
        "vacuum",
        "begin",
        "start",
        "commit",
        "rollback",
        "merge",
        "explain",
        "copy",
        "do",
        "call",
        "prepare",
        "execute",
        "deallocate",
        "analyze",
        "cluster",
        "reindex",
        "refresh",
        "comment",
        "security",
        "import",
        "reassign",
        "savepoint",
        "release",
        "show",
        "declare",
        "fetch",
        "move",
        "close",
        "checkpoint",
        "abort",
        "end",
        "unlisten",
    ]
)


def _refusals(tree: exp.Expr, block: str, relations: Columns, parameters: set[str]) -> Iterator[Refusal]:
    yield from _root(tree)
    yield from _nodes(tree)
    yield from _limits(tree)
    yield from _recursion(tree)
    yield from _tables(tree, relations)
    yield from _functions(tree)
    yield from _casts(tree)
    yield from _stars(tree)
    yield from _columns(tree, relations)
    yield from _outputs(tree, block)
    yield from _parameters(tree, parameters)


def _root(tree: exp.Expr) -> Iterator[Refusal]:
    if isinstance(tree, (exp.Insert, exp.Update, exp.Delete, exp.Create, exp.Drop, exp.Merge, exp.Copy, exp.Command)):
        yield _refuse("Q3", tree, "writes, or is not understood")
    elif not isinstance(tree, (exp.Select, exp.SetOperation, exp.Subquery)):
        yield _refuse("Q4", tree, "is not a SELECT")


def _nodes(tree: exp.Expr) -> Iterator[Refusal]:
    for node in tree.walk():
        if isinstance(node, (exp.Insert, exp.Update, exp.Delete, exp.Create, exp.Drop, exp.Merge, exp.Command)):
            yield _refuse("Q3", node, "a part of the query writes")
        elif isinstance(node, (exp.Into, exp.Lock, exp.TableSample)) or (
            isinstance(node, exp.Select)
            and (node.args.get("into") or node.args.get("locks") or node.args.get("sample"))
        ):
            yield _refuse("Q3", node, "SELECT INTO, FOR UPDATE and TABLESAMPLE are not allowed")


def _limits(tree: exp.Expr) -> Iterator[Refusal]:
    for node in tree.find_all(exp.Limit, exp.Offset, exp.Fetch):
        yield _refuse("Q11", node, "LIMIT, OFFSET and FETCH leave out rows at random")


def _recursion(tree: exp.Expr) -> Iterator[Refusal]:
    for node in tree.find_all(exp.With):
        if node.args.get("recursive"):
            yield _refuse("Q5", node, "a recursive query may never end")


def _tables(tree: exp.Expr, relations: Columns) -> Iterator[Refusal]:
    own = {cte.alias for cte in tree.find_all(exp.CTE)}
    for cte in tree.find_all(exp.CTE):
        if cte.alias in relations:
            yield _refuse("Q6", cte, f"a WITH named `{cte.alias}` hides the table of that name")
    for table in tree.find_all(exp.Table):
        if not isinstance(table.this, exp.Identifier):
            yield _refuse("Q7", table, "a function is used as a table")
        elif table.args.get("db") or table.args.get("catalog"):
            yield _refuse("Q6", table, "a table with a schema; expected a plain name from `requires`")
        elif table.name not in relations and table.name not in own:
            yield _refuse("Q6", table, f"table `{table.name}` is not in `requires`")


def _functions(tree: exp.Expr) -> Iterator[Refusal]:
    for node in tree.walk():
        if isinstance(node, (exp.Lateral, exp.Unnest, exp.UDTF)) and not isinstance(node.this, exp.Subquery):
            if not isinstance(node, exp.Subquery):
                yield _refuse("Q7", node, "a function is used as a table")
        elif isinstance(node, exp.Func) and not isinstance(node, FUNCTIONS):
            yield _refuse("Q7", node, f"function `{_function_name(node)}` is not on the list of allowed ones")
        elif not isinstance(node, (*ALLOWED, *FUNCTIONS, exp.Func)):
            yield _refuse("Q7", node, f"`{type(node).__name__}` is not on the list of what a task may use")


def _casts(tree: exp.Expr) -> Iterator[Refusal]:
    for node in tree.find_all(exp.Cast):
        if not isinstance(node.to, exp.DataType) or node.to.this not in CAST_TYPES:
            yield _refuse("Q8", node, "a cast to this type; expected date, timestamp, interval, integer, number, text")


def _stars(tree: exp.Expr) -> Iterator[Refusal]:
    for node in tree.find_all(exp.Star):
        if not isinstance(node.parent, exp.Count):
            yield _refuse("Q9", node, "`*` returns columns that nobody named")


def _columns(tree: exp.Expr, relations: Columns) -> Iterator[Refusal]:
    names = {table.alias_or_name for table in tree.find_all(exp.Table)}
    for node in tree.find_all(exp.Column):
        if node.name in SYSTEM_COLUMNS:
            yield _refuse("Q9", node, f"system column `{node.name}`")
        elif not node.table and node.name in names:
            yield _refuse("Q9", node, f"`{node.name}` names a whole row, expected a column")
        elif isinstance(node.parent, exp.Dot):
            yield _refuse("Q9", node, "a field of a whole row, expected a column")
    yield from _unresolved(tree, relations)


def _unresolved(tree: exp.Expr, relations: Columns) -> Iterator[Refusal]:
    from sqlglot.errors import OptimizeError, SchemaError
    from sqlglot.optimizer.qualify import qualify

    schema: dict[str, Any] = {name: dict(columns) for name, columns in relations.items()}
    try:
        qualify(tree.copy(), schema=schema, dialect="postgres", expand_stars=False, identify=False)
    except (OptimizeError, SchemaError) as error:
        words = str(error).split("\n")[0].split("Line:")[0].strip(" .")
        yield Refusal("Q9", *_position(tree), f"a column does not resolve: {words}")


def _outputs(tree: exp.Expr, block: str) -> Iterator[Refusal]:
    required, optional = OUTPUTS[block]
    query: Any = tree.unnest() if isinstance(tree, exp.Subquery) else tree
    names = [str(name) for name in query.named_selects]
    missing, other = sorted(required - set(names)), sorted(set(names) - required - optional)
    if missing:
        yield _refuse("Q10", tree, f"returns no {', '.join(missing)}")
    elif other:
        yield _refuse("Q10", tree, f"returns `{other[0]}`, expected {', '.join(sorted(required | optional))}")
    elif len(names) != len(set(names)):
        yield _refuse("Q10", tree, "returns a column twice")


def _parameters(tree: exp.Expr, declared: set[str]) -> Iterator[Refusal]:
    used = {node.name for node in tree.find_all(exp.Placeholder)}
    for name in sorted(used - declared):
        yield _refuse("Q10", tree, f"parameter `:{name}` is not declared in `params`")


def _function_name(node: exp.Expr) -> str:
    return str(node.this) if isinstance(node, exp.Anonymous) else str(getattr(node, "key", type(node).__name__))


def _refuse(rule: str, node: exp.Expr, message: str) -> Refusal:
    return Refusal(rule, *_position(node), message)


def _position(node: exp.Expr) -> tuple[int, int]:
    for part in node.walk():
        if "line" in part.meta:
            return int(part.meta["line"]), max(1, int(part.meta["col"]) - len(part.name) + 1)
    return 1, 1


def _at(rule: str, token: Token, message: str) -> Refusal:
    return Refusal(rule, token.line, max(1, token.col - len(token.text) + 1), message)
