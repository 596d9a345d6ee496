# SPDX-License-Identifier: MIT
"""What editors and type checkers know: a user's program under ``mypy --strict``, which is run as well.

The program, support/typed_program.py, uses every public name and says what it expects of each; a type checker has to
agree, the arrays that come back have to agree, and a name that it does not use is a failure here.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from golden import tiny_bert
from support import typed_program
from support.text_folders import save_task_folder

import fastattn as fa
import fastattn.typing as public_types
from fastattn import _core, ops, text
from fastattn.graph.choice import HEADS
from fastattn.loaders import WeightFile
from fastattn.text import TextEncoder
from fastattn.text.precision import PRECISIONS

PROGRAM = Path(typed_program.__file__)
PACKAGE = Path(fa.__file__).parent
attention_module = sys.modules["fastattn.attention"]


# ---- what mypy says --------------------------------------------------------------------------------------------------


def test_mypy_takes_the_program_and_refuses_what_it_marks(tmp_path: Path) -> None:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed; .ci/run has it")
    source = PROGRAM.read_text("utf-8")
    (tmp_path / "program.py").write_text(source, "utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MYPY", "PYTHONPATH"))}
    if "site-packages" not in PACKAGE.parts:
        environment["MYPYPATH"] = str(PACKAGE.parent)
    options = ["--strict", "--follow-imports=silent", "--config-file=", f"--cache-dir={tmp_path / 'cache'}"]
    command = [sys.executable, "-m", "mypy", *options, "--no-error-summary", "program.py"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    found = {int(number): line for number, line in re.findall(r"(?m)^program\.py:(\d+): error: (.*)", run.stdout)}
    marked = {n for n, line in enumerate(source.splitlines(), 1) if line.endswith("  # refused")}
    assert len(marked) > 30
    assert {n: line for n, line in found.items() if n not in marked} == {}
    assert marked - set(found) == set(), "mypy takes these lines"


# ---- what is true ----------------------------------------------------------------------------------------------------


def agrees(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, dtypes of arrays and members of containers included."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return True
    if kind is None or kind is type(None):
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(agrees(value, each) for each in arguments)
    if origin is text.Vectors:
        return isinstance(value, text.Vectors) and (arguments[0] is Any or value.dtype == arguments[0])
    if origin is np.ndarray:
        dtype = Any if arguments[1] is Any else typing.get_args(arguments[1])[0]
        return isinstance(value, np.ndarray) and (dtype is Any or value.dtype == dtype)
    if origin is tuple:
        kinds = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(agrees, value, kinds))
    if origin is dict:
        return isinstance(value, dict) and all(agrees(key, arguments[0]) for key in value)
    if origin is not None:
        return isinstance(value, origin) and all(agrees(member, arguments[0]) for member in value)
    return isinstance(value, kind)


def test_what_types_promise_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tokenizers")
    seen = 0

    def check(value: Any, kind: Any) -> Any:
        nonlocal seen
        seen += 1
        assert agrees(value, kind), f"{value!r} is no {kind}"
        return value

    monkeypatch.setattr(typed_program, "assert_type", check)
    threads = fa.get_num_threads()
    typed_program.operators()
    assert fa.get_num_threads() == threads
    for again, stage in ((True, "softcap"), (False, None)):
        typed_program.attention(again, stage)  # type: ignore[arg-type]
    typed_program.caches()
    folder = tiny_bert.save_text_folder(tmp_path / "plain")
    typed_program.weights(folder)
    typed_program.embedder(folder, tmp_path / "packed.fastattn")
    typed_program.heads(
        save_task_folder(tmp_path / "classifier", "sequence_classification", ["score"]),
        save_task_folder(tmp_path / "tagger", "token_classification", ["O", "B-X"]),
        save_task_folder(tmp_path / "reader", "question_answering"),
    )
    assert seen > 130


def test_the_check_of_what_comes_back_sees_other_types() -> None:
    floats, vectors = np.ones(3, np.float32), text.Vectors.of(np.ones((1, 2), np.int8), 0)
    good: list[tuple[Any, Any]] = [
        (floats, typed_program.F32), (vectors, text.Vectors[np.int8]), ([floats], list[typed_program.F32]),
        ((1, floats), tuple[int, typed_program.F32]), (None, typed_program.F32 | None),
    ]  # fmt: skip
    bad: list[tuple[Any, Any]] = [
        (floats.astype(np.float64), typed_program.F32), (vectors, text.Vectors[np.uint8]), (floats, text.Vectors[Any]),
        ([floats, None], list[typed_program.F32]), ((floats, 1), tuple[int, typed_program.F32]),
        (1, typed_program.F32 | None), ([1], tuple[int, ...]),
    ]  # fmt: skip
    assert all(agrees(*pair) for pair in good)
    assert not any(agrees(*pair) for pair in bad)


# ---- that nothing is left out ----------------------------------------------------------------------------------------


# What the program calls an object -> its public names. Not a user's: what loaders and constructors of models call.
LOADERS = {"keep", "pipeline", "program", "record", "run_packed"}
OWNERS: dict[str, Any] = {
    "cache": fa.KVCache, "paged": fa.PagedKVCache, "layer": fa.PackedLinear, "model": TextEncoder, "file": WeightFile,
    "pipeline": text.TextPipeline, "settings": text.TextSettings, "tokenizer": text.TextTokenizer,
}  # fmt: skip
MODULES: dict[str, Any] = {"fa": fa, "ops": ops, "text": text, "types": public_types}


def members(owner: type) -> set[str]:
    """Public methods and properties, but for those of tuples and those that are for loaders."""
    found = {name for name in dir(owner) if not name.startswith("_")} - LOADERS
    if issubclass(owner, tuple):
        found -= set(dir(tuple))
    return {name for name in found if is_member(owner, name)}


def is_member(owner: type, name: str) -> bool:
    """Whether it is a method or property that users have, no constant of the class."""
    value = inspect.getattr_static(owner, name)
    internal = (inspect.getdoc(getattr(owner, name)) or "").startswith(("For loaders", "For constructors"))
    return not internal and (callable(getattr(owner, name)) or inspect.isdatadescriptor(value))


def used(source: str) -> dict[str, set[str]]:
    """Attributes by the name of what they are of, and under "" the names that stand alone."""
    found: dict[str, set[str]] = {"": set()}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, (ast.Name, ast.Attribute)):
            owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            found.setdefault(owner, set()).add(node.attr)
        elif isinstance(node, ast.Name):
            found[""].add(node.id)
    return found


def test_the_program_uses_every_public_name() -> None:
    names = used(PROGRAM.read_text("utf-8"))
    names["layer"] |= names["PackedLinear"]
    names["settings"] |= names["TextSettings"]
    missing = {owner: members(what) - names[owner] for owner, what in OWNERS.items()}
    missing |= {owner: set(module.__all__) - names[owner] for owner, module in MODULES.items()}
    missing["attention"] = set(attention_module.__all__) - names[""] - names["fa"]
    assert {owner: left for owner, left in missing.items() if left} == {}
    assert {"append", "attend", "nbytes"} <= members(fa.KVCache) and {"embed", "notes"} <= members(TextEncoder)


def public_functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Functions, constructors and methods that users call."""
    for module in (fa, ops, text, attention_module):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value) and name != "attend_stored":  # which caches call
                yield f"{value.__module__}.{name}", value
    for owner in OWNERS.values():
        for name in sorted(members(owner) | {"__init__", "__call__"}):
            value = inspect.getattr_static(owner, name, None)
            if inspect.isfunction(value) and not (owner is TextEncoder and name == "__init__"):
                yield f"{owner.__name__}.{name}", value


