# SPDX-License-Identifier: MIT
"""``fastattn generate`` as a process: text as it comes, interrupts, time limits, outputs that fail, terminals."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("tokenizers")

from support import prompted_folders
from support.commands import environment, run, start
from support.processes import TIME_LIMIT

import fastattn as fa
from fastattn import cli

LONG = ["--ignore-eos", "--threads", "1"]
"""A text that takes many seconds, of a model of ``folder``."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(prompted_folders.save(tmp_path_factory.mktemp("generate") / "model", context=200_000))


def first_piece(descriptor: int) -> bytes:
    """What comes first."""
    assert select.select([descriptor], [], [], TIME_LIMIT)[0]
    return os.read(descriptor, 1 << 16)


def expected_text(folder: str, count: int) -> bytes:
    """The beginning of the text behind "Hello"."""
    text = fa.load(folder).generate("Hello", max_new_tokens=count, ignore_eos=True)[0].text
    return text.rstrip("\ufffd").encode()


def test_pieces_come_before_the_end_and_stay_after_an_interrupt(folder: str) -> None:
    with start("generate", "Hello", "--model", folder, *LONG) as process:
        assert process.stdout is not None and process.stderr is not None
        out = first_piece(process.stdout.fileno())
        assert process.poll() is None
        before = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(TIME_LIMIT) == 130
        assert time.monotonic() - before < 1.0  # some hundredths of a second on a machine that does nothing else
        out += process.stdout.read()
        assert process.stderr.read() == b""
    assert expected_text(folder, 100)[:40].startswith(out[:40]) and out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_in_a_long_prompt(folder: str, number: int) -> None:
    """Of minutes, all before the first token."""
    with start("generate", "-", "--model", folder, "--threads", "1") as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(b"the cat sat on the mat " * 8000)
        process.stdin.close()
        time.sleep(1.5)
        assert process.poll() is None
        before = time.monotonic()
        process.send_signal(number)
        assert process.wait(TIME_LIMIT) == 128 + number
        assert time.monotonic() - before < 1.0
        assert (process.stdout.read(), process.stderr.read()) == (b"", b"")


def test_a_reader_that_leaves(folder: str) -> None:
    with start("generate", "Hello", "--model", folder, *LONG) as process:
        assert process.stdout is not None and process.stderr is not None
        assert first_piece(process.stdout.fileno())
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(TIME_LIMIT) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("more", [[], ["--json", "--max-new-tokens", "5"]], ids=["text", "json"])
def test_a_full_disk(folder: str, more: list[str]) -> None:
    command = [sys.executable, "-m", "fastattn", "generate", "Hello", "--model", folder, *LONG, *more]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, env=environment(), stdout=full, stderr=subprocess.PIPE, timeout=TIME_LIMIT)
    assert (done.returncode, done.stderr) == (1, b"fastattn: standard output: No space left on device\n")


def test_closed_standard_output(folder: str) -> None:
    command = ["sh", "-c", 'exec "$0" -m fastattn generate a --model "$1" >&-', sys.executable, folder]
    done = subprocess.run(command, env=environment(), stderr=subprocess.PIPE, timeout=TIME_LIMIT)
    assert (done.returncode, done.stderr) == (1, b"fastattn: standard output is closed\n")


# ---- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_there_is_after_the_time(folder: str, form: str) -> None:
    more = ["--json"] if form == "json" else []
    status, out, err = run("generate", "Hello", "--model", folder, *LONG, "--timeout", "1.2", *more)
    assert (status, err) == (124, "fastattn: --timeout: 1.2 s have passed\n")
    assert out.endswith("\n")
    text = json.loads(out)["text"] if form == "json" else out.removesuffix("\n")
    if form == "json":
        assert json.loads(out)["finish_reason"] == "timeout" and out.count("\n") == 1
    assert text.encode()[:40].startswith(expected_text(folder, 60)[:40]) or not text  # a machine that is too busy


def test_time_that_passes_in_a_long_prompt(folder: str) -> None:
    data = b"the cat sat on the mat " * 8000
    before = time.monotonic()
    status, out, err = run("generate", "-", "--model", folder, "--threads", "1", "--timeout", "1", stdin=data)
    assert (status, out.strip(), err) == (124, "", "fastattn: --timeout: 1 s have passed\n")
    assert time.monotonic() - before < 20


def test_time_that_passes_before_the_model_is_there(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "a", "--model", folder, "--timeout", "1e-9"]) == 124
    assert capsys.readouterr() == ("", "fastattn: --timeout: 1e-09 s have passed\n")


def test_an_input_that_says_nothing(folder: str) -> None:
    with start("generate", "-", "--model", folder, "--timeout", "0.3") as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.wait(TIME_LIMIT) == 124
        assert (process.stdout.read(), process.stderr.read()) == (b"", b"fastattn: --timeout: 0.3 s have passed\n")


# ---- terminals and encodings -----------------------------------------------------------------------------------------


def test_an_encoding_without_the_letters(folder: str) -> None:
    prompt = ["generate", "Hello", "--model", folder, "--ignore-eos", "--max-new-tokens", "60"]
    text = run(*prompt)[1]
    assert not text.isascii()
    for encoding in ("ascii", "latin-1"):
        with start(*prompt, env={"PYTHONIOENCODING": encoding}) as process:
            out, err = process.communicate(timeout=TIME_LIMIT)
        assert (process.returncode, err) == (0, b"")
        assert out == text.encode(encoding, "backslashreplace")


def test_another_programs_output_stays_as_it_was(folder: str) -> None:
    code = (
        "import sys\nfrom fastattn.cli import main\n"
        f"assert main(['generate', 'a', '--model', {folder!r}, '--max-new-tokens', '3']) == 0\n"
        "assert sys.stdout.errors == 'strict', sys.stdout.errors\nprint(main(['generate', 'a', '--model', 'none']))\n"
    )
    env = environment({"PYTHONIOENCODING": "utf-8:strict"})
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=TIME_LIMIT)
    assert (done.returncode, done.stdout[-3:]) == (0, b"\n1\n"), done.stderr


def test_a_terminal_gets_its_line_ended(folder: str) -> None:
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "fastattn", "generate", "Hello", "--model", folder, *LONG]
    with subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, stdout=terminal) as process:
        os.close(terminal)
        out = first_piece(main)
        process.send_signal(signal.SIGINT)
        while True:
            try:
                piece = os.read(main, 1 << 16)
            except OSError:  # EIO: nobody has the other side any more
                break
            if not piece:
                break
            out += piece
        assert process.wait(TIME_LIMIT) == 130
    os.close(main)
    assert out.endswith(b"\r\n") and len(out) > 2
