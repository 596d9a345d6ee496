# SPDX-License-Identifier: MIT
"""Templates in Jinja that nobody here has read, run within bounds.

jinja2's sandbox keeps a template from the interpreter and from changing what it is given. It does not keep it from
running for ever, nor from making a text that fills the memory. So here every turn of a loop and every call counts, and
so does every value that is looked through; texts and numbers that grow are measured before they are made, and all texts
together; and what comes out is bounded.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import cache, wraps
from typing import Any

__all__ = ["MOST_OUTPUT", "BoundedTemplate", "TemplateError", "jinja"]

MOST_OUTPUT = 4 << 20  # characters that a template may make, of every text on the way too
_MOST_MADE = 64 * MOST_OUTPUT  # characters of all texts that are made on the way
_MOST_STEPS = 2_000_000
_MOST_SECONDS = 10.0
_MOST_SOURCE = 1 << 20  # characters of a template
_MOST_ITEMS = 200_000  # of a list that is put together
_MOST_BITS = 4096  # of a whole number
_MOST_DEPTH = 40  # of macros in macros
_MOST_WIDTH = 10_000  # of what filters fill up and move to the right
_LOOKED = 4  # values looked through that count as a step
_MOST_HELD = 2 * _MOST_ITEMS  # values in a value
# In a text that is formatted: a width or a precision that is long, or comes from elsewhere.
_PERCENT = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(?:\d*\.)?(?:\*|\d{5})")
_BRACES = re.compile(r"\{[^{}]*(?:\{|:[^{}]*\d{5})")
_DATE = re.compile(r"%[^a-zA-Z%]*\d{4}")


class TemplateError(ValueError):
    """A chat template is damaged, refuses what it was given, or asks for what it may not have."""


def jinja() -> Any:
    """The library; ``ImportError`` says how to install it."""
    try:
        import jinja2
        import jinja2.ext
        import jinja2.sandbox
        import jinja2.visitor
    except ImportError as error:
        raise ImportError("chat templates need the jinja2 library: pip install fastattn[chat]") from error
    return jinja2


class BoundedTemplate:
    """A template, as transformers compiles it, but within bounds.

    Parameters
    ----------
    source
        In Jinja.
    where
        What messages call it.

    Raises
    ------
    TemplateError
        It is no template, or longer than a MiB.
    ImportError
        jinja2 is not installed.
    """

    def __init__(self, source: str, where: str) -> None:
        if len(source) > _MOST_SOURCE:
            raise TemplateError(f"{where}: {len(source)} characters, expected at most {_MOST_SOURCE}")
        self._where = where
        environment = _environment()
        with _bounds({}), _named(where):  # what stands there as a constant is computed now
            tree = _transformer()().visit(environment.parse(source))
            code = environment.compile(tree, name="chat_template")
        self._template = environment.template_class.from_code(environment, code, environment.make_globals(None))

    def render(self, values: Mapping[str, Any]) -> str:
        """What it makes of ``values``: dicts, lists, texts, numbers, booleans and None, which it cannot change.

        Raises
        ------
        TemplateError
            It refuses them, fails on them, or goes beyond a bound.
        """
        with _bounds(values), _named(self._where):
            pieces: list[str] = []
            size = 0
            for piece in self._template.generate(values):
                size += len(piece)
                _measure(size)
                pieces.append(piece)
            return "".join(pieces)


# ---- what counts -----------------------------------------------------------------------------------------------------


class _Budget:
    """What a run may still do, and the values that it was given: these need not be looked through again."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.steps, self.made, self.depth = 0, 0, 0
        self.end = time.monotonic() + _MOST_SECONDS
        self.given: set[int] = set()
        rest: list[Any] = list(values.values())
        while rest:
            value = rest.pop()
            if isinstance(value, (dict, list)) and id(value) not in self.given:
                self.given.add(id(value))
                rest += value.values() if isinstance(value, dict) else value


_BUDGET: ContextVar[_Budget] = ContextVar("fastattn_chat_template")


