# SPDX-License-Identifier: MIT
"""Files that have their name only when complete: modes, links, mounts, folders that take none, what is left."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.processes import run_python

from fastattn.loaders import newfile
from fastattn.loaders.newfile import NewFile, leftovers, names_a_descriptor


def write(target: Path, content: bytes = b"new", **options: Any) -> NewFile:
    new = NewFile(str(target), **options)
    os.write(new.descriptor, content)
    return new


def complete(target: Path, content: bytes = b"new") -> None:
    new = write(target, content)
    new.sync()
    if not new.replace():
        new.overwrite()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- modes and owners


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o604, 0o444, 0o666, 0o4755])
def test_the_mode_of_the_old_file_is_kept(tmp_path: Path, mode: int) -> None:
    target = tmp_path / "v.npy"
    target.write_bytes(b"old")
    target.chmod(mode)
    new = write(target)
    (temporary,) = set(tmp_path.iterdir()) - {target}
    assert mode_of(temporary) == mode & 0o777  # from the start: what is written is no more public than it was
    assert new.replace()
    assert target.read_bytes() == b"new" and mode_of(target) == mode & 0o777


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_that_the_process_gives(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        complete(tmp_path / "v.npy")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "v.npy") == 0o666 & ~mask


def test_a_mode_that_changes_meanwhile(tmp_path: Path) -> None:
    target = tmp_path / "v.npy"
    target.write_bytes(b"old")
    new = write(target)
    target.chmod(0o600)
    new.replace()
    assert mode_of(target) == 0o600


@pytest.mark.parametrize("allowed", ["both", "group", "none"])
def test_owner_and_group_as_far_as_the_process_may(
    tmp_path: Path, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "v.npy"
    target.write_bytes(b"old")
    target.chmod(0o664)
    asked: list[tuple[int, int]] = []
    status = target.stat()

    def fchown(descriptor: int, user: int, group: int) -> None:
        asked.append((user, group))
        if allowed == "none" or allowed == "group" and user != -1:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    class Other:  # as another user's file looks
        st_mode, st_uid, st_gid = status.st_mode, 4001, status.st_gid if allowed != "none" else 4002

    monkeypatch.setattr(newfile, "_stat", lambda path: Other)
    monkeypatch.setattr(newfile, "_is_fixed", lambda path, old: False)
    monkeypatch.setattr(os, "fchown", fchown)
    new = write(target)
    assert new.replace()
    assert asked[: len(asked) // 2] == [(4001, Other.st_gid), (-1, Other.st_gid)][: 1 if allowed == "both" else 2]
    assert mode_of(target) == (0o644 if allowed == "none" else 0o664)  # the group's rights are not for another group


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root; the one above does not")
def test_owner_and_group_are_kept_by_root(tmp_path: Path) -> None:
    target = tmp_path / "v.npy"
    target.write_bytes(b"old")
    os.chown(target, 4001, 4002)
    target.chmod(0o640)
    complete(target)
    status = target.stat()
    assert (status.st_uid, status.st_gid, mode_of(target)) == (4001, 4002, 0o640)


def access_list(user: int) -> bytes:
    """Owner rw, `user` r, group none, mask r, others none."""
    entries = [(1, 6, 0xFFFFFFFF), (2, 4, user), (4, 0, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_an_access_control_list_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "v.npy"
    target.write_bytes(b"old")
    try:
        os.setxattr(target, newfile._LIST, access_list(4001))
    except OSError:
        pytest.skip("no access control lists here; the one below needs none")
    complete(target)
    assert os.getxattr(target, newfile._LIST) == access_list(4001)


def test_an_access_control_list_that_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "v.npy"
    target.write_bytes(b"old")
    target.chmod(0o660)

    def refuse(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "getxattr", lambda *_: access_list(4001))
    monkeypatch.setattr(os, "setxattr", refuse)
    complete(target)
    assert mode_of(target) == 0o600  # the bits of the group were those of the list's mask


# ---- names


def test_what_is_planted_at_the_temporary_name_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious, target = tmp_path / "precious", tmp_path / "v.npy"
    precious.write_bytes(b"precious")
    planted = [tmp_path / f"v.npy.{os.getpid()}-0000000{number}.partial" for number in range(4)]
    planted[0].symlink_to(precious)
    planted[1].symlink_to(tmp_path / "nothing")
    planted[2].write_bytes(b"another job's")
    planted[3].mkdir()
    numbers = iter(range(9))
    monkeypatch.setattr(os, "urandom", lambda count: next(numbers).to_bytes(count))
    complete(target)
    assert target.read_bytes() == b"new" and precious.read_bytes() == b"precious"
    assert planted[0].is_symlink() and planted[2].read_bytes() == b"another job's"
    assert names(tmp_path) == sorted(["precious", "v.npy", *(path.name for path in planted)])


def test_two_containers_with_the_same_process_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    target = tmp_path / "v.npy"
    first, second = write(target, b"first"), write(target, b"second")
    os.write(first.descriptor, b" first")
    assert first.replace() and target.read_bytes() == b"first first"
    assert second.replace() and target.read_bytes() == b"second"
    assert names(tmp_path) == ["v.npy"]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "x" * 230, "\udcff" * 255, "a b\nc", ".x"])
def test_names_of_any_kind(tmp_path: Path, name: str) -> None:
    complete(tmp_path / name)
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("make", [Path.symlink_to, lambda path, other: path.write_bytes(b"kept before")])
def test_what_is_kept_replaces_nothing(tmp_path: Path, make: Callable[[Path, Path], object]) -> None:
    precious, free = tmp_path / "precious", tmp_path / "free"
    precious.write_bytes(b"precious")
    taken = tmp_path / "taken"
    make(taken, precious)
    before = taken.read_bytes()
    kept = write(tmp_path / "v.npy").keep(str(path) for path in (taken, free))
    assert kept == str(free) and free.read_bytes() == b"new"
    assert taken.read_bytes() == before and precious.read_bytes() == b"precious"
    assert names(tmp_path) == ["free", "precious", "taken"]


def test_descriptors_by_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    spelled = ["/dev/stdout", "/dev/stdin", "/dev/fd/1", "/proc/self/fd/3", f"/proc/{os.getpid()}/fd/2"]
    spelled += ["/proc/thread-self/fd/1", "/dev/../dev/stderr", str(tmp_path / "link")]
    assert [name for name in spelled if not names_a_descriptor(name)] == []
    files = ["/dev/null", "x", "", "/proc/self/mem", str(tmp_path / "loop"), str(tmp_path), "/dev/fd"]
    assert [name for name in files if names_a_descriptor(name)] == []


def test_errors_name_what_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    kinds = {"no/v.npy": errno.ENOENT, "file/v.npy": errno.ENOTDIR, "loop": errno.ELOOP, "new/": errno.EISDIR}
    for name, number in kinds.items():
        with pytest.raises(OSError) as caught:
            NewFile(f"{tmp_path}/{name}")
        assert (caught.value.errno, caught.value.filename) == (number, f"{tmp_path}/{name}")
    assert names(tmp_path) == ["file", "loop"]


# ---- order and locks


def test_the_disk_has_the_file_before_its_name_and_the_name_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda *args: (done.append("name"), replace(*args)))
    complete(tmp_path / "v.npy")
    assert done == ["file", "name", "folder"]


@pytest.mark.parametrize("number, raised", [(errno.EINVAL, False), (errno.EOPNOTSUPP, False), (errno.EIO, True)])
def test_a_disk_that_does_not_sync(tmp_path: Path, number: int, raised: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    new = write(tmp_path / "v.npy")
    monkeypatch.setattr(os, "fsync", fsync)
    if raised:
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            new.sync()
        assert caught.value.filename == f"{tmp_path}/v.npy"
    else:
        new.sync()
    new.discard()
    assert names(tmp_path) == []


def test_leftovers(tmp_path: Path) -> None:
    target = tmp_path / "v.npy"
    left = tmp_path / "v.npy.1-0badcafe.partial"
    left.write_bytes(b"12345")
    os.utime(left, (1, 1))
    (tmp_path / "v.npy.77.partial").write_bytes(b"of an older version")
    new = write(target, b"123")
    for other in (
        "v.npy.1-0bad.partial",
        "w.npy.1-0badcafe.partial",
        "v.npy.partial",
        "v.partial.npy",
        "xv.npy.1.partial",
    ):
        (tmp_path / other).touch()
    os.mkfifo(tmp_path / "v.npy.2-0badcafe.partial")
    (tmp_path / "v.npy.3-0badcafe.partial").symlink_to(left)
    found = leftovers(str(target))
    assert [(each.path, each.size, each.live) for each in found[:1]] == [(str(left), 5, False)]
    assert found[0].seconds > 1e9
    rest = {(Path(each.path).name, each.live) for each in found[1:]}
    assert new.temporary is not None and rest == {("v.npy.77.partial", False), (Path(new.temporary).name, True)}
    new.discard()
    assert leftovers(f"{tmp_path}/no/v.npy") == []


def test_leftovers_where_nothing_can_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    new = write(tmp_path / "v.npy")
    assert [each.live for each in leftovers(f"{tmp_path}/v.npy")] == [None]
    assert new.replace()


# ---- files that cannot be replaced


@pytest.fixture(params=["EBUSY", "EPERM", "EACCES", "known before"])
def fixed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that no other can replace, which is found out at the end or before."""
    target = tmp_path / "v.npy"
    target.write_bytes(b"the old content, which is longer")
    if request.param == "known before":
        monkeypatch.setattr(newfile, "_mount_of", lambda path: b"1" if path == str(target) else b"2")
        yield target
        return
    number, replace = getattr(errno, request.param), os.replace

    def refuse(source: str, to: str) -> None:
        if to == str(target):
            raise OSError(number, os.strerror(number), source, None, to)
        replace(source, to)

    monkeypatch.setattr(os, "replace", refuse)
    yield target


