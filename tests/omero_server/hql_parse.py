"""The part of HQL that clients send, from text to a tree. What it does not know is an error, never a guess."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any


class HqlError(Exception):
    """A query that cannot be read or run."""


@dataclass(frozen=True)
class Path:
    """`alias.field.field`, or one bare name."""

    steps: tuple[str, ...]


@dataclass(frozen=True)
class Literal:
    value: Any


@dataclass(frozen=True)
class Parameter:
    name: str


@dataclass(frozen=True)
class Call:
    """A function; `kind` as written in lower case, `distinct` for counts."""

    kind: str
    arguments: tuple[Any, ...]
    distinct: bool = False


@dataclass(frozen=True)
class Operation:
    """and, or, not, comparisons, arithmetic, in, like, is null, is empty, exists, case."""

    kind: str
    parts: tuple[Any, ...]


@dataclass
class Join:
    outer: bool
    fetch: bool
    path: Path
    alias: str
    condition: Any = None


@dataclass
class Query:
    """One select; `sources` are (kind, alias)."""

    select: list[tuple[Any, str | None]] = field(default_factory=list)
    as_map: bool = False
    distinct: bool = False
    sources: list[tuple[str | Path, str]] = field(default_factory=list)
    joins: list[Join] = field(default_factory=list)
    where: Any = None
    groups: list[Any] = field(default_factory=list)
    having: Any = None
    order: list[tuple[Any, bool]] = field(default_factory=list)


AGGREGATES = {"count", "max", "min", "sum", "avg"}
FUNCTIONS = AGGREGATES | {
    "lower", "upper", "length", "str", "cast", "coalesce", "size", "index", "elements", "concat", "abs", "trim", "mod", "nullif",
}  # fmt: skip
RESERVED = {
    "join", "left", "inner", "right", "outer", "fetch", "where", "order", "group", "by", "as", "and", "or", "not", "in", "is", "like",
    "select", "from", "on", "having", "asc", "desc", "between", "exists", "with", "distinct", "case", "when", "then", "else", "end",
}  # fmt: skip
TOKEN = re.compile(
    r"(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?[lLfFdD]?)|(?P<text>'(?:[^']|'')*')|(?P<parameter>:\w+)"
    r"|(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)|(?P<sign><>|!=|<=|>=|\|\||[=<>(),*/+\-])"
)


def _tokens(text: str) -> list[tuple[str, str]]:
    found = []
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        match = TOKEN.match(text, position)
        if match is None:
            raise HqlError(f"unexpected token near '{text[position : position + 30]}'")
        found.append((str(match.lastgroup), match.group()))
        position = match.end()
    return found


class Parser:
    """Recursive descent over the tokens of one query."""

    def __init__(self, text: str) -> None:
        self.tokens = _tokens(text)
        self.position = 0
        self.unnamed = 0

    def whole(self) -> Query:
        """The query; anything left over is an error."""
        query = self.query()
        if self.position < len(self.tokens):
            raise HqlError(f"unexpected token '{self.peek()[1]}'")
        return query

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.position] if self.position < len(self.tokens) else ("end", "")

    def accept(self, *words: str) -> str | None:
        """The next word or sign in lower case when it is one of these."""
        kind, text = self.peek()
        if kind in ("name", "sign") and text.lower() in words:
            self.position += 1
            return text.lower()
        return None

    def expect(self, *words: str) -> str:
        found = self.accept(*words)
        if found is None:
            raise HqlError(f"expected {' or '.join(words)}, found '{self.peek()[1] or 'the end'}'")
        return found

    def name(self) -> str:
        kind, text = self.peek()
        if kind != "name" or text.lower() in RESERVED:
            raise HqlError(f"a name was expected, found '{text or 'the end'}'")
        self.position += 1
        return text

    def alias(self) -> str:
        if self.accept("as"):
            return self.name()
        kind, text = self.peek()
        if kind == "name" and text.lower() not in RESERVED and "." not in text:
            self.position += 1
            return text
        self.unnamed += 1
        return f"#{self.unnamed}"

    def listed(self, item: Any) -> list[Any]:
        items = [item()]
        while self.accept(","):
            items.append(item())
        return items

    def query(self) -> Query:
        query = Query()
        if self.accept("select"):
            self._select(query)
        self.expect("from")
        while True:
            self._source(query)
            if not self.accept(","):
                break
        if self.accept("where"):
            query.where = self.expression()
        if self.accept("group"):
            self.expect("by")
            query.groups = self.listed(self.expression)
            if self.accept("having"):
                query.having = self.expression()
        if self.accept("order"):
            self.expect("by")
            query.order = self.listed(lambda: (self.expression(), self.accept("asc", "desc") == "desc"))
        return query

    def _select(self, query: Query) -> None:
        query.distinct = bool(self.accept("distinct"))
        query.as_map = bool(self.accept("new"))
        if query.as_map:
            self.expect("map")
            self.expect("(")
        query.select = self.listed(lambda: (self.expression(), self.name() if self.accept("as") else None))
        if query.as_map:
            self.expect(")")

    def _source(self, query: Query) -> None:
        if self.accept("in"):  # the old form: in (alias.collection)
            raise HqlError("'from in (...)' is not known here")
        named = self.name()
        query.sources.append((named, self.alias()))
        while True:
            side = self.accept("left", "inner", "right", "join")
            if side is None:
                return
            if side == "right":
                raise HqlError("right joins are not known here")
            if side == "left":
                self.accept("outer")
            if side != "join":
                self.expect("join")
            fetch = bool(self.accept("fetch"))
            path = Path(tuple(self.name().split(".")))
            join = Join(side == "left", fetch, path, self.alias())
            join.condition = self.expression() if self.accept("with") else None
            query.joins.append(join)

    def expression(self) -> Any:
        left = self._and()
        while self.accept("or"):
            left = Operation("or", (left, self._and()))
        return left

    def _and(self) -> Any:
        left = self._not()
        while self.accept("and"):
            left = Operation("and", (left, self._not()))
        return left

    def _not(self) -> Any:
        if self.accept("not"):
            return Operation("not", (self._not(),))
        if self.accept("exists"):
            self.expect("(")
            inner = self.query()
            self.expect(")")
            return Operation("exists", (inner,))
        return self._comparison()

    def _comparison(self) -> Any:
        left = self._sum()
        sign = self.accept("=", "!=", "<>", "<", ">", "<=", ">=")
        if sign:
            return Operation("!=" if sign == "<>" else sign, (left, self._sum()))
        if self.accept("is"):
            negated = bool(self.accept("not"))
            test = Operation("is " + self.expect("null", "empty"), (left,))
            return Operation("not", (test,)) if negated else test
        negated = bool(self.accept("not"))
        found = self._membership(left)
        if found is None:
            if negated:
                raise HqlError("'not' must be followed by in, like or between here")
            return left
        return Operation("not", (found,)) if negated else found

    def _membership(self, left: Any) -> Any:
        if self.accept("in"):
            return Operation("in", (left, self._choices()))
        if self.accept("like"):
            return Operation("like", (left, self._sum()))
        if self.accept("between"):
            low = self._sum()
            self.expect("and")
            return Operation("and", (Operation(">=", (left, low)), Operation("<=", (left, self._sum()))))
        return None

    def _choices(self) -> Any:
        kind, text = self.peek()
        if kind == "parameter":
            self.position += 1
            return Operation("list", (Parameter(text[1:]),))
        self.expect("(")
        if self.peek()[1].lower() in ("select", "from"):
            found: Any = Operation("subselect", (self.query(),))
        else:
            found = Operation("list", tuple(self.listed(self._sum)))
        self.expect(")")
        return found

    def _sum(self) -> Any:
        left = self._product()
        while sign := self.accept("+", "-", "||"):
            left = Operation(sign, (left, self._product()))
        return left

    def _product(self) -> Any:
        left = self._atom()
        while sign := self.accept("*", "/"):
            left = Operation(sign, (left, self._atom()))
        return left

    def _atom(self) -> Any:
        kind, text = self.peek()
        if self.accept("("):
            inner: Any
            if self.peek()[1].lower() in ("select", "from"):
                inner = Operation("scalar", (self.query(),))
            else:
                inner = self.expression()
            self.expect(")")
            return inner
        if self.accept("-"):
            return Operation("-", (Literal(0), self._atom()))
        if self.accept("case"):
            return self._case()
        self.position += 1
        if kind == "number":
            digits = text.rstrip("lLfFdD")
            return Literal(int(digits) if digits.isdigit() else float(digits))
        if kind == "text":
            return Literal(text[1:-1].replace("''", "'"))
        if kind == "parameter":
            return Parameter(text[1:])
        if kind == "name" and text.lower() not in RESERVED:
            return self._named(text)
        raise HqlError(f"unexpected '{text or 'end'}'")

    def _named(self, text: str) -> Any:
        constants = {"true": True, "false": False, "null": None}
        if text.lower() in constants:
            return Literal(constants[text.lower()])
        if self.peek()[1] != "(":
            return Path(tuple(text.split(".")))
        if text.lower() not in FUNCTIONS:
            raise HqlError(f"the function '{text}' is not known here")
        self.expect("(")
        distinct = bool(self.accept("distinct"))
        if self.accept("*"):
            arguments: list[Any] = [Literal(1)]
        else:
            arguments = [self.expression()]
            while self.accept(",", "as"):
                arguments.append(self.expression())
        self.expect(")")
        return Call(text.lower(), tuple(arguments), distinct)

    def _case(self) -> Any:
        branches = []
        while self.accept("when"):
            condition = self.expression()
            self.expect("then")
            branches.append((condition, self.expression()))
        otherwise = self.expression() if self.accept("else") else Literal(None)
        self.expect("end")
        return Operation("case", (tuple(branches), otherwise))
