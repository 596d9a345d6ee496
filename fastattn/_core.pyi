# SPDX-License-Identifier: MIT
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fastattn.typing import Array, WeightType

_F32 = NDArray[np.float32]
_I64 = NDArray[np.int64]
_Floats = NDArray[Any]  # float32, float16, uint16 (bfloat16); k and v int8 too
_Place = tuple[int, int, int, int, int, int] | None  # rows, array or -1, at, stride, first, width

# ---- instruction sets, threads, build: _core_process.pxi

def isa_names() -> list[str]: ...
def isa_supported(name: str) -> bool: ...
def current_isa() -> str: ...
def select_isa(name: str) -> None: ...
def force_kernel(which: int) -> None: ...
def kernels_capsule(name: str) -> object: ...
def openmp_version() -> int: ...
def omp_max_threads() -> int: ...
def omp_places() -> list[int]: ...
def threads_in_use() -> int: ...
def threads_granted(forget: bool = False) -> int: ...
def crew_size() -> int: ...
def select_team(name: str) -> bool: ...
def set_thread_default(cap: int, explicit: int) -> None: ...
def build_constants() -> dict[str, Any]: ...
def cpu_features() -> dict[str, Any]: ...

# ---- arrays held open for a call, and those that are not NumPy's: _core.pyx, _core_dlpack.pxi

class Views: ...

class DLPackBuffer:
    readonly: Final[bool]
    def __init__(self, producer: Any, name: str) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

# ---- attention: _core.pyx

def attend_plain(q: _F32, k: _F32, v: _F32, out: _F32, causal: bool, scale: float, num_threads: int | None) -> bool: ...
def attend_varlen_plain(
    q: _F32,
    k: _F32,
    v: _F32,
    cu_q: _I64,
    cu_k: _I64,
    out: _F32,
    causal: bool,
    scale: float,
    num_threads: int | None,
) -> bool: ...
def attend(
    out: _Floats,
    lse: _F32 | None,
    weights: _F32 | None,
    q: _Floats,
    k: _Floats,
    v: _Floats,
    *,
    scale: float,
    softcap: float,
    causal: bool,
    window_left: int,
    window_right: int,
    num_threads: int | None,
    mask: NDArray[Any] | None = None,
    q_offset: _I64 | None = None,
    kv_lengths: _I64 | None = None,
    cu_q: _I64 | None = None,
    cu_k: _I64 | None = None,
    sink_tokens: int = 0,
    block_mask: NDArray[np.bool_] | None = None,
    block_rows: int = 0,
    block_cols: int = 0,
    alibi: _F32 | None = None,
    sinks: _F32 | None = None,
    bias: _F32 | None = None,
    k_scale: _F32 | None = None,
    v_scale: _F32 | None = None,
    scores: _F32 | None = None,
    score_stage: int = 0,
    page_table: _I64 | None = None,
    ring_first: int = 0,
    ring_size: int = 0,
    positions: _I64 | None = None,
    integers: bool = False,
) -> None: ...

# ---- the machine's limits, and what a team costs: _core_probes.pxi

def probe_fma(rounds: int, num_threads: int | None = None) -> float: ...
def probe_int8(rounds: int, num_threads: int | None = None) -> float: ...
def probe_read(array: NDArray[Any], num_threads: int | None = None) -> None: ...
def probe_region(n_tasks: int, regions: int, num_threads: int | None = None) -> float: ...
def parallel_probe_capsule() -> object: ...

# ---- linear layers and row-wise operators: _core_linear.pxi, _core_ops.pxi; NotImplemented where ops.py looks first

class Held: ...

class PackedLinear:
    in_features: Final[int]
    out_features: Final[int]
    dtype: Final[str]
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    @property
    def panels(self) -> NDArray[Any]: ...
    @property
    def bias(self) -> _F32 | None: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def activations(self) -> str | None: ...
    def arrays(self) -> dict[str, NDArray[Any]]: ...
    @staticmethod
    def from_arrays(
        arrays: Mapping[str, Array],
        in_features: int,
        out_features: int,
        dtype: WeightType | str = "float32",
        activations: str | None = None,
    ) -> PackedLinear: ...
    def __reduce__(self) -> tuple[Any, ...]: ...