def test_it_is_written_over(fixed: Path) -> None:
    before = fixed.stat().st_ino
    for content in (b"new", b"x" * 3_000_000, b""):
        new = write(fixed, content)
        assert fixed.read_bytes() != content
        assert not new.replace()
        new.overwrite()
        assert fixed.read_bytes() == content and fixed.stat().st_ino == before
        assert names(fixed.parent) == ["v.npy"]


def test_nothing_is_lost_where_there_is_no_room_to_write_it_over(fixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        os.ftruncate(descriptor, offset + size // 2)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    new = write(fixed, b"x" * 1000)
    assert not new.replace()
    with pytest.raises(OSError, match="No space left") as caught:
        new.overwrite()
    assert caught.value.filename == str(fixed) and not new.overwriting
    assert fixed.read_bytes() == b"the old content, which is longer"
    assert Path(new.keep([f"{fixed}.kept"])).read_bytes() == b"x" * 1000


def test_what_may_be_mapped_is_never_written_over(fixed: Path) -> None:
    with pytest.raises(OSError) as caught:
        write(fixed, in_place=False).replace()
    assert caught.value.filename == str(fixed)
    assert fixed.read_bytes() == b"the old content, which is longer"


def test_another_error_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, to: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), source, None, to)

    (tmp_path / "v.npy").write_bytes(b"old")
    new = write(tmp_path / "v.npy")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="Input/output error") as caught:
        new.replace()
    assert (caught.value.filename, caught.value.filename2) == (f"{tmp_path}/v.npy", None)
    assert (tmp_path / "v.npy").read_bytes() == b"old"
    new.discard()


