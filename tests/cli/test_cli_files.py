# SPDX-License-Identifier: MIT
"""Files and streams as the command meets them: outputs of every kind, streams that are closed, full or do not block."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_bert
from support.commands import environment, run, start, wait_for_output
from support.processes import TIME_LIMIT, output_of

from fastattn import cli
from fastattn.cli.jsonlines import JsonLinesFile
from fastattn.cli.npyfile import NpyWriter

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_bert.save_text_folder(tmp_path_factory.mktemp("tiny") / "model"))


def shell(script: str, *args: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """`script`, in which ``$FA`` is the command and ``$1`` and so on are `args`."""
    env = environment({"FA": f"{sys.executable} -m fastattn", "FASTATTN_NUM_THREADS": "1"})
    return subprocess.run(
        ["sh", "-c", script, "sh", *args], env=env, capture_output=True, timeout=TIME_LIMIT, **options
    )


def embed(folder: str, *args: str) -> int:
    """The command in this process; its status."""
    return cli.main(["embed", "--model", folder, *args])


def vectors(count: int) -> dict[str, Any]:
    return {"text": ["t"] * count, "embedding": np.full((count, 3), 0.5, np.float32)}


def rows_of(path: Path) -> int:
    if path.suffix == ".npy":
        return len(np.load(path))
    if path.suffix == ".jsonl":
        return len([json.loads(line) for line in path.read_text().splitlines()])
    import pyarrow.parquet

    return int(pyarrow.parquet.read_table(path).num_rows)


# ---- outputs


@pytest.mark.parametrize("name", ["v.jsonl", "v.npy", "v.parquet"])
def test_a_private_output_stays_private(folder: str, tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    target = tmp_path / name
    target.touch()
    target.chmod(0o600)
    assert embed(folder, "--output", str(target), "a", "the cat") == 0
    assert target.stat().st_mode & 0o777 == 0o600 and rows_of(target) == 2


def test_a_private_packed_file_stays_private(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "m.fastattn"
    target.touch()
    target.chmod(0o600)
    assert cli.main(["pack", folder, str(target)]) == 0
    assert target.stat().st_mode & 0o777 == 0o600 and embed(str(target), "a") == 0


def bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Path) -> None:
    """As a mount of that one file is: nothing can replace it."""
    replace = os.replace

    def refuse(source: str, to: str) -> None:
        if to == str(target):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), source, None, to)
        replace(source, to)

    monkeypatch.setattr(os, "replace", refuse)


def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Path) -> None:
    """A folder that takes no new file."""
    real = os.open

    def refuse(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_CREAT and os.path.dirname(path) == str(tmp_path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.parametrize("name", ["v.jsonl", "v.npy", "v.parquet"])
@pytest.mark.parametrize("kind", [bound, closed])
def test_an_output_that_cannot_be_replaced_is_written_over(
    folder: str, tmp_path: Path, name: str, kind: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    target = tmp_path / name
    target.write_bytes(b"old" * 5000)
    number = target.stat().st_ino
    kind(tmp_path, monkeypatch, target)
    assert embed(f"{tmp_path}/no-model", "--output", str(target), "a") == 1
    assert target.read_bytes() == b"old" * 5000 and list(tmp_path.iterdir()) == [target]
    assert embed(folder, "--output", str(target), "a", "the cat") == 0
    assert target.stat().st_ino == number and rows_of(target) == 2 and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("name", ["v.jsonl", "v.npy", "v.parquet"])
def test_a_failure_in_place(
    folder: str, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    source, target = tmp_path / "in.txt", tmp_path / name
    source.write_bytes(b"a\nb\n\xff\n")
    target.write_bytes(b"old" * 5000)
    closed(tmp_path, monkeypatch, target)
    assert embed(folder, "--output", str(target), "--input", str(source)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[1:] == [
        f"fastattn: {target} is not complete; it was written in place and has the 2 rows that were done"
    ]
    assert rows_of(target) == 2


def test_the_input_is_not_written_in_place(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "v.jsonl"
    target.write_text('{"text": "a"}\n')
    closed(tmp_path, monkeypatch, target)
    assert embed(folder, "--output", str(target), "--input", str(target)) == 1
    assert capsys.readouterr().err.startswith(f"fastattn: {target}: it is the input, and")
    assert target.read_text() == '{"text": "a"}\n'


def test_the_input_may_be_the_output(folder: str, tmp_path: Path) -> None:
    target = tmp_path / "v.jsonl"
    target.write_text('{"text": "a"}\n{"text": "b"}\n')
    assert embed(folder, "--output", str(target), "--input", str(target)) == 0
    assert [len(json.loads(line)["embedding"]) for line in target.read_text().splitlines()] == [32, 32]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user; the tests above do not")
def test_outputs_that_belong_to_another_user(folder: str, tmp_path: Path) -> None:
    code = """
        import os, sys, tempfile
        from fastattn import cli
        model, place = sys.argv[1:]
        os.chdir(place)
        for args in (["embed", "--model", model, "--output", "warm.jsonl", "a"], ["pack", model, "warm.fastattn"]):
            assert cli.main(args) == 0  # whatever is imported is there
        for folder, mode in (("closed", 0o755), ("sticky", 0o1777)):
            os.mkdir(folder)
            os.chmod(folder, mode)
            modes = {"open.jsonl": 0o666, "shut.jsonl": 0o644, "private.jsonl": 0o600, "packed": 0o666}
            for name, mode in modes.items():
                with open(f"{folder}/{name}", "w") as file:
                    file.write("old\\n" * 300 * (name != "packed"))
                os.chmod(f"{folder}/{name}", mode)
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        sys.stderr = sys.stdout
        for folder in ("closed", "sticky"):
            for name in ("open.jsonl", "shut.jsonl", "private.jsonl"):
                before = os.stat(f"{folder}/{name}").st_ino
                print(cli.main(["embed", "--model", model, "--output", f"{folder}/{name}", "a", "b"]))
                assert os.stat(f"{folder}/{name}").st_ino == before
            print(cli.main(["pack", model, f"{folder}/packed"]), len(os.listdir(folder)))
    """
    with tempfile.TemporaryDirectory() as place:  # the folders of pytest are root's alone
        os.chmod(place, 0o755)
        shutil.copytree(folder, f"{place}/model")
        found = output_of(code, "model", place).splitlines()[1:]
        sizes = [Path(place, kind, "open.jsonl").read_text().count("\n") for kind in ("closed", "sticky")]
    assert sizes == [2, 2]
    expected: list[str] = []
    for kind, words in (("closed", "Permission denied"), ("sticky", "it cannot be replaced")):
        expected += ["0", *(line for name in ("shut", "private") for line in (f"{kind}/{name}.jsonl: Permission", "1"))]
        expected += [f"{kind}/packed: {words}", "1 4"]
    assert len(found) == len(expected)
    assert all(want in line for line, want in zip(found, expected, strict=True)), found


@pytest.mark.parametrize("kind", [NpyWriter, JsonLinesFile])
def test_what_failures_have_kept_stays(tmp_path: Path, kind: Any) -> None:
    suffix = "npy" if kind is NpyWriter else "jsonl"
    target = tmp_path / f"v.{suffix}"
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / f"v.partial-2.{suffix}").symlink_to("precious")
    notes = []
    for count in (5, 2):
        with pytest.raises(KeyError) as caught, kind(str(target)) as writer:
            writer.write(vectors(count))
            raise KeyError
        notes += caught.value.__notes__
    kept = [tmp_path / f"v.partial.{suffix}", tmp_path / f"v.partial-3.{suffix}"]
    assert notes == [
        f"{target} is not complete; {count} rows that were done are in {path}"
        for count, path in zip((5, 2), kept, strict=True)
    ]
    assert [rows_of(path) for path in kept] == [5, 2] and (tmp_path / "precious").read_bytes() == b"precious"


def test_what_is_kept_is_named_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "v.jsonl").symlink_to("real/file.jsonl")
    with pytest.raises(KeyError) as caught, JsonLinesFile(f"{tmp_path}/v.jsonl") as writer:
        writer.write(vectors(1))
        raise KeyError
    assert caught.value.__notes__[0].endswith(f"are in {tmp_path}/real/file.partial.jsonl")


def test_an_end_that_fails_keeps_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk that does not take what it had said it would, and a copy over a file that stops in the middle."""
    target = tmp_path / "v.jsonl"
    target.write_bytes(b"old")

    def fail(*_: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match="Input/output error") as caught,
        JsonLinesFile(str(target)) as writer,
    ):
        writer.write(vectors(2))
        patch.setattr(os, "fsync", fail)
    assert caught.value.filename == str(target) and target.read_bytes() == b"old"
    assert caught.value.__notes__[0].endswith(f"2 rows that were done are in {tmp_path}/v.partial.jsonl")
    bound(tmp_path, monkeypatch, target)
    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match="Input/output error") as caught,
        JsonLinesFile(str(target)) as writer,
    ):
        writer.write(vectors(3))
        patch.setattr(os, "pwrite", fail)
    note = f"{target} was being written over and is damaged; 3 rows that were done are in {tmp_path}/v.partial-2.jsonl"
    assert caught.value.__notes__ == [note] and rows_of(tmp_path / "v.partial-2.jsonl") == 3