def activation_names() -> list[str]: ...
def pool_modes() -> list[str]: ...
def panel_bytes(dtype: str, n: int, k: int) -> int: ...
def set_from_arrays(function: Callable[[Any, Any, Any, Any, Any], PackedLinear]) -> None: ...
def aligned_array(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]: ...
def packed_linear(
    arrays: dict[str, NDArray[Any]], k: int, n: int, dtype: str, types: tuple[int, ...] = (), planes: int = 0
) -> PackedLinear: ...
def quant_panel_bytes(type: int, k: int) -> tuple[int, int]: ...
def fill_quants(
    panels: NDArray[Any], scales: NDArray[Any], type: int, blocks: NDArray[Any], k: int, num_threads: int | None
) -> int: ...
def quantize_int4(blocks: NDArray[np.uint8], weight: _F32, num_threads: int | None = None) -> int: ...
def unpack_quants(
    out: _F32, panels: NDArray[Any], scales: NDArray[Any], type: int, first: int, num_threads: int | None = None
) -> None: ...
def fill_panels(packed: PackedLinear, weight: _F32, num_threads: int | None) -> None: ...
def run_rows(
    op: int,
    x: Any,
    residual: Any,
    weight: Any,
    bias: Any,
    eps: Any,
    act: int,
    out: Any,
    num_threads: int | None,
    checked: bool = False,
) -> Any: ...
def run_linear(
    x: Any, packed: Any, activation: str | None, out: Any, num_threads: int | None, checked: bool = False
) -> Any: ...
def run_embedding(tables: Any, ids: Any, out: Any, num_threads: int | None, checked: bool = False) -> Any: ...
def run_pool(
    x: Any, cu_seqlens: Any, mode: Any, skip: Any, out: Any, num_threads: int | None, checked: bool = False
) -> Any: ...

# ---- programs: _core_program.pxi

ROW_KINDS: Final[int]
STEP_KINDS: Final[dict[str, int]]

class Blocks:
    def __init__(self) -> None: ...
    @property
    def nbytes(self) -> int: ...
    def __len__(self) -> int: ...

class Memory:
    def __new__(cls, arrays: Sequence[tuple[Any, Any, Any, Any]], groups: int) -> Memory: ...
    def place(self, group: int, slots: _I64, page_table: _I64, kv_lengths: _I64, q_offset: _I64) -> None: ...
    def keep_states(self, tables: Sequence[Any]) -> None: ...
    def place_states(self, begin: _I64, end: _I64) -> None: ...

class Stop:
    asked: Final[bool]
    def ask(self) -> None: ...

class Program:
    arrays: Final[tuple[str, ...]]
    def __new__(
        cls,
        columns: Sequence[int],
        arrays: Sequence[tuple[str, str, int, int, int, bool, int, bool]],
        layers: int = 0,
        groups: int = 0,
        states: int = 0,
    ) -> Program: ...
    def __len__(self) -> int: ...
    def add(
        self,
        kind: str,
        out: _Place,
        x: _Place = None,
        y: _Place = None,
        z: _Place = None,
        decay: _Place = None,
        beta: _Place = None,
        *,
        index: Sequence[int] = ...,
        packed: PackedLinear | None = None,
        tables: Sequence[Any] = ...,
        weight: Any = None,
        bias: Any = None,
        activation: str | None = None,
        pooling: str | None = None,
        act: int = 0,
        eps: float = 0.0,
        scale: float = 0.0,
        heads: int = 1,
        kv_heads: int = 0,
        head_size: int = 0,
        v_head_size: int = 0,
        softcap: float = 0.0,
        causal: bool = False,
        window: tuple[int, int] = ...,
        chunk: int = 0,
        integers: bool = False,
        alibi: Any = None,
        sinks: Any = None,
        layer: int = -1,
        group: int = -1,
        state: int = -1,
        c2p: Any = None,
        p2c: Any = None,
        span: int = 0,
        max_distance: int = 0,
        route: dict[str, Any] | None = None,
        experts: dict[str, Any] | None = None,
    ) -> None: ...
    def seal(self) -> None: ...
    def run(
        self,
        rows: Sequence[int],
        arrays: Sequence[Any],
        blocks: Blocks,
        num_threads: int | None = None,
        memory: Memory | None = None,
        deadline: int = 0,
        reserve: bool = False,
        stopped: Stop | None = None,
    ) -> bool: ...

