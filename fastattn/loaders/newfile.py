# SPDX-License-Identifier: MIT
"""Files that have their name only when they are complete: packed files, and what the commands write.

A file is written beside its place as ``NAME.PID-RANDOM.partial``, a name that nobody can foresee and that is never one
of a file or a link that is there. It is brought to the disk, and then renamed, which replaces at once what had the name
before. The mode of that file, its owner and its access control list are kept as far as the process may.

Not every file can be replaced: a file that is a mount point of its own (``docker run -v FILE:FILE``), a file of
somebody else in a folder like ``/tmp``, a file in a folder that takes no new ones. That is found out at the start.
Where the file can be written, it is written over: at the end from the temporary file, or directly where there can be
none.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import struct
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

__all__ = ["Leftover", "NewFile", "leftovers", "named_errors", "names_a_descriptor"]

_NO_NEW_FILES = (errno.EACCES, errno.EPERM, errno.EROFS)
_NOT_REPLACED = (errno.EBUSY, errno.EACCES, errno.EPERM, errno.EXDEV)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_LONGEST_STEM = 224  # bytes of a name: 255, and the temporary name is up to 25 longer
_PIECE = 1 << 20
_LIST = "system.posix_acl_access"
_GET_FLAGS, _FIXED_FLAGS = 0x80086601, 0x30  # FS_IOC_GETFLAGS; immutable and append-only


@contextlib.contextmanager
def named_errors(name: str) -> Iterator[None]:
    """Errors of the system name what was asked for, and not a temporary file, or nothing at all.

    >>> with named_errors("vectors.npy"):
    ...     os.close(-1)
    Traceback (most recent call last):
    OSError: [Errno 9] Bad file descriptor: 'vectors.npy'
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = name
            del error.filename2  # None would be printed
        raise


def names_a_descriptor(path: str) -> bool:
    """Whether ``path`` is a way to spell an open descriptor, as ``/dev/stdout`` and ``/dev/fd/3`` are.

    >>> names_a_descriptor("/dev/stdout"), names_a_descriptor("/dev/null")
    (True, False)
    """
    for _ in range(40):  # as many links as the system follows
        folder = os.path.realpath(os.path.dirname(path))
        if re.fullmatch(r"/proc/[0-9]+(/task/[0-9]+)?/fd", folder):
            return True
        try:
            path = os.path.join(folder, os.readlink(path))
        except (OSError, ValueError):
            return False
    return False


class NewFile:
    """A file under a temporary name, to be written through ``descriptor``.

    Its end is :meth:`replace`, and :meth:`overwrite` where that says so; or :meth:`keep`, :meth:`leave` or
    :meth:`discard`.

    Parameters
    ----------
    target
        The name in the end. A link is followed once, now.
    in_place
        Write over a file that cannot be replaced. If False that is an error.
    noting
        A set that holds the temporary name as long as there may be a file of that name.

    Raises
    ------
    OSError
        The file cannot be written, or not replaced and not written over. It names ``target``.
    """

    def __init__(self, target: str, *, in_place: bool = True, noting: set[str] | None = None) -> None:
        self._target = target
        self._noting = set() if noting is None else noting
        self._may_overwrite = in_place
        self._place = -1  # descriptor of the file that is written over from the temporary one
        self.path = os.path.realpath(target)
        self.temporary: str | None = None
        """The name while it is written; None where the file is written in place, and at the end."""
        self.overwriting = False
        """Whether what had the name before is being lost, byte by byte."""
        self.is_in_place = False
        """Whether ``descriptor`` is that of the file itself."""
        with named_errors(target):
            if target.endswith("/"):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            old = _stat(self.path)
            fixed = old is not None and _is_fixed(self.path, old)
            try:
                self.descriptor = self._create(old)
            except OSError as error:
                if old is None or error.errno not in _NO_NEW_FILES or not in_place:
                    raise
                self.descriptor = self._open_in_place()
                self.is_in_place = True
                return
            if fixed:
                try:
                    if not in_place:
                        raise OSError(errno.EBUSY, "it cannot be replaced (a mount point, or another user's file)")
                    self._place = _open_over(self.path)
                except OSError:
                    self.discard()
                    raise

    def _create(self, old: os.stat_result | None) -> int:
        folder, name = os.path.split(self.path)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        while True:
            random = f"{os.getpid()}-{os.urandom(4).hex()}"
            temporary = os.path.join(folder, f"{_stem(name)}.{random}.partial")
            self._noting.add(temporary)
            try:
                descriptor = os.open(temporary, flags, 0o666 if old is None else 0o600)
            except FileExistsError:
                self._noting.discard(temporary)
                continue
            except BaseException:
                self._noting.discard(temporary)
                raise
            break
        self.temporary = temporary
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _adopt(descriptor, self.path)
        return descriptor

    def _open_in_place(self) -> int:
        descriptor = _open_over(self.path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise BlockingIOError(
                errno.EAGAIN, "another job is writing it, and it can only be written in place"
            ) from None
        except OSError:  # a file system without locks
            return descriptor
        return descriptor

    def begin(self) -> None:
        """What comes now is to stay: of a file that is written in place the old content goes."""
        if self.is_in_place and not self.overwriting:
            self.overwriting = True
            with named_errors(self._target):
                os.ftruncate(self.descriptor, 0)

    def sync(self) -> None:
        """Brings what was written to the disk; may take its time."""
        with named_errors(self._target):
            _sync(self.descriptor)

    def replace(self) -> bool:
        """Gives the file its name, for good; False if that cannot be, and :meth:`overwrite` has to follow."""
        with named_errors(self._target):
            if self.is_in_place:
                self._close()
                return True
            assert self.temporary is not None
            if self._place >= 0:
                return False
            _adopt(self.descriptor, self.path)  # once more: it may be another file by now
            try:
                os.replace(self.temporary, self.path)
            except OSError as error:
                if error.errno not in _NOT_REPLACED or not self._may_overwrite:
                    raise
                try:
                    self._place = _open_over(self.path)
                except OSError:
                    raise error from None
                return False
            self._forget()
            _sync_folder(os.path.dirname(self.path))
            self._close()
            return True

    def overwrite(self) -> None:
        """Copies the file over what has its name; what is copied stays whole until that is done."""
        with named_errors(self._target):
            with contextlib.suppress(OSError):  # two jobs one after the other
                fcntl.flock(self._place, fcntl.LOCK_EX)
            size, before = os.fstat(self.descriptor).st_size, os.fstat(self._place).st_size
            if size > before:
                try:
                    os.posix_fallocate(self._place, before, size - before)
                except OSError as error:
                    if error.errno in _NO_ROOM:  # found out while the old content is still there
                        os.ftruncate(self._place, before)
                        raise
            self.overwriting = True
            offset = 0
            while piece := os.pread(self.descriptor, _PIECE, offset):
                rest = memoryview(piece)
                while rest:
                    count = os.pwrite(self._place, rest, offset)
                    rest, offset = rest[count:], offset + count
            os.ftruncate(self._place, size)
            _sync(self._place)
            self.overwriting = False
            self.discard()

    def keep(self, names: Iterable[str]) -> str:
        """Gives the file the first of ``names`` that is free, and no other file loses its own; which one.

        Not brought to the disk: that is what an interrupt cannot wait for.
        """
        assert self.temporary is not None
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        for name in names:
            try:
                os.close(os.open(name, flags, 0o600))  # reserves it; a link does not where a file system has none
            except FileExistsError:
                continue
            try:
                os.replace(self.temporary, name)
            except BaseException:
                os.unlink(name)
                raise
            self._forget()
            self._close()
            return name
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self.temporary)

    def discard(self) -> None:
        """Removes the temporary file; a file that is written in place stays as it is."""
        if self.temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.temporary)
            self._forget()
        self._close()

    def leave(self) -> None:
        """Leaves the file where it is, under whatever name."""
        self._forget()
        self._close()

    def _forget(self) -> None:
        if self.temporary is not None:
            self._noting.discard(self.temporary)
            self.temporary = None

    def _close(self) -> None:
        for descriptor in (self.descriptor, self._place):
            if descriptor >= 0:
                os.close(descriptor)
        self.descriptor = self._place = -1