@contextmanager
def _bounds(values: Mapping[str, Any]) -> Iterator[None]:
    token = _BUDGET.set(_Budget(values))
    try:
        yield
    finally:
        _BUDGET.reset(token)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """``TemplateError`` for whatever a template makes go wrong."""
    library = jinja()
    try:
        yield
    except TemplateError as error:
        raise TemplateError(f"{where}: {error}") from None
    except library.TemplateSyntaxError as error:
        raise TemplateError(f"{where}: line {error.lineno}: {error.message}") from None
    except library.exceptions.SecurityError as error:
        raise TemplateError(f"{where}: asks for what a template may not have: {error}") from None
    except RecursionError:
        raise TemplateError(f"{where}: goes too deep: calls itself, holds itself or is nested without end") from None
    except MemoryError:
        raise
    except Exception as error:  # a template may do anything that an expression of Python may do
        raise TemplateError(f"{where}: {type(error).__name__}: {str(error)[:300]}") from None


def _spend(steps: int) -> None:
    budget = _BUDGET.get()
    budget.steps += steps
    if budget.steps > _MOST_STEPS:
        raise TemplateError(f"takes more than {_MOST_STEPS} steps")
    if time.monotonic() > budget.end:
        raise TemplateError(f"takes longer than {_MOST_SECONDS:.0f} seconds")


def _measure(size: int) -> None:
    """``size``: characters of a text."""
    if size > MOST_OUTPUT:
        raise TemplateError(f"makes a text of {size} characters, at most {MOST_OUTPUT} are allowed")


def _make(size: int) -> None:
    """A text of so many characters is made."""
    _measure(size)
    budget = _BUDGET.get()
    budget.made += max(size, 0)
    if budget.made > _MOST_MADE:
        raise TemplateError(f"makes texts of more than {_MOST_MADE} characters on its way")


