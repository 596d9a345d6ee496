# SPDX-License-Identifier: MIT
"""``fastattn bench generate``: from a new process to the first token, and memory while a language model is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .child import ChildError, child_environment
from .cold import process_times

__all__ = ["PROMPT", "first_token", "loading_memory"]

PROMPT = "The capital of France is"
_IDS = "[[1, 2, 3, 4, 5]]"  # of models without a tokenizer
_NUMPY = "import numpy; print('.', flush=True)"
_OURS = """
import sys, fastattn
path, dtype, kv_dtype, threads, prompt = sys.argv[1:]
model = fastattn.load(path, dtype or None, int(threads))
"""
_TEXT = "prompts = prompt"
_TOKENS = f"prompts = {_IDS}"
_GENERATE = "model.generate(prompts, max_new_tokens=1, temperature=0, kv_dtype=kv_dtype or None)"
_SAY = "print('.', flush=True)"
_PEAK = """
def peak():
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM:"))
"""
_TRANSFORMERS = """
import os, sys
path, dtype, _, threads, prompt = sys.argv[1:]
import torch, transformers
torch.set_num_threads(int(threads))
transformers.logging.set_verbosity_error()
folder, options = (path, {}) if os.path.isdir(path) else (os.path.dirname(path), {"gguf_file": os.path.basename(path)})
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, **options)
model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=getattr(torch, dtype), local_files_only=True, **options
)
model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=1, do_sample=False)
"""
_LLAMA_CPP = """
import sys
path, _, _, threads, prompt = sys.argv[1:]
import llama_cpp
threads = int(threads)
model = llama_cpp.Llama(path, n_ctx=512, n_threads=threads, n_threads_batch=threads, flash_attn=True, verbose=False)
model(prompt, max_tokens=1, temperature=0)
"""
_PEERS = {"transformers": _TRANSFORMERS, "llama.cpp": _LLAMA_CPP}


def first_token(
    path: Path,
    peers: Sequence[str],
    num_threads: int,
    *,
    dtype: str | None = None,
    kv_dtype: str | None = None,
    kept: str = "float32",
    tokenizer: bool = True,
    rounds: int = 5,
) -> dict[str, Any]:
    """Time from the start of a process to the first token behind PROMPT, by the library and by the command.

    Args:
        path: the model
        peers: that take part: whoever reads its files; none of them where there is no tokenizer
        num_threads: of each
        dtype, kv_dtype: of weights and keys, None for the defaults
        kept: the type that weights have in the end, which transformers gets
        tokenizer: whether the model has one; else a few token ids are the prompt
        rounds: how many of each

    Returns:
        What process_times() does, of numpy (a process that imports it), generate, command (where there is a tokenizer)
        and the peers; and failed, by name why a peer was left out.

    Raises:
        ChildError: ours fails.
    """
    given = [str(path), dtype or "", kv_dtype or "", str(num_threads), PROMPT]
    code = "\n".join([_OURS, _TEXT if tokenizer else _TOKENS, _GENERATE, _SAY])
    commands = {
        "numpy": [sys.executable, "-c", _NUMPY],
        "generate": [sys.executable, "-c", code, *given],
    }
    if tokenizer:
        options = [*(["--dtype", dtype] if dtype else []), *(["--kv-dtype", kv_dtype] if kv_dtype else [])]
        commands["command"] = [
            *(sys.executable, "-m", "fastattn", "generate", PROMPT, "--model", str(path), "--max-new-tokens", "1"),
            *("--threads", str(num_threads), "--temperature", "0", *options),
        ]
        theirs = [str(path), "float32" if kept == "int8" else kept, *given[2:]]
        for name in peers:
            commands[name] = [sys.executable, "-c", _PEERS[name] + _SAY, *theirs]
    failed: dict[str, str] = {}
    while True:
        try:
            found = process_times(commands, rounds, [name for name in commands if name != "numpy"], until_output=True)
            return {**found, "failed": failed}
        except ChildError as error:
            if error.name not in peers:
                raise
            failed[error.name] = str(error)
            del commands[error.name]


def loading_memory(
    path: Path, num_threads: int, dtype: str | None = None, kv_dtype: str | None = None, tokenizer: bool = True
) -> dict[str, int] | None:
    """Memory of a process that loads the model and generates a token: bytes that were resident at the most.

    Returns:
        import_bytes, after ``import fastattn``; load_bytes, after loading; first_token_bytes, after the first token.
        None where the system does not tell.

    Raises:
        ChildError: the process fails, with what it says.
    """
    if not os.path.exists("/proc/self/status"):
        return None
    head, _, load = _OURS.strip().rpartition("\n")
    code = "\n".join(
        [
            _PEAK, head, "found = {'import_bytes': peak()}", load, "found['load_bytes'] = peak()",
            _TEXT if tokenizer else _TOKENS, _GENERATE, "found['first_token_bytes'] = peak()",
            "import json; print(json.dumps(found))",
        ]
    )  # fmt: skip
    given = [str(path), dtype or "", kv_dtype or "", str(num_threads), PROMPT]
    done = subprocess.run(
        [sys.executable, "-c", code, *given], stdin=subprocess.DEVNULL, capture_output=True, env=child_environment()
    )
    if done.returncode:
        raise ChildError("fastattn", done.stderr.decode("utf-8", "replace").strip().splitlines()[-1][:160])
    found: dict[str, int] = json.loads(done.stdout)
    return found
