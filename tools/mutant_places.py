"""The places of a source file that tools/mutants.py may change, and what each becomes."""

from __future__ import annotations

import ast
import itertools
import re
from typing import Any, NamedTuple

OPERATORS = {ast.Add: "+ -", ast.Sub: "- +", ast.Mult: "* /", ast.Div: "/ *", ast.FloorDiv: "// *"}
COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
SYMMETRIC = {"min", "max", "minimum", "maximum", "gcd", "lcm", "isclose", "allclose"}


class Place(NamedTuple):
    """A change: bytes `start` to `end` of `file` become `text`.

    first_line: of the statement. function: around the place, or "". name: what a statement outside
    functions defines.
    """

    file: str
    line: int
    first_line: int
    kind: str
    start: int
    end: int
    text: str
    function: str
    name: str

    @property
    def room(self) -> str:
        return room_of(self.file)

    @property
    def id(self) -> str:
        return f"{self.file}:{self.line}:{self.start}-{self.end}:{self.text}"


class Places:
    """All places of one file. Annotations, decorators, imports, messages and docstrings are left
    out.
    """

    LEFT_OUT = (ast.JoinedStr, ast.Raise, ast.Import, ast.ImportFrom, ast.pattern)
    LEFT_OUT_FIELDS = ("annotation", "returns", "decorator_list", "type_params")

    def __init__(self, file: str, source: bytes) -> None:
        self.file, self.source, self.places = file, source, list[Place]()
        self.line_starts = [0]
        for line in source.splitlines(keepends=True):
            self.line_starts.append(self.line_starts[-1] + len(line))
        self.first_line, self.functions, self.name = 1, list[str](), ""
        self.keys = set[ast.AST]()
        self.visit(ast.parse(source))

    def span(self, node: Any) -> tuple[int, int]:
        return (
            self.line_starts[node.lineno - 1] + node.col_offset,
            self.line_starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def text(self, node: ast.AST) -> str:
        return self.source[slice(*self.span(node))].decode()

    def add(self, kind: str, node: Any, text: str, span: tuple[int, int] | None = None) -> None:
        start, end = span or self.span(node)
        line = self.source.count(b"\n", 0, start) + 1
        self.places.append(
            Place(
                self.file,
                line,
                self.first_line,
                kind,
                start,
                end,
                text,
                ".".join(self.functions),
                self.name,
            )
        )

    def between(self, left: ast.AST, right: ast.AST, old: str, new: str) -> None:
        """Replaces the operator `old` between two operands."""
        start, end = self.span(left)[1], self.span(right)[0]
        gap = re.sub(rb"#[^\n]*", lambda comment: b" " * len(comment[0]), self.source[start:end])
        if token := re.search(re.escape(old.encode()).replace(rb"\ ", rb"\s+"), gap):
            self.add("operator", left, new, (start + token.start(), start + token.end()))

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, self.LEFT_OUT) or (
            isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        ):
            return
        if isinstance(node, ast.stmt):
            self.first_line = node.lineno
            if not self.functions:
                target = (
                    node.targets[0]
                    if isinstance(node, ast.Assign)
                    else getattr(node, "target", node)
                )
                self.name = getattr(target, "id", "") or getattr(target, "name", "")
                if self.name == "__all__":
                    return
        self.change(node)
        is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for field, value in ast.iter_fields(node):
            if field not in self.LEFT_OUT_FIELDS:
                if inner := is_function and field == "body":
                    self.functions.append(getattr(node, "name", ""))
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        self.visit(child)
                if inner:
                    self.functions.pop()

    def change(self, node: ast.AST) -> None:
        match node:
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                self.between(left, right, *OPERATORS[type(op)].split())
            case ast.AugAssign(target=left, op=op, value=right) if type(op) in OPERATORS:
                self.between(left, right, *(f"{sign}=" for sign in OPERATORS[type(op)].split()))
            case ast.BoolOp(op=op, values=values):
                for left, right in itertools.pairwise(values):
                    self.between(
                        left, right, *(("and", "or") if isinstance(op, ast.And) else ("or", "and"))
                    )
            case ast.Compare(left=left, ops=ops, comparators=right):
                for before, comparison, after in zip([left, *right], ops, right, strict=False):
                    self.between(before, after, *COMPARISONS[type(comparison)])
                    self.keys.update([before, after], getattr(after, "elts", ()))
            case ast.Constant(value=bool(value)):
                self.add("constant", node, str(not value))
            case ast.Constant(value=int() | float() as value):
                self.add("constant", node, repr(value + 1))
            case ast.Constant(value=str(value)) if node in self.keys:
                self.add("constant", node, repr(value + "_"))
            case ast.Subscript(value=value, slice=key) if ast.unparse(value) != "Literal":
                self.keys.add(key)
            case ast.Dict(keys=keys):
                self.keys.update(key for key in keys if key)
            case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
                self.add("return", value, "None")
            case ast.Expr(value=ast.Call()):
                self.add("statement", node, "pass")
        if isinstance(node, ast.If | ast.IfExp):
            self.condition(node.test)
        elif isinstance(node, ast.comprehension):
            for test in node.ifs:
                self.condition(test)
        elif isinstance(node, ast.Call):
            function = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if function in ("get", "pop", "setdefault"):
                self.keys.update(node.args[:1])
            match node.args[:2]:
                case [ast.Starred(), _] | [_, ast.Starred()]:
                    pass
                case [first, second] if function not in SYMMETRIC:
                    (start, gap), (second_start, end) = self.span(first), self.span(second)
                    text = (
                        self.text(second)
                        + self.source[gap:second_start].decode()
                        + self.text(first)
                    )
                    if text != self.source[start:end].decode():
                        self.add("arguments", node, text, (start, end))

    def condition(self, test: ast.expr) -> None:
        for text in (f"not ({self.text(test)})", "True", "False"):
            self.add("condition", test, text)


def statement_at(source: bytes, start: int, end: int) -> str:
    """The innermost statement around bytes `start` to `end`, as `ast.unparse` writes it, without
    inner statements.
    """
    line_starts = [0]
    for line in source.splitlines(keepends=True):
        line_starts.append(line_starts[-1] + len(line))
    found: ast.stmt | None = None
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.stmt)
            and line_starts[node.lineno - 1] + node.col_offset <= start
            and end <= line_starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        ):
            found = node  # ast.walk reaches inner statements later
    if found is None:
        return ""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        if getattr(found, field, None):
            setattr(found, field, [ast.Expr(ast.Constant(...))] if field == "body" else [])
    if isinstance(found, ast.Match):
        return f"match {ast.unparse(found.subject)}"
    if isinstance(found, ast.Try):
        return "try"
    return ast.unparse(found)


def room_of(path: str) -> str:
    parts = path.split("::")[0].split("/")
    return parts[1] if len(parts) > 2 else "top"