def test_another_users_file_in_a_sticky_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "v.npy"
    target.write_bytes(b"old")
    assert not newfile._is_fixed(str(target), target.stat())
    tmp_path.chmod(0o1777)
    assert not newfile._is_fixed(str(target), target.stat())  # ours
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1234)
    assert newfile._is_fixed(str(target), target.stat())
    tmp_path.chmod(0o777)
    assert not newfile._is_fixed(str(target), target.stat())


@pytest.mark.parametrize("flags, expected", [(0x10, True), (0x20, True), (0, False), (0x80000, False)])
def test_immutable_files(tmp_path: Path, flags: int, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "v.npy"
    target.write_bytes(b"old")
    monkeypatch.setattr(fcntl, "ioctl", lambda *_: struct.pack("q", flags))
    assert newfile._is_fixed(str(target), target.stat()) is expected


_BOUND = """
    import os, subprocess, sys
    from pathlib import Path
    from fastattn.loaders.newfile import NewFile
    real, target = Path("real"), Path("target")
    for path in (real, target):
        path.write_bytes(b"old old old")
    if subprocess.run(["mount", "--bind", "real", "target"], capture_output=True).returncode:
        sys.exit(77)
    new = NewFile("target")
    os.write(new.descriptor, b"new")
    print(real.read_bytes() == b"old old old", new.replace())
    new.overwrite()
    print(real.read_bytes() == b"new", sorted(os.listdir()))
    try:
        NewFile("target", in_place=False)
    except OSError as error:
        print(error.filename, error.strerror)
    subprocess.run(["mount", "-o", "remount,bind,ro", "target"], check=True)
    try:
        NewFile("target")
    except OSError as error:
        print(error.filename, error.strerror, len(os.listdir()))
    os.mkdir("folder")
    Path("folder/target").write_bytes(b"old")
    subprocess.run(["mount", "--bind", "-o", "ro", "folder", "folder"], check=True)
    subprocess.run(["mount", "--bind", "real", "folder/target"], check=True)
    new = NewFile("folder/target")  # a folder that takes no new file, and in it one that can be written
    print(new.is_in_place, real.read_bytes() == b"new")
    new.begin()
    os.write(new.descriptor, b"in place")
    print(new.replace(), real.read_bytes() == b"in place")
    try:
        NewFile("folder/new")
    except OSError as error:
        print(error.filename, error.strerror)
"""


def test_a_file_that_is_a_mount_of_its_own(tmp_path: Path) -> None:
    code = f"""
        import os, subprocess, sys
        os.chdir({str(tmp_path)!r})
        command = ["unshare", "--mount", sys.executable, "-c", sys.argv[1]]
        sys.exit(subprocess.run(command).returncode)
    """
    import textwrap

    done = run_python(code, textwrap.dedent(_BOUND))
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("mounting is not permitted; the tests above need no mount")
    assert done.stdout.splitlines() == [
        "True False",
        "True ['real', 'target']",
        "target it cannot be replaced (a mount point, or another user's file)",
        "target Read-only file system 2",
        "True True",
        "True True",
        "folder/new Read-only file system",
    ], done.stderr


# ---- folders that take no new file


@pytest.fixture(params=["EACCES", "EROFS", "EPERM"])
def closed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in a folder that takes no other."""
    number, real = getattr(errno, request.param), os.open
    target = tmp_path / "v.npy"
    target.write_bytes(b"the old content")

    def refuse(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_CREAT and os.path.dirname(path) == str(tmp_path):
            raise OSError(number, os.strerror(number), path)
        return real(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    return target


def test_it_is_written_in_place(closed: Path) -> None:
    new = NewFile(str(closed))
    assert new.is_in_place and closed.read_bytes() == b"the old content"
    new.begin()
    os.write(new.descriptor, b"new")
    assert new.replace() and closed.read_bytes() == b"new" and names(closed.parent) == ["v.npy"]
    NewFile(str(closed)).discard()
    assert closed.read_bytes() == b"new"


def test_one_job_at_a_time_writes_in_place(closed: Path) -> None:
    first = NewFile(str(closed))
    with pytest.raises(BlockingIOError, match="another job is writing it") as caught:
        NewFile(str(closed))
    assert caught.value.filename == str(closed)
    first.discard()
    NewFile(str(closed)).discard()


def test_a_new_file_cannot_be_there(closed: Path) -> None:
    for options in ({}, {"in_place": False}):
        with pytest.raises(OSError) as caught:
            NewFile(f"{closed}2", **options)
        assert caught.value.filename == f"{closed}2"
    with pytest.raises(OSError):
        NewFile(str(closed), in_place=False)