@pytest.mark.parametrize("count", [0, 2])
def test_an_interrupt_at_the_very_end_keeps_the_rows(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk takes what was written: the watcher's thread keeps it, and ends the process."""
    notes: list[str | None] = []
    writer = JsonLinesFile(f"{tmp_path}/v.jsonl")

    def interrupted(descriptor: int) -> None:
        notes.append(writer.keep())
        raise KeyError

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyError), writer:
        writer.write(vectors(count))
    kept = tmp_path / "v.partial.jsonl"
    assert notes == [f"{tmp_path}/v.jsonl is not complete; 2 rows that were done are in {kept}" if count else None]
    assert list(tmp_path.iterdir()) == [kept][: count and 1]


def test_two_writers_of_one_process_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two containers with one output, each of them process 1: one of the two results, whole."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    target = tmp_path / "v.jsonl"
    with JsonLinesFile(str(target)) as first, JsonLinesFile(str(target)) as second:
        for _ in range(50):
            first.write(vectors(3))
            second.write(vectors(2))
    assert rows_of(target) in (100, 150) and list(tmp_path.iterdir()) == [target]


def test_two_containers_with_one_output(folder: str, tmp_path: Path) -> None:
    for name, count in (("first", 900), ("second", 600)):
        (tmp_path / name).write_text(f"{name} job\n" * count)
    script = """
        unshare --pid --fork true 2> /dev/null || exit 77
        for name in first second; do
            unshare --pid --fork --mount-proc $FA embed --model $1 --input $name --output v.jsonl || echo failed &
        done
        wait
    """
    done = shell(script, folder, cwd=tmp_path)
    if done.returncode == 77:
        pytest.skip("no namespaces of processes here; the one above needs none")
    assert done.stdout == b""
    texts = {json.loads(line)["text"] for line in (tmp_path / "v.jsonl").read_text().splitlines()}
    assert (texts, rows_of(tmp_path / "v.jsonl")) in (({"first job"}, 900), ({"second job"}, 600))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second", "v.jsonl"]


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "fifo", "folder", "/dev/full"])
@pytest.mark.parametrize("command", ["embed", "pack"])
def test_outputs_that_are_no_files(
    folder: str, tmp_path: Path, name: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    Path("folder/model.fastattn").mkdir(parents=True)
    args = ["pack", folder, name] if command == "pack" else ["embed", "--model", "no-model", "--npy", name, "a"]
    assert cli.main(args) == 1
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and err.startswith(f"fastattn: {name}")
    assert "regular file" in err or "not a packed file" in err or "an open descriptor" in err


def test_a_disk_that_is_full(folder: str, tmp_path: Path) -> None:
    """As a limit on the length of files has it, which needs no mount."""
    (tmp_path / "in.txt").write_text("the cat sat on the mat\n" * 3000)
    for name, limit in (("v.jsonl", 700_000), ("v.npy", 200_000)):
        done = shell(
            f"$FA embed --model $1 --input in.txt --output {name}",
            folder,
            cwd=tmp_path,
            preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit)),
        )
        lines = done.stderr.decode().splitlines()
        assert done.returncode == 1 and len(lines) == 2 and lines[0] == f"fastattn: {name}: File too large"
        kept = tmp_path / name.replace("v.", "v.partial.")
        assert lines[1] == f"fastattn: {name} is not complete; {rows_of(kept)} rows that were done are in {kept.name}"
        assert 500 < rows_of(kept) < 3000


