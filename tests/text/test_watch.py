# SPDX-License-Identifier: MIT
"""Text that grows token by token, and ends where a stop string is complete."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastattn.text.watch import Watch


class Spoken:
    """Tokens are indices of pieces of text."""

    def __init__(self, pieces: Sequence[str], last: str = "") -> None:
        self._pieces, self._last = pieces, last

    def push(self, token: int) -> str:
        return self._pieces[token]

    def finish(self) -> str:
        return self._last


def run(
    pieces: Sequence[str], stop: Sequence[str], include: bool = False, last: str = ""
) -> tuple[list[str], str | None]:
    """What is shown after each piece and at the end, and the string that was found."""
    watch = Watch(Spoken(pieces, last), stop, include)
    shown = []
    for i in range(len(pieces)):
        ended = watch.push(i)
        shown.append(watch.take())
        if ended:
            break
    watch.finish()
    return [*shown, watch.take()], watch.found


@pytest.mark.parametrize(
    ("pieces", "stop", "shown", "found"),
    [
        (["ab", "c"], [], ["ab", "c", ""], None),
        (["ab", "c"], ["x"], ["ab", "c", ""], None),
        (["ab", "cd"], ["bc"], ["a", "", ""], "bc"),
        (["ab", "d"], ["bc"], ["a", "bd", ""], None),
        (["ab"], ["bc"], ["a", "b"], None),
        (["aaa", "ab"], ["aab"], ["a", "a", ""], "aab"),
        (["x\n", "\n", "y"], ["\n\n"], ["x", "", ""], "\n\n"),
        (["one two three"], ["two", "one two"], ["", ""], "one two"),
        (["one two three"], ["three", "two"], ["one ", ""], "two"),
        (["S", "T", "O", "P"], ["STOP"], ["", "", "", "", ""], "STOP"),
        (["S", "T", "O", "p"], ["STOP"], ["", "", "", "STOp", ""], None),
        (["abab", "abc"], ["ababc"], ["", "ab", ""], "ababc"),
        (["é", "🙂x"], ["🙂"], ["é", "", ""], "🙂"),
    ],
)
def test_what_is_shown(pieces: list[str], stop: list[str], shown: list[str], found: str | None) -> None:
    assert run(pieces, stop) == (shown, found)


def test_the_string_itself_is_shown_where_asked() -> None:
    assert run(["one t", "wo three"], ["two"], include=True) == (["one ", "two", ""], "two")


def test_what_comes_last_is_looked_at_too() -> None:
    assert run(["ab"], ["b\ufffd"], last="\ufffd") == (["a", ""], "b\ufffd")
    assert run(["ab"], ["x"], last="\ufffd") == (["ab", "\ufffd"], None)


@given(
    st.lists(st.text("abc", max_size=4), max_size=12),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    st.booleans(),
)
def test_how_the_text_is_cut_does_not_matter(pieces: list[str], stop: list[str], include: bool) -> None:
    """It ends with the first letter that completes a string; nothing is shown that would have to be taken back."""
    text = "".join(pieces)
    ends = [(text.find(one) + len(one), -len(one), one) for one in stop if one in text]
    shown, found = run(pieces, stop, include)
    letters = run(list(text), stop, include)
    assert ("".join(shown), found) == ("".join(letters[0]), letters[1])
    if not ends:
        assert ("".join(shown), found) == (text, None)
    else:
        end, length, one = min(ends)
        assert ("".join(shown), found) == (text[: end if include else end + length], one)
