# SPDX-License-Identifier: MIT
"""A DLPack producer made of ctypes and NumPy: stands in for torch and JAX, and can tell lies that they never tell."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

CPU, CUDA = 1, 2
INT, UINT, FLOAT, BFLOAT, BOOL = 0, 1, 2, 4, 6


class _Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("id", ctypes.c_int32)]


class _DataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


_DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _DELETER)]


class _Version(ctypes.Structure):
    _fields_ = [("major", ctypes.c_uint32), ("minor", ctypes.c_uint32)]


class _ManagedVersioned(ctypes.Structure):
    _fields_ = [
        ("version", _Version),
        ("context", ctypes.c_void_p),
        ("deleter", _DELETER),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    ]


_capsule_new = ctypes.pythonapi.PyCapsule_New
_capsule_new.restype = ctypes.py_object
_capsule_new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_capsule_name = ctypes.pythonapi.PyCapsule_GetName
_capsule_name.restype = ctypes.c_char_p
_capsule_name.argtypes = [ctypes.py_object]

_CODES = {"f": FLOAT, "i": INT, "u": UINT, "b": BOOL}


class Producer:
    """An object with nothing but ``__dlpack__`` and ``__dlpack_device__`` around a NumPy array.

    It counts what a consumer does: ``capsules`` handed out, ``deleted`` calls of the deleter. Keywords bend one field
    each: ``code``/``bits``/``lanes``, ``device``, ``byte_offset`` (the data pointer is moved back by it, so values stay
    right), ``null_strides`` (a compact array may leave them out), ``versioned`` (the 1.x capsule), ``read_only`` (its
    flag), ``major`` (a version from the future), ``old_signature`` (a producer from before ``max_version``).
    """

    def __init__(
        self,
        array: np.ndarray,
        *,
        code: int | None = None,
        bits: int | None = None,
        lanes: int = 1,
        device: int = CPU,
        byte_offset: int = 0,
        null_strides: bool = False,
        versioned: bool = False,
        read_only: bool = False,
        major: int = 1,
        old_signature: bool = False,
    ) -> None:
        self.array = array
        self.capsules = self.deleted = 0
        self._code = _CODES[array.dtype.kind] if code is None else code
        self._bits = array.dtype.itemsize * 8 if bits is None else bits
        self._lanes, self._device, self._byte_offset = lanes, device, byte_offset
        self._null_strides, self._versioned, self._flags = null_strides, versioned, int(read_only)
        self._major, self._old = major, old_signature
        self._alive: list[Any] = []
        self._deleter = _DELETER(self._delete)

    def _delete(self, _address: int) -> None:
        self.deleted += 1

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device, 0

    def __dlpack__(self, **keywords: Any) -> Any:
        if self._old and set(keywords) - {"stream"}:
            raise TypeError(f"__dlpack__() got an unexpected keyword argument {min(set(keywords) - {'stream'})!r}")
        a = self.array
        shape = (ctypes.c_int64 * max(a.ndim, 1))(*a.shape)
        strides = (ctypes.c_int64 * max(a.ndim, 1))(*[s // a.dtype.itemsize for s in a.strides])
        tensor = _Tensor(
            a.ctypes.data - self._byte_offset,
            _Device(self._device, 0),
            a.ndim,
            _DataType(self._code, self._bits, self._lanes),
            shape,
            None if self._null_strides else strides,
            self._byte_offset,
        )
        newest = keywords.get("max_version")
        if self._versioned and newest is not None and newest[0] >= 1:
            managed: Any = _ManagedVersioned(_Version(self._major, 0), None, self._deleter, self._flags, tensor)
            name = b"dltensor_versioned"
        else:
            managed, name = _Managed(tensor, None, self._deleter), b"dltensor"
        capsule = _capsule_new(ctypes.addressof(managed), name, None)
        self._alive += [shape, strides, managed, name]
        self.capsules += 1
        return capsule


def capsule_name(capsule: Any) -> str:
    """ "used_dltensor" once a consumer has taken it."""
    return str(_capsule_name(capsule), "ascii")
