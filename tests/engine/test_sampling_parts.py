# SPDX-License-Identifier: MIT
"""Options of drawing that have several parts, and those that ban tokens: what they are, and what is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastattn.engine.bans import Bans, bans_of
from fastattn.engine.drawkinds import Dry, Mirostat
from fastattn.engine.sampling import Sampling, draws, sampling_of

INF, NAN = float("inf"), float("nan")


def dry(**more: Any) -> dict[str, Any]:
    return {"multiplier": 1, **more}


OUT_OF_RANGE: dict[str, list[Any]] = {
    "typical_p": [0, -0.5, 1.0000001, NAN, INF],
    "epsilon_cutoff": [-1e-9, 1, 1e-320, NAN, INF],
    "eta_cutoff": [-1e-9, 1, 1e-320, NAN, 10**400],
    "xtc": [
        (1.5, 0.1), (-0.1, 0.1), (0.5, 2), (NAN, 0.1), {"probability": 0.5, "p": 1},
        {"probability": 1, "threshold": -1},
    ],
    "mirostat": [3, -1, {"version": 3}, {"tau": -1}, {"tau": 65}, {"tau": NAN}, {"eta": 2}, {"rate": 0.1}, {2: 1}],
    "dry": [
        dry(multiplier=-1), dry(multiplier=NAN), dry(base=0.9), dry(base=INF), dry(allowed_length=-1),
        dry(penalty_last_n=-2), dry(last=3), dry(sequence_breakers=[100]), dry(sequence_breakers=[[1, -1]]),
        dry(sequence_breakers=[[]]), {**dry(), 3: 4},
    ],
    "no_repeat_ngram_size": [-1, -(10**30)],
    "bad_words": [[[]], [[100]], [[1, 2], [-1]], [[2**70]]],
    "allowed_token_ids": [[], [100], [-1], np.array([5, 100]), range(95, 101)],
    "suppress_tokens": [[-1], [3, -7]],
    "begin_suppress_tokens": [[-1], [3, -7]],
    "sequence_bias": [[[[], 1.0]], [[[100], 1.0]], [[[1], NAN]], [[[1], INF]], [[[1], None]], {(1, 2): 1e39}],
    "forced_bos_token_id": [-1, 100, [1, 2], []],
    "forced_eos_token_id": [-1, 2**70, [1, 2], []],
    "min_length": [-1],
    "exponential_decay_length_penalty": [(-1, 1.1), (1, 0.0), (1, -1), (1, NAN), (1, 1e39)],
}  # fmt: skip
OF_ANOTHER_KIND: dict[str, list[Any]] = {
    "typical_p": ["0.5", True, [0.5]],
    "epsilon_cutoff": ["0.5", False, {}],
    "eta_cutoff": [b"1", np.bool_(True), 1j],
    "xtc": [0.5, (0.5,), (0.5, 0.1, 3), "0.5", {"threshold": 0.1}, {}, ("1", 0.1), (True, 0.1), (None, 0.1)],
    "mirostat": [True, "2", 2.0, [2], {"version": "1"}, {"tau": "5"}, {"eta": (), "tau": 1}],
    "dry": [
        1.0, (1.0, 1.75), "dry", {}, {"base": 1.75}, dry(multiplier="1"), dry(multiplier=True), dry(base="2"),
        dry(allowed_length=2.0), dry(sequence_breakers=3), dry(sequence_breakers="\n"),
        dry(sequence_breakers=["\n"]), dry(sequence_breakers=[None]), dry(sequence_breakers={4}),
    ],
    "no_repeat_ngram_size": [2.0, "3", True],
    "bad_words": ["word", 3, [3], ["word"], [[1.0]], [[True]], [None], {1: 2}],
    "allowed_token_ids": ["5", 5, [1.5], [True], [None], {"a"}, np.zeros((2, 2), np.int64)],
    "suppress_tokens": [3, "3", [1.0], [[1]]],
    "begin_suppress_tokens": [3, "3", [1.0], [[1]]],
    "sequence_bias": [3, [3], [[1, 2.0, 3]], [[[1.5], 2.0]], [[[1], "2"]], {3: 1.0}],
    "forced_bos_token_id": ["1", 1.0, True],
    "forced_eos_token_id": [["1"], 1.0, True],
    "min_length": [1.5, "2"],
    "exponential_decay_length_penalty": [3, (3,), (3, 1.1, 2), "ab", (1.5, 1.1), (None, 1.1), (1, None)],
}  # fmt: skip
REFUSED = [
    (name, bad, error)
    for error, table in ((ValueError, OUT_OF_RANGE), (TypeError, OF_ANOTHER_KIND))
    for name, several in table.items()
    for bad in several
]


@pytest.mark.parametrize(("name", "bad", "error"), REFUSED, ids=[f"{case[0]} {i}" for i, case in enumerate(REFUSED)])
def test_parts_refused_by_name(name: str, bad: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"^{name}\b"):
        sampling_of(vocab_size=100, **{name: bad})
    if name in ("typical_p", "xtc", "mirostat"):
        with pytest.raises(error, match=rf"^{name}\b"):
            draws(**{name: bad})


def test_options_of_several_parts() -> None:
    assert sampling_of(xtc=(0.5, 0.2)).xtc == sampling_of(xtc={"threshold": 0.2, "probability": 0.5}).xtc == (0.5, 0.2)
    assert sampling_of(xtc={"probability": 1}).xtc == (1.0, 0.1) == sampling_of(xtc=[1, None]).xtc
    for nothing in ((0, 0.1), (1, 0.51), {"probability": 0}):
        assert sampling_of(xtc=nothing) == Sampling()
    assert sampling_of(mirostat=1).mirostat == Mirostat(1, 5.0, 0.1) and sampling_of(mirostat=0).mirostat is None
    assert sampling_of(mirostat={"tau": 2, "eta": 1}).mirostat == Mirostat(2, 2.0, 1.0)
    assert sampling_of(mirostat={"tau": 3.5}).mirostat.start == 7.0  # type: ignore[union-attr]
    made = sampling_of(
        dry={"multiplier": 0.8, "sequence_breakers": [4, [7, 8], np.array([4])], "penalty_last_n": -1}
    ).dry
    assert made == Dry(0.8, 1.75, 2, -1, ((4,), (7, 8), (4,)))
    assert [made.heads.tolist(), made.ends.tolist(), made.tails.tolist()] == [[4, 7], [0, 1], [8]]
    for off in ({"multiplier": 0}, {"multiplier": 1, "penalty_last_n": 0}):
        assert sampling_of(dry=off) == Sampling()
    assert sampling_of(dry={"multiplier": 10**30, "penalty_last_n": 10**400, "allowed_length": 10**400}).penalises


def test_bans_that_are_none() -> None:
    assert bans_of() is None and sampling_of(no_repeat_ngram_size=0, bad_words=[], suppress_tokens=[]).bans is None
    assert bans_of(bad_words=[[5], [6]], ends=(5, 6)) is None
    assert bans_of(bad_words=[(5,), [6, 5], [5], [6, 5]], ends=(6,)) == Bans(bad_words=((5,), (6, 5)))
    assert bans_of(forced_eos_token_id=[3]) == Bans(forced_eos_token_id=3)
    assert bans_of(allowed_token_ids={7, 1}, vocab_size=9).allowed.tolist() == [0b10000010]  # type: ignore[union-attr]
    assert bans_of(sequence_bias={(1, 2): 3}) == bans_of(sequence_bias=[[[1, 2], 3.0]])


@pytest.mark.parametrize(
    "cut",
    [{"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}, {"typical_p": 0.9}, {"xtc": (0.5, 0.1)}, {"eta_cutoff": 0.1}],
)
@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_excludes_what_it_takes_the_place_of(cut: dict[str, Any], version: int) -> None:
    with pytest.raises(ValueError, match=rf"^mirostat: got version {version} beside {next(iter(cut))}="):
        sampling_of(temperature=1, mirostat=version, **cut)
    sampling_of(mirostat=version, top_k=0, top_p=1, min_p=0, typical_p=1, xtc=(0, 0))


def test_what_is_shown_is_what_differs() -> None:
    assert repr(Sampling()) == "Sampling()"
    assert repr(sampling_of(top_k=3, xtc=(0.5, 0.25))) == "Sampling(top_k=3, xtc=(0.5, 0.25))"
