# SPDX-License-Identifier: MIT
# Part of _core.pyx: memory of DLPack producers as Python buffers.

cdef struct DLTensor:
    void *data
    int32_t device_type
    int32_t device_id
    int32_t ndim
    uint8_t code
    uint8_t bits
    uint16_t lanes
    int64_t *shape
    int64_t *strides
    uint64_t byte_offset

cdef struct DLManagedTensor:
    DLTensor tensor
    void *manager
    void (*deleter)(DLManagedTensor *) noexcept

cdef struct DLManagedTensorVersioned:
    uint32_t major
    uint32_t minor
    void *manager
    void (*deleter)(DLManagedTensorVersioned *) noexcept
    uint64_t flags
    DLTensor tensor


cdef class DLPackBuffer:
    """The memory of a DLPack producer (torch, JAX, ...) as a Python buffer, without a copy; CPU tensors alone.

    Source: the DLPack specification, versions 0.8 (capsule "dltensor") and 1.0 ("dltensor_versioned").
    bfloat16 shows as unsigned 16-bit integers.
    """

    cdef object owner
    cdef DLManagedTensor *old
    cdef DLManagedTensorVersioned *new
    cdef DLTensor *tensor
    cdef Py_ssize_t shape[8]
    cdef Py_ssize_t strides[8]
    cdef Py_ssize_t itemsize
    cdef bytes format
    cdef readonly bint readonly

    def __cinit__(self, producer, str name):
        cdef int i
        cdef Py_ssize_t step
        self.old = NULL
        self.new = NULL
        try:
            capsule = producer.__dlpack__(max_version=(1, 0))
        except TypeError:
            capsule = producer.__dlpack__()
        if PyCapsule_IsValid(capsule, b"dltensor_versioned"):
            self.new = <DLManagedTensorVersioned *>PyCapsule_GetPointer(capsule, b"dltensor_versioned")
            if self.new.major > 1:
                self.new = NULL
                raise TypeError(f"{name}: a DLPack capsule of a newer major version, expected at most 1")
            PyCapsule_SetName(capsule, b"used_dltensor_versioned")
            self.tensor = &self.new.tensor
            self.readonly = self.new.flags & 1
        elif PyCapsule_IsValid(capsule, b"dltensor"):
            self.old = <DLManagedTensor *>PyCapsule_GetPointer(capsule, b"dltensor")
            PyCapsule_SetName(capsule, b"used_dltensor")
            self.tensor = &self.old.tensor
            self.readonly = False
        else:
            raise TypeError(f"{name}: __dlpack__ returned {type(capsule).__name__}, expected a DLPack capsule")
        tensor = self.tensor
        if tensor.device_type not in (1, 3):
            raise TypeError(f"{name}: on DLPack device type {tensor.device_type}, expected a CPU tensor")
        if tensor.ndim > 8 or tensor.ndim < 0:
            raise ValueError(f"{name}: rank {tensor.ndim}, expected at most 8")
        formats = {(2, 32): b"f", (2, 16): b"e", (2, 64): b"d", (4, 16): b"H", (6, 8): b"?",
                   (0, 8): b"b", (0, 16): b"h", (0, 32): b"i", (0, 64): b"q",
                   (1, 8): b"B", (1, 16): b"H", (1, 32): b"I", (1, 64): b"Q"}
        format = formats.get((tensor.code, tensor.bits)) if tensor.lanes == 1 else None
        if format is None:
            raise TypeError(f"{name}: DLPack dtype (code {tensor.code}, {tensor.bits} bits, {tensor.lanes} lanes) is not supported")
        self.format = format
        self.itemsize = tensor.bits // 8
        step = self.itemsize
        for i in range(tensor.ndim - 1, -1, -1):
            self.shape[i] = tensor.shape[i]
            self.strides[i] = tensor.strides[i] * self.itemsize if tensor.strides != NULL else step
            step *= tensor.shape[i]
        self.owner = producer

    def __dealloc__(self):
        if self.old != NULL and self.old.deleter != NULL:
            self.old.deleter(self.old)
        if self.new != NULL and self.new.deleter != NULL:
            self.new.deleter(self.new)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        cdef Py_ssize_t count = 1
        cdef int i
        if self.readonly and flags & PyBUF_WRITABLE:
            raise BufferError("the tensor is read-only")
        for i in range(self.tensor.ndim):
            count *= self.shape[i]
        if flags & PyBUF_STRIDES != PyBUF_STRIDES:
            raise BufferError("a strided tensor needs a consumer that takes strides")
        buffer.buf = <char *>self.tensor.data + self.tensor.byte_offset
        buffer.format = <char *>self.format
        buffer.internal = NULL
        buffer.itemsize = self.itemsize
        buffer.len = count * self.itemsize
        buffer.ndim = self.tensor.ndim
        buffer.obj = self
        buffer.readonly = self.readonly
        buffer.shape = self.shape
        buffer.strides = self.strides
        buffer.suboffsets = NULL