FUNCTIONS = dict(public_functions())
# Options that go on to what says them: a method of TextEncoder, attention(). And an object of config.json.
UNTYPED = {"options", "scaling"}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_no_argument_is_just_anything(name: str) -> None:
    loose = [
        argument for argument, kind in FUNCTIONS[name].__annotations__.items()
        if argument != "return" and re.search(r"\bAny\b(?!\])", str(kind)) and argument not in UNTYPED
    ]  # fmt: skip
    assert loose == []
    result = FUNCTIONS[name].__annotations__.get("return")
    overloads = typing.get_overloads(FUNCTIONS[name])
    assert result != "Any" or overloads, "a result of any type, and no overloads"
    assert all(each.__annotations__["return"] != "Any" for each in overloads)


OPTIONS: Mapping[str, Any] = {name: getattr(public_types, name) for name in public_types.__all__ if "Options" in name}


@pytest.mark.parametrize("name", sorted(name for name in FUNCTIONS if typing.get_overloads(FUNCTIONS[name])))
def test_overloads_know_every_argument(name: str) -> None:
    if name.endswith(".attend"):  # which hands some on to attention
        wanted = set(inspect.signature(fa.attention_varlen).parameters)
        wanted -= {"q", "k", "v", "cu_seqlens_q", "cu_seqlens_k", "k_scale", "v_scale"}
        wanted |= set(inspect.signature(FUNCTIONS[name]).parameters) - {"options"}
        wanted |= {"mask"} if name.startswith("KVCache") else set()
    else:
        wanted = set(inspect.signature(FUNCTIONS[name]).parameters)
    for overload in typing.get_overloads(FUNCTIONS[name]):
        parameters = dict(inspect.signature(overload).parameters)
        if "options" in parameters:
            known = re.fullmatch(r"Unpack\[(\w+)\]", parameters.pop("options").annotation)
            assert known is not None
            parameters |= dict.fromkeys(OPTIONS[known[1]].__annotations__)  # type: ignore[arg-type]
        assert set(parameters) == wanted


def test_literals_are_what_calls_take() -> None:
    def words(alias: Any) -> set[Any]:
        return set(typing.get_args(alias))

    assert words(public_types.Activation) == set(_core.activation_names())
    assert words(public_types.PoolMode) == set(_core.pool_modes())
    assert words(public_types.HeadName) == set(HEADS)
    assert words(public_types.Precision) == set(PRECISIONS)
    modules = {each: sys.modules[f"fastattn.{each}"] for each in ("linear_attention", "similarity", "weights")}
    assert words(public_types.Rule) == set(modules["linear_attention"]._NEEDS_DECAY)
    assert words(public_types.Metric) == set(modules["similarity"]._METRICS)
    assert words(public_types.WeightType) == {*modules["weights"]._PANELS, "int4"}
    from fastattn.attention.options import SCORE_STAGES
    from fastattn.kvcache.checks import STORAGE

    assert words(public_types.ScoreStage) == set(SCORE_STAGES)
    assert words(public_types.WeightType) == {*STORAGE, "int4"}
    assert words(public_types.Causal) == {bool, Literal["top_left", "bottom_right"]}
    assert words(public_types.OnLong) == {"truncate", "error"}


def test_types_cost_an_import_nothing() -> None:
    code = "import sys, fastattn; print([name for name in ('fastattn.typing', 'numpy.typing') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