# ---- what killed jobs leave


def test_a_job_that_was_killed_and_one_that_runs(folder: str, tmp_path: Path) -> None:
    target = tmp_path / "v.jsonl"
    with start("embed", "--model", folder, "--output", str(target), "-") as process:
        end = time.monotonic() + TIME_LIMIT
        while not (paths := list(tmp_path.iterdir())) and time.monotonic() < end:
            time.sleep(0.01)
        status, out, err = run("embed", "--model", folder, "--output", str(target), "a")
        assert (status, out) == (0, "")
        assert (
            err.startswith(f"fastattn: {target}: another job writes it too, in {paths[0]} (") and err.count("\n") == 1
        )
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdin is not None and process.stdout is not None
    status, out, err = run("embed", "--model", folder, "--output", str(target), "a")
    assert (status, out) == (0, "")
    assert err.startswith(f"fastattn: {target}: a job that was killed has left {paths[0]} (") and err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == sorted([target, *paths])


def test_leftovers_of_pack(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = tmp_path / "model.fastattn.1-01234567.partial"
    left.write_bytes(b"x" * 2_000_000)
    os.utime(left, (time.time() - 7300,) * 2)
    assert cli.main(["pack", folder, str(tmp_path)]) == 0
    text = f"fastattn: {tmp_path}/model.fastattn: a job that was killed has left {left} (2.0 MB, last written 2 h ago)"
    assert capsys.readouterr().err == f"{text}; nothing uses that\n"
    for number in range(7):
        (tmp_path / f"model.fastattn.{number}-01234567.partial").touch()
    assert cli.main(["pack", folder, f"{tmp_path}/model.fastattn"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6 and lines[-1] == f"fastattn: {tmp_path}/model.fastattn: and 2 more such files"


# ---- streams


def test_standard_error_closed_is_not_standard_output(folder: str, tmp_path: Path) -> None:
    script = """
        $FA embed --model nowhere a 2>&-; echo "$?"
        $FA embed 2>&-; echo "$?"
        $FA embed --model $1 --max-length 3 --output v.jsonl "the cat sat on the mat" 2>&-; echo "$?"
    """
    done = shell(script, folder, cwd=tmp_path)
    assert (done.stdout, done.stderr) == (b"1\n2\n0\n", b"")
    assert rows_of(tmp_path / "v.jsonl") == 1


def test_standard_input_and_output_closed(folder: str, tmp_path: Path) -> None:
    script = """
        $FA embed --model $1 - <&-; echo "$?"
        $FA embed --model $1 a >&-; echo "$?"
        $FA embed --model $1 --output v.jsonl a <&-; echo "$?"
    """
    done = shell(script, folder, cwd=tmp_path)
    assert done.stdout == b"1\n1\n0\n"
    assert done.stderr == b"fastattn: standard input is closed\nfastattn: standard output is closed\n"


def test_another_programs_standard_error_may_be_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["embed", "--model", "/nowhere", "a"]) == 1
    assert cli.main(["embed", "--nonsense"]) == 2
    assert cli.main([]) == 2
    assert sys.stderr is None and capsys.readouterr().out == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_standard_output_is_named(folder: str, tmp_path: Path) -> None:
    script = """
        PYTHONUNBUFFERED=1 $FA info --threads 1 > /dev/full; echo "$?"
        for args in "embed --model $1 a" "pack $1 m.fastattn" "bench linear --list"; do
            $FA $args > /dev/full; echo "$?"
        done
        $FA embed --nonsense 2> /dev/full; echo "$?"
    """
    done = shell(script, folder, cwd=tmp_path)
    assert done.stdout == b"1\n" * 4 + b"2\n"
    assert done.stderr == b"fastattn: standard output: No space left on device\n" * 4


def test_standard_input_that_does_not_block(folder: str) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with subprocess.Popen(
        [sys.executable, "-m", "fastattn", "embed", "--model", folder, "-"],
        env=environment(),
        stdin=reader,
        stdout=subprocess.PIPE,
    ) as process:
        os.close(reader)
        for text in (b"the cat", b"a b c"):
            time.sleep(0.3)
            os.write(writer, text[:3])
            time.sleep(0.1)
            os.write(writer, text[3:] + b"\n")
            wait_for_output(process, b'{"text": "' + text + b'", ')
        os.close(writer)
        assert process.wait(TIME_LIMIT) == 0


def test_standard_output_that_does_not_block(folder: str, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("the cat sat on the mat\n" * 800)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with subprocess.Popen(
        [sys.executable, "-m", "fastattn", "embed", "--model", folder, "--input", str(tmp_path / "in.txt")],
        env=environment({"FASTATTN_NUM_THREADS": "1"}),
        stdout=writer,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(writer)
        assert process.stderr is not None
        time.sleep(0.5)
        data = b""
        while piece := os.read(reader, 1 << 16):
            data += piece
        assert (process.wait(TIME_LIMIT), process.stderr.read()) == (0, b"")
    os.close(reader)
    assert data.count(b"\n") == 800 and data.endswith(b"}\n") and len(set(data.splitlines())) == 1


def test_printed_output_that_does_not_block() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    code = "from fastattn.cli import streams; streams.settle(); print('x' * 999_999)"
    with subprocess.Popen([sys.executable, "-c", code], env=environment(), stdout=writer) as process:
        os.close(writer)
        data = b""
        thread = threading.Timer(0.3, lambda: None)
        thread.start()
        thread.join()
        while piece := os.read(reader, 1 << 16):
            data += piece
        assert process.wait(TIME_LIMIT) == 0
    os.close(reader)
    assert data == b"x" * 999_999 + b"\n"


# ---- inputs that cannot be read


@pytest.mark.parametrize("form", ["lines", "jsonl", "csv", "parquet"])
def test_an_input_that_cannot_be_read_is_named(
    folder: str, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    places = {str(tmp_path): "Is a directory", f"{tmp_path}/no": "No such file or directory"}
    if Path("/proc/self/mem").exists() and form != "parquet":
        places["/proc/self/mem"] = "Input/output error"  # reading at its beginning
    for place, words in places.items():
        assert embed(folder, "--format", form, "--input", place) == 1
        assert capsys.readouterr().err == f"fastattn: {place}: {words}\n"


@pytest.mark.parametrize("form", ["lines", "jsonl", "csv"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_read_error_in_the_middle_names_its_file(
    folder: str, tmp_path: Path, form: str, number: int, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    source = tmp_path / "in"
    line = {"lines": b"the cat\n", "csv": b"the cat\n", "jsonl": b'{"text": "the cat"}\n'}[form]
    source.write_bytes(b"text\n" * (form == "csv") + line * 3 + line[:4])
    read, count = os.read, [0]

    def failing(descriptor: int, size: int) -> bytes:
        if os.path.samestat(os.fstat(descriptor), os.stat(source)):
            count[0] += 1
            if count[0] > 1:
                raise OSError(number, os.strerror(number))
        return read(descriptor, size)

    monkeypatch.setattr(os, "read", failing)
    assert embed(folder, "--format", form, "--input", str(source)) == 1
    out, err = capsys.readouterr()
    assert err == f"fastattn: {source}: {os.strerror(number)}\n"
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["the cat"] * 3  # what came before is answered