class Leftover(NamedTuple):
    """A temporary file of another job for the same output."""

    path: str
    size: int
    """Bytes."""
    seconds: float
    """Since it was last written to."""
    live: bool | None
    """Whether a job still writes it; None where that cannot be told."""


def leftovers(target: str) -> list[Leftover]:
    """The temporary files beside ``target`` that jobs of its name have left, or are writing; the oldest first."""
    folder, name = os.path.split(os.path.realpath(target))
    pattern = re.compile(re.escape(_stem(name)) + r"\.[0-9]+(-[0-9a-f]{8})?\.partial")
    found = []
    with contextlib.suppress(OSError):
        for other in os.listdir(folder):
            if pattern.fullmatch(other):
                path = os.path.join(folder, other)
                with contextlib.suppress(OSError):
                    status = os.lstat(path)
                    if stat.S_ISREG(status.st_mode):
                        seconds = max(0.0, time.time() - status.st_mtime)
                        found.append(Leftover(path, status.st_size, seconds, _is_live(path)))
    return sorted(found, key=lambda each: -each.seconds)


def _is_live(path: str) -> bool | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def _stem(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:_LONGEST_STEM])


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _open_over(path: str) -> int:
    """A descriptor that writes over the regular file ``path``."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return descriptor


def _is_fixed(path: str, old: os.stat_result) -> bool:
    """Whether no other file can get the name of this one; an error where it cannot even be written over."""
    folder = os.path.dirname(path)
    around = os.stat(folder)
    sticky = around.st_mode & stat.S_ISVTX and os.geteuid() not in (0, around.st_uid, old.st_uid)
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            (flags,) = struct.unpack_from("i", fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8)))
        finally:
            os.close(descriptor)
        sticky = sticky or flags & _FIXED_FLAGS
    return bool(sticky) or _mount_of(path) != _mount_of(folder)


def _mount_of(path: str) -> bytes | None:
    """The mount that ``path`` is on, which tells a file that was bound over another even on one file system."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
                return next((line for line in file if line.startswith(b"mnt_id:")), None)
        finally:
            os.close(descriptor)
    except OSError:
        return None


def _adopt(descriptor: int, path: str) -> None:
    """Who may read ``path`` may read the new file, and nobody else; without such a file, nothing changes."""
    old = _stat(path)
    if old is None:
        return
    mode = stat.S_IMODE(old.st_mode) & 0o777
    for user in (old.st_uid, -1):
        with contextlib.suppress(OSError):  # of others' files the group at least
            os.fchown(descriptor, user, old.st_gid)
            break
    narrow = os.fstat(descriptor).st_gid != old.st_gid
    try:
        rights = os.getxattr(path, _LIST)
    except OSError:
        with contextlib.suppress(OSError):  # what the folder gives to all new files
            os.removexattr(descriptor, _LIST)
    else:
        try:
            os.setxattr(descriptor, _LIST, rights)
        except OSError:
            narrow = True
    if narrow:  # the group's rights are not for another group
        mode &= 0o707 | (mode & 7) << 3
    with contextlib.suppress(OSError):  # a file system without modes
        os.fchmod(descriptor, mode)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _sync_folder(folder: str) -> None:
    """The new name outlives a power cut once its folder is on the disk; not every system can do it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
