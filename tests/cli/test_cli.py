# SPDX-License-Identifier: MIT
"""The command as a process: help, usage, exit statuses, Ctrl-C, broken pipes, info."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.commands import environment, run, start, wait_for_output
from support.processes import TIME_LIMIT, output_of

import fastattn
from fastattn import cli

COMMANDS = [
    (),
    ("info",),
    ("embed",),
    ("classify",),
    ("rerank",),
    ("bench",),
    ("generate",),
    ("pack",),
    *(("bench", what) for what in ("peak", "attention", "linear", "model", "gguf")),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_examples_that_parse(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command, "--help"]) == 0
    text, err = capsys.readouterr()
    assert not err
    assert text.startswith(f"usage: {' '.join(('fastattn', *command))}")
    examples = text.split("\nexamples:\n")[1].split("\n\n")[0].splitlines()
    assert examples
    for line in examples:
        words = shlex.split(line.split("|")[-1].split(">")[0])
        words = words[1:] if words[0].startswith("FASTATTN_") else words
        assert words[0] == "fastattn"
        assert callable(cli._parser().parse_args(words[1:]).run)


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["bench"],
        ["nonsense"],
        ["bench", "nonsense"],
        ["info", "--threads", "0"],
        ["info", "--threads", "x"],
        ["info", "a", "b"],
        ["info", "a", "--threads", "1"],
        ["info", "--threads", "1.5"],
        ["embed"],
        ["bench", "peak", "--rounds", "0"],
        ["bench", "peak", "--seconds", "nan"],
        ["bench", "peak", "--seconds", "-1"],
        ["bench", "attention", "--shapes", "no-such-shape"],
        ["bench", "linear", "--shapes", ","],
        ["bench", "linear", "--compare", "nobody"],
        ["bench", "attention", "--memory", "--overhead"],
        ["bench", "peak", "--compare", "torch"],
        ["bench", "peak", "--cpu-time", "--threads", "2"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(args) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("usage: fastattn")
    assert "error: " in err.splitlines()[-1]


def test_version_and_module() -> None:
    assert run("--version") == (0, f"fastattn {fastattn.__version__}\n", "")


def test_info_text() -> None:
    status, out, err = run("info", "--threads", "1")
    assert (status, err) == (0, "")
    assert "1 thread" in out and "set by set_num_threads()" in out
    for word in ("numerics version 3 (new in 2: ", "instruction set", "caches", "compiler", "GFLOP/s", "GB/s"):
        assert word in out, word


def test_info_json() -> None:
    status, out, err = run("info", "--json", env={"FASTATTN_ISA": "scalar"})
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert (found["cpu"]["isa"], found["cpu"]["isa_source"]) == ("scalar", "FASTATTN_ISA")
    assert (found["threads"]["num_threads"], found["threads"]["source"]) == (2, "FASTATTN_NUM_THREADS")
    assert found["build"] == fastattn.build_info()
    assert found["peaks"]["gflops"] > 0 and found["peaks"]["gbytes_per_second"] > 0


def test_interrupt_in_a_long_kernel() -> None:
    # one call of the scalar kernel takes many seconds here, and no Python runs meanwhile
    with start(
        "bench", "attention", "--shapes", "full-n8192-d64", "--threads", "1", env={"FASTATTN_ISA": "scalar"}
    ) as process:
        wait_for_output(process, b"median")
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        before = time.monotonic()
        out, err = process.communicate(timeout=TIME_LIMIT)
        assert (process.returncode, out.strip(), err) == (130, b"", b"")  # the heading's line end may come late
        assert time.monotonic() - before < 3


def test_interrupt_while_waiting_for_input() -> None:
    with start("embed", "-") as process:
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        assert process.wait(TIME_LIMIT) in (130, 1)  # 1: the interpreter itself was still starting
        assert process.stdout is not None and process.stdout.read() == b""


def test_an_ignored_interrupt_stays_ignored() -> None:
    command = [sys.executable, "-m", "fastattn", "bench", "peak", "--rounds", "3"]
    with subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    ) as process:
        for _ in range(10):
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        out, err = process.communicate(timeout=TIME_LIMIT)
    assert (process.returncode, err) == (0, b"")
    assert b"GFLOP/s" in out


def test_main_in_another_program_leaves_it_as_it_was() -> None:
    code = """
        import signal, sys, threading
        from fastattn.cli import main
        before = signal.getsignal(signal.SIGINT)
        sys.argv = ["program", "--version"]
        assert main() == 0
        assert signal.getsignal(signal.SIGINT) is before
        assert signal.set_wakeup_fd(-1) == -1
        assert threading.active_count() == 1
        results = []
        thread = threading.Thread(target=lambda: results.append(main()))
        thread.start()
        thread.join()
        assert results == [0]
        print("still here")
    """
    assert output_of(code).endswith("still here")


def test_a_broken_pipe_is_silent() -> None:
    with start("bench", "attention", "--shapes", "full-n16-d64", "--rounds", "200000") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(TIME_LIMIT) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fastattn", "--version"],
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=TIME_LIMIT,
        )
    assert done.returncode == 1
    assert done.stderr.decode().strip() == "fastattn: standard output: No space left on device"


def test_closed_standard_output_is_an_error() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -m fastattn --version >&-', sys.executable],
        env=environment(),
        stderr=subprocess.PIPE,
        timeout=TIME_LIMIT,
    )
    assert (done.returncode, done.stderr) == (1, b"fastattn: standard output is closed\n")


def test_a_command_imports_what_it_needs_alone() -> None:
    code = """
        import sys
        from fastattn.cli import main
        assert main(["embed", "--model", "/nonexistent", "a"]) == 1
        heavy = ["importlib.metadata", "asyncio", "unittest", "multiprocessing", "subprocess", "hashlib"]
        heavy += ["csv", "shutil", "pyarrow", "fastattn.cli.bench", "fastattn.cli.parquetreader"]
        heavy += ["fastattn.bench", "fastattn.reference", "threadpoolctl", "torch"]
        print([name for name in heavy if name in sys.modules])
    """
    assert output_of(code) == "[]"
