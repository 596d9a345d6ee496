# SPDX-License-Identifier: MIT
"""Options as they are spelled: whole names alone, paths that are not empty, --version by both its names."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest
from support.commands import run

import fastattn
from fastattn import cli


def parsers(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """The words of each command, and the long options it has."""
    yield words, [name for name in parser._option_string_actions if name.startswith("--")]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from parsers(inner, (*words, name))


COMMANDS = list(parsers(cli._parser()))
_ONE_TEXT = (("embed",), ("classify",), ("generate",))


def test_every_command_is_here() -> None:
    found = {words for words, _ in COMMANDS}
    assert {(), *((name,) for name in cli.COMMANDS), ("bench", "peak"), ("bench", "model")} <= found
    assert all(len(options) > 1 for words, options in COMMANDS if words not in ((), ("bench",)))


@pytest.mark.parametrize("words, options", COMMANDS, ids=[" ".join(words) for words, _ in COMMANDS])
def test_a_prefix_of_an_option_is_none(
    words: tuple[str, ...], options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for option in options:
        for prefix in {option[:3], option[: len(option) // 2 + 1], option[:-1]} - {*options, "--"}:
            required = ["--model", "m"] if words in (("classify",), ("rerank",)) else []
            places = ["a", "b"] if words == ("pack",) else ["a"] if words in _ONE_TEXT else []
            for spelled in (prefix, f"{prefix}=1"):
                assert cli.main([*words, *required, *places, spelled]) == 2, spelled
                out, err = capsys.readouterr()
                assert not out and ("unrecognized arguments" in err or "expected " in err.splitlines()[-1]), spelled


EMPTY = [
    ["embed", "--model", "", "a"],
    ["embed", "--model=", "a"],
    ["embed", "--input", ""],
    ["embed", "--output", "", "a"],
    ["embed", "--npy", "", "a"],
    ["classify", "--model", "", "a"],
    ["classify", "--model", "m", "--input", ""],
    ["classify", "--model", "m", "--output", "", "a"],
    ["rerank", "--model", "", "--query", "q", "a"],
    ["rerank", "--model", "m", "--query", "q", "--input", ""],
    ["rerank", "--model", "m", "--output", "", "--query", "q", "a"],
    ["generate", "--model", "", "a"],
    ["info", ""],
    ["pack", "", "b"],
    ["pack", "a", ""],
    ["pack", "--verify", ""],
    ["bench", "model", "--model", ""],
]


@pytest.mark.parametrize("args", EMPTY, ids=" ".join)
def test_an_empty_path_is_wrong_usage(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(args) == 2
    out, err = capsys.readouterr()
    assert not out and err.splitlines()[-1].endswith(": expected a path, got an empty string")


def test_the_version_by_both_its_names(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("-V", "--version"):
        assert cli.main([name]) == 0
        assert capsys.readouterr() == (f"fastattn {fastattn.__version__}\n", "")
    assert run("-V") == (0, f"fastattn {fastattn.__version__}\n", "")
    assert cli.main(["--vers"]) == cli.main(["-v"]) == 2