# ---- linear attention: _core_recurrent.pxi

def run_linear_attention(
    q: Any,
    k: Any,
    v: Any,
    rule: Any,
    state: Any,
    decay: Any,
    beta: Any,
    scale: Any,
    out: Any,
    state_out: Any,
    num_threads: int | None,
    checked: bool = False,
) -> Any: ...

# ---- storage types, rotary embedding, caches, merging: _core_rope.pxi; bfloat16 as uint16

def dequantize(out: _F32, blocks: Any, type: int, num_threads: int | None = None) -> None: ...
def string_ends(data: Any, start: int, ends: _I64) -> int: ...
def strings_at(data: Any, ends: _I64, first: int, stop: int) -> list[str]: ...
def convert(out: NDArray[Any], x: NDArray[Any], num_threads: int | None = None) -> None: ...
def rope(
    x: NDArray[Any],
    cos: Any,
    sin: Any,
    position_ids: _I64 | None,
    interleaved: bool | np.bool_,
    rotary_dim: int | None,
    out: NDArray[Any] | None,
    num_threads: int | None,
) -> NDArray[Any]: ...
def rope_table(cos: _F32, sin: _F32, positions: _I64, turns: Any, factor: float, num_threads: int | None) -> None: ...
def kv_store(
    dst: NDArray[Any],
    src: NDArray[Any],
    slots: _I64,
    *,
    scale: _F32 | None = None,
    cos: _F32 | None = None,
    sin: _F32 | None = None,
    position_ids: _I64 | None = None,
    interleaved: bool = False,
    integers: str | None = None,
    num_threads: int | None = None,
) -> None: ...
def disentangled_bias(
    out: _F32,
    c2p: _F32 | None,
    p2c: _F32 | None,
    q_positions: _I64,
    k_positions: _I64,
    columns: NDArray[np.int32],
    scale: float,
    num_threads: int | None,
) -> None: ...
def merge(
    outs: list[NDArray[Any]], lses: list[NDArray[Any]], out: NDArray[Any], lse: _F32, num_threads: int | None
) -> None: ...

# ---- disentangled attention, rows side by side: _core_disentangled.pxi

def distance_columns(columns: NDArray[np.int32], span: int, max_distance: int) -> None: ...
def disentangled_attention(
    out: _F32,
    q: _F32,
    k: _F32,
    v: _F32,
    cu_seqlens: _I64,
    positions: _I64,
    c2p: _F32 | None,
    p2c: _F32 | None,
    span: int,
    max_distance: int,
    scale: float,
    num_threads: int | None,
) -> None: ...
def gather(out: _F32, x: _F32, index: _I64, num_threads: int | None) -> None: ...

# ---- drawing tokens: _core_sample.pxi

MOST_LOGITS: Final[int]

class Draws: ...

def sample(
    logits: _F32,
    samplings: Sequence[Any],
    *,
    steps: Sequence[int] | None = None,
    which: Sequence[int] | None = None,
    tokens: Sequence[_I64 | None] | None = None,
    prompts: Sequence[int] | None = None,
    banned: Sequence[_I64 | None] | None = None,
    allowed: Sequence[NDArray[np.uint32] | NDArray[np.int32] | None] | None = None,
    biases: Sequence[tuple[_I64, _F32] | None] | None = None,
    decays: Sequence[tuple[_I64, float, int] | None] | None = None,
    given: Sequence[int | None] | None = None,
    surprises: list[float | None] | None = None,
    scores: Sequence[float | None] | None = None,
    strict: bool = True,
    blocks: Blocks | None = None,
    num_threads: int | None = None,
) -> tuple[_I64, _F32 | None, _I64 | None, _F32 | None]: ...

# ---- vectors: _core_vectors.pxi

def similarity(out: _F32, a: _Floats, b: _Floats, metric: int, num_threads: int | None) -> None: ...
def top_k(best: _F32, index: _I64, scores: _F32, first: int, last: bool, num_threads: int | None) -> None: ...
def quantize_ranges(out: NDArray[np.int8], x: _F32, ranges: _F32, plain: bool, num_threads: int | None) -> None: ...
