# SPDX-License-Identifier: MIT
"""``general.sampling.*`` of GGUF files: which of them say that tokens are drawn, and how they are drawn then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tokenizers")

from support import prompted_folders

import fastattn as fa

CALL = {"max_new_tokens": 16, "ignore_eos": True, "seed": 4}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return fa.load(prompted_folders.save_gguf(tmp_path_factory.mktemp("plain") / "m.gguf"))


@pytest.mark.parametrize(("stored", "options"), [
    ({"xtc_probability": 1.0}, {"xtc": (1.0, 0.1), "top_k": 50}),
    ({"xtc_probability": 0.75, "xtc_threshold": 0.0}, {"xtc": (0.75, 0.0), "top_k": 50}),
    ({"xtc_threshold": 0.25}, {"top_k": 50}),
    ({"mirostat": 1}, {"mirostat": 1}),
    ({"mirostat": 2, "mirostat_tau": 2.0}, {"mirostat": {"version": 2, "tau": 2.0}}),
    ({"mirostat": 2, "mirostat_eta": 0.5}, {"mirostat": {"version": 2, "eta": 0.5}}),
    ({"mirostat_tau": 2.0, "mirostat_eta": 0.5}, {"top_k": 50}),
    ({"mirostat": 0}, {"top_k": 50}),
    ({"temp": 0.75}, {"temperature": 0.75, "top_k": 50}),
    ({"top_k": 9}, {"top_k": 9}),
    ({"min_p": 0.0}, {"min_p": 0.0, "top_k": 50}),
], ids=str)  # fmt: skip
def test_what_has_a_meaning_where_tokens_are_drawn(
    tmp_path: Path, plain: Any, stored: dict[str, Any], options: dict[str, Any]
) -> None:
    fields = {f"general__sampling__{name}": value for name, value in stored.items()}
    model = fa.load(prompted_folders.save_gguf(tmp_path / "m.gguf", **fields))
    made = model.generate("Hello", **CALL)[0]
    assert made.settings["do_sample"] is True and made == plain.generate("Hello", do_sample=True, **CALL, **options)[0]
    assert made.token_ids != model.generate("Hello", temperature=0, **CALL)[0].token_ids


@pytest.mark.parametrize("stored", [
    {}, {"penalty_repeat": 1.0}, {"temp": 0.0}, {"temp": 0.0, "mirostat": 2}, {"xtc_probability": 1.0, "temp": 0},
], ids=str)  # fmt: skip
def test_greedy_files(tmp_path: Path, plain: Any, stored: dict[str, Any]) -> None:
    fields = {f"general__sampling__{name}": value for name, value in stored.items()}
    made = fa.load(prompted_folders.save_gguf(tmp_path / "m.gguf", **fields)).generate("Hello", **CALL)[0]
    assert made.settings["do_sample"] is False and made == plain.generate("Hello", **CALL)[0]
