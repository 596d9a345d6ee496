# SPDX-License-Identifier: MIT
"""The bytes of an input: of a descriptor that may not block, plain or compressed by gzip, xz or bzip2."""

from __future__ import annotations

import os
import select
import stat
from typing import Protocol

from ..loaders.newfile import named_errors
from .streams import wait

__all__ = ["COMPRESSED", "Source", "stem"]

_READ = 1 << 16
_AT_ONCE = 1 << 18  # bytes that come out of one step, whatever went in
_MOST_MEMORY = 1 << 28  # of xz, whose files say what they need; its own presets need 65 MiB at most

COMPRESSED = {".gz": "gzip", ".xz": "xz", ".bz2": "bzip2", ".zst": "zstd"}
"""Kinds of compression, by the suffix of a file's name."""

# None of these but that of bzip2 can begin a text in UTF-8: there the name has to say it.
_MAGIC = {"gzip": b"\x1f\x8b", "xz": b"\xfd7zXZ\0", "zstd": b"\x28\xb5\x2f\xfd"}
_LONGEST_MAGIC = max(map(len, _MAGIC.values()))


def stem(name: str) -> tuple[str, str | None]:
    """A file's name without the suffix of its compression, and that compression.

    >>> stem("texts.jsonl.gz"), stem("texts.csv")
    (('texts.jsonl', 'gzip'), ('texts.csv', None))
    """
    before, suffix = os.path.splitext(name)
    kind = COMPRESSED.get(suffix.lower())
    return (name, None) if kind is None else (before, kind)


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Source:
    """Reads a descriptor to its end; what is compressed is told by how it begins, or by the file's name.

    Args:
        descriptor: what is read.
        name: of the input, for messages; its suffix has to be right.

    Raises:
        ValueError: the file is of a kind of compression that is not read, or not of the one its name says. Of a regular
            file that is found out at once; of a pipe by the first :meth:`read`.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name
        self.consumed = 0
        """Bytes read so far, as they are in the file."""
        self._kind: str | None = None
        self._known = False
        self._head = b""  # read to find out what it is
        self._stream: _Decompressor | None = None
        self._waiting = b""  # behind the end of what was compressed
        self._ended = False
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            with named_errors(name):
                self._set_kind(os.pread(descriptor, _LONGEST_MAGIC, os.lseek(descriptor, 0, os.SEEK_CUR)))

    def read(self, block: bool = True) -> bytes | None:
        """The next bytes, in some number; none at the end; None if there are none yet and it is not to wait for them.

        Raises:
            OSError: the descriptor cannot be read; its name is in the message.
            ValueError: what is compressed is damaged, or ends too early.
        """
        if not self._known and not self._look(block):
            return None
        return self._raw(block) if self._kind is None else self._decompressed(block)

    def _look(self, block: bool) -> bool:
        """Whether the first bytes are there, as many as it takes to know what they are."""
        while len(self._head) < _LONGEST_MAGIC and any(magic.startswith(self._head) for magic in _MAGIC.values()):
            piece = self._raw_now(block)
            if piece is None:
                return False
            if not piece:
                break
            self._head += piece
        self._set_kind(self._head)
        return True

    def _set_kind(self, head: bytes) -> None:
        expected = stem(self._name)[1]
        kind = next((kind for kind, magic in _MAGIC.items() if head.startswith(magic)), None)
        if expected == "bzip2" and head.startswith(b"BZh"):
            kind = expected
        if kind == "zstd":
            raise ValueError(f"{self._name}: zstd data are not read here; `zstd -dc` unpacks them into a pipe")
        if expected is not None and kind != expected:
            what = f"{kind} data" if kind else "empty" if not head else f"no {expected} data"
            raise ValueError(f"{self._name}: expected {expected} data, as the name says; it is {what}")
        self._kind = kind
        self._known = True

    def _raw(self, block: bool) -> bytes | None:
        head, self._head = self._head, b""
        return head or self._raw_now(block)

    def _raw_now(self, block: bool) -> bytes | None:
        while True:
            # A blocking descriptor is looked at first; one that does not block says so when it is read.
            if not block and not wait(self._descriptor, select.POLLIN, 0):
                return None
            try:
                with named_errors(self._name):
                    data = os.read(self._descriptor, _READ)
            except BlockingIOError:
                if not block:
                    return None
                wait(self._descriptor, select.POLLIN)
                continue
            self.consumed += len(data)
            return data

    def _decompressed(self, block: bool) -> bytes | None:
        while not self._ended:
            data = b""
            if self._stream is None or self._stream.needs_input:
                more = self._waiting or self._raw(block)
                if more is None:
                    return None
                data, self._waiting = more, b""
                self._ended = not data
            if self._stream is None:  # members behind one another; zeros fill up what has blocks of a fixed size
                data = data.lstrip(b"\0")
                if not data:
                    continue
                self._stream = _decompressor(self._kind)
            elif self._ended:
                raise ValueError(f"{self._name}: the {self._kind} data end too early: the file was cut off")
            out = self._step(self._stream, data)
            if self._stream.eof:
                self._waiting, self._stream = self._stream.unused_data, None
            if out:
                return out
        return b""

    def _step(self, stream: _Decompressor, data: bytes) -> bytes:
        try:
            return stream.decompress(data, _AT_ONCE)
        except Exception as error:
            if not isinstance(error, _errors(self._kind)):
                raise
            self._ended = True
            raise ValueError(f"{self._name}: damaged {self._kind} data ({error})") from None


def _decompressor(kind: str | None) -> _Decompressor:
    if kind == "gzip":
        return _Gzip()
    if kind == "xz":
        import lzma

        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_MEMORY)
    import bz2

    return bz2.BZ2Decompressor()


def _errors(kind: str | None) -> type[Exception]:
    """What a decompressor raises about its data; each kind's module is one that a Python may lack."""
    if kind == "gzip":
        from zlib import error

        return error
    if kind == "xz":
        from lzma import LZMAError

        return LZMAError
    return OSError


class _Gzip:
    """One member of a gzip file, its check sum and length included, as the other modules' objects are."""

    def __init__(self) -> None:
        from zlib import MAX_WBITS, decompressobj

        self._stream = decompressobj(16 + MAX_WBITS)
        self._more = False

    @property
    def needs_input(self) -> bool:
        return not self._more

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._stream.decompress(self._stream.unconsumed_tail + data, max_length)
        self._more = bool(self._stream.unconsumed_tail) or len(out) == max_length
        return out