def _look(*values: Any) -> None:
    """Count what values hold, before somebody walks through all of it: a list of itself twice, many times, is huge."""
    names = jinja().utils.Namespace
    given = _BUDGET.get().given
    rest: list[Any] = [*values]
    looked = 0
    while rest:
        value = rest.pop()
        if isinstance(value, (str, int, float, type(None))) or id(value) in given:
            continue
        if isinstance(value, names):
            value = object.__getattribute__(value, "_Namespace__attrs")
        if isinstance(value, Mapping):
            rest += value.values()
        elif isinstance(value, (list, tuple, set)):
            rest += value
        else:
            continue
        looked += len(value) + 1
        if looked > _MOST_HELD:
            raise TemplateError(f"makes a value that holds more than {_MOST_HELD} others")
    if looked:
        _spend(looked // _LOOKED)


def _grown(value: Any) -> Any:
    """``value``, if it is not too long."""
    if isinstance(value, str):
        _make(len(value))
    elif isinstance(value, (list, tuple)) and len(value) > _MOST_ITEMS:
        raise TemplateError(f"makes a list of {len(value)} items, at most {_MOST_ITEMS} are allowed")
    return value


def _check_replaced(text: str, old: Any, new: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        _measure(len(text) + (text.count(old) if old else len(text) + 1) * max(len(new) - len(old), 0))


def _check_joined(between: str, items: Any) -> None:
    if isinstance(items, (list, tuple)):
        _measure(sum(len(item) for item in items if isinstance(item, str)) + len(between) * len(items))


def _check_format(text: Any, widths: re.Pattern[str] = _PERCENT) -> None:
    if isinstance(text, str) and widths.search(text):
        raise TemplateError(f"a format with a width that is long, or is given from elsewhere: {text[:60]!r}")


# ---- operators, calls and filters ------------------------------------------------------------------------------------


def _check_operator(sign: str, left: Any, right: Any) -> None:
    if sign == "%":
        _check_format(left)
        return
    if isinstance(left, int) and isinstance(right, int):
        more = left.bit_length() * right if sign == "**" and right > 0 else left.bit_length() + right.bit_length()
        if more > _MOST_BITS:
            raise TemplateError(f"computes a number of more than {_MOST_BITS} bits")
        return
    sized = (str, list, tuple)
    if sign == "+" and isinstance(left, sized) and isinstance(right, sized):
        size = len(left) + len(right)
    elif sign == "*" and isinstance(left, sized) and isinstance(right, int):
        size = len(left) * right
    elif sign == "*" and isinstance(right, sized) and isinstance(left, int):
        size = len(right) * left
    else:
        return
    if isinstance(left, str) or isinstance(right, str):
        _make(size)
    elif size > _MOST_ITEMS:
        raise TemplateError(f"makes a list of {size} items, at most {_MOST_ITEMS} are allowed")


def _check_method(method: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Of texts: those that make a longer one."""
    own = getattr(getattr(method, "__wrapped__", method), "__self__", None)
    if not isinstance(own, str):
        return
    _spend(len(own) // 4096)
    name = method.__name__
    if name in ("ljust", "rjust", "center", "zfill", "expandtabs"):
        width = arguments[0] if arguments else named.get("tabsize", 8)
        if isinstance(width, int):
            _measure(width * (own.count("\t") + 1) + len(own) if name == "expandtabs" else width)
    elif name == "replace" and len(arguments) >= 2:
        _check_replaced(own, *arguments[:2])
    elif name == "join" and arguments:
        _check_joined(own, arguments[0])
    elif name == "translate" and arguments and isinstance(arguments[0], Mapping):
        _measure(len(own) * max([1, *(len(new) for new in arguments[0].values() if isinstance(new, str))]))
    elif name in ("format", "format_map"):
        _check_format(own.replace("{{", "").replace("}}", "}"), _BRACES)


def _check_filter(name: str, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """``arguments``: from the value on."""
    value, rest = (arguments[0], (*arguments[1:], *named.values())) if arguments else (None, ())
    if name in ("center", "indent", "wordwrap", "batch", "slice", "truncate", "tojson", "round"):
        most = 100 if name in ("tojson", "round") else _MOST_WIDTH
        if any((isinstance(x, int) and x > most) or (isinstance(x, str) and len(x) > most) for x in rest):
            raise TemplateError(f"filter {name}: an argument of more than {most}")
        if name == "indent" and isinstance(value, str):
            wide = max([4, *(len(x) if isinstance(x, str) else x for x in rest if isinstance(x, (str, int)))])
            _measure(len(value) + (value.count("\n") + 1) * wide)
        if name == "wordwrap" and isinstance(value, str):
            _measure(len(value) * max([1, *(len(x) for x in rest if isinstance(x, str))]))
    elif name == "replace" and isinstance(value, str) and len(rest) >= 2:
        _check_replaced(value, *rest[:2])
    elif name == "join":
        _check_joined(next((x for x in rest if isinstance(x, str)), ""), value)
    elif name == "format":
        _check_format(value)
    elif name == "sum" and any(isinstance(x, (list, tuple)) for x in rest):
        raise TemplateError("filter sum: of lists")


def _bounded_filter(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    passed = 1 if hasattr(run, "jinja_pass_arg") else 0  # whether it gets the context or the environment first

    @wraps(run)
    def bounded(*arguments: Any, **named: Any) -> Any:
        _spend(1)
        own = arguments[passed:]
        _look(*own, *named.values())
        _check_filter(name, own, named)
        return _grown(run(*arguments, **named))

    return bounded


# ---- what templates find ---------------------------------------------------------------------------------------------


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: Any) -> None:
    raise TemplateError(f"refuses it: {message}")


def _strftime_now(form: Any) -> str:
    _check_format(form, _DATE)
    return datetime.now().strftime(form)


class _Turns(list[Any]):
    """What a loop goes through: each turn is a step."""

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            _spend(1)
            yield item


def _counted(value: Any) -> Any:
    return value if isinstance(value, jinja().Undefined) else _Turns(value)


def _looked(value: Any) -> Any:
    _look(value)
    return _grown(value)


def _concatenated(values: list[Any]) -> str:
    _look(values)
    return _concat(str(value) for value in values)


def _finalized(value: Any) -> Any:
    """What is printed."""
    _look(value)
    return value


def _concat(pieces: Any) -> str:
    """Of what a macro or a block has printed."""
    texts = list(pieces)
    _make(sum(map(len, texts)))
    return "".join(texts)


def _with_context(run: Callable[[Any], Any]) -> Any:
    """As a filter that gets the context, which is what keeps jinja2 from computing it when it compiles."""
    passing: Any = jinja().pass_context
    return passing(lambda context, value: run(value))


@cache
def _transformer() -> Any:
    library = jinja()
    nodes = library.nodes

    class Counting(library.visitor.NodeTransformer):  # type: ignore[misc, name-defined]
        """Puts ``_counted`` around what loops go through, and what looks at values where several are put together."""

        def visit_For(self, node: Any) -> Any:
            self.generic_visit(node)
            node.iter = nodes.Filter(node.iter, "_counted", [], [], None, None, lineno=node.lineno)
            return node

        def visit_Concat(self, node: Any) -> Any:
            self.generic_visit(node)
            values = nodes.List(node.nodes, lineno=node.lineno)
            return nodes.Filter(values, "_concatenated", [], [], None, None, lineno=node.lineno)

        def _looked(self, node: Any) -> Any:
            self.generic_visit(node)
            return nodes.Filter(node, "_looked", [], [], None, None, lineno=node.lineno)

        visit_List = visit_Dict = _looked

        def visit_Getitem(self, node: Any) -> Any:
            return self._looked(node) if isinstance(node.arg, nodes.Slice) else self.generic_visit(node)

        def visit_Tuple(self, node: Any) -> Any:
            return self._looked(node) if node.ctx == "load" else self.generic_visit(node)

    return Counting


@cache
def _environment() -> Any:
    library = jinja()
    nodes = library.nodes

    class Generation(library.ext.Extension):  # type: ignore[misc, name-defined]
        """``{% generation %}``: what marks an answer for training. Here it is what stands in it."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

        def _inside(self, caller: Any) -> Any:
            return caller()

    class Environment(library.sandbox.ImmutableSandboxedEnvironment):  # type: ignore[misc, name-defined]
        intercepted_binops = frozenset(("+", "*", "**", "%"))
        concat = staticmethod(_concat)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _check_operator(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
            budget = _BUDGET.get()
            _spend(1)
            if isinstance(__obj, library.runtime.LoopContext) and args:
                args = (_Turns(args[0]), *args[1:])
            _look(*args, *kwargs.values())
            _check_method(__obj, args, kwargs)
            budget.depth += 1
            if budget.depth > _MOST_DEPTH:
                raise TemplateError(f"goes more than {_MOST_DEPTH} calls deep")
            try:
                return _grown(super().call(__context, __obj, *args, **kwargs))
            finally:
                budget.depth -= 1

    class Namespace(library.utils.Namespace):  # type: ignore[misc, name-defined]
        """Without names that begin with an underscore, which are those of the object itself."""

        def __init__(*args: Any, **attributes: Any) -> None:  # noqa: N805, RUF100
            self, *rest = args
            library.utils.Namespace.__init__(self)
            for name, value in dict(*rest, **attributes).items():
                self[name] = value

        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                raise library.exceptions.SecurityError(f"the name {name[:60]!r} of a namespace")
            super().__setitem__(name, value)

    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, finalize=_finalized, extensions=[Generation, library.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.filters = {name: _bounded_filter(name, run) for name, run in environment.filters.items()}
    for run in (_counted, _looked, _concatenated):
        environment.filters[run.__name__] = _with_context(run)
    del environment.globals["lipsum"]
    environment.globals |= {
        "namespace": Namespace, "raise_exception": _raise_exception, "strftime_now": _strftime_now,
    }  # fmt: skip
    return environment
