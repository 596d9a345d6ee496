# SPDX-License-Identifier: MIT
"""Language models as the child processes of ``fastattn bench generate`` run them: prompts of token ids, continued."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from fastattn.typing import WeightType

from . import NotOffered
from .continuation import DRAWN, SEED, Call, Loaded

__all__ = ["LOADERS", "Loader"]


class Loader(Protocol):
    """Loads the model of a file or folder."""

    def __call__(self, path: Path, num_threads: int, dtype: str | None, kv_dtype: str | None, **options: Any) -> Loaded:
        """``dtype`` of the weights, None for as they are stored; ``kv_dtype`` of keys, None for the library's;
        ``options``: what else the library lets one choose."""
        ...


def _fastattn(path: Path, num_threads: int, dtype: str | None, kv_dtype: str | None, **options: Any) -> Loaded:
    """``options``: further arguments of load()."""
    from fastattn import __version__, load
    from fastattn.bench.costs import costs_of

    model: Any = load(path, cast(WeightType, dtype), num_threads, **options)
    if not hasattr(model, "generate"):
        raise NotOffered(f"{path} is no language model")
    facts = {
        "costs": costs_of(model).as_json(),
        "tokenizer": model.has_tokenizer,
        "vocab_size": model.vocab_size,
        "max_positions": model.max_positions,
    }

    def prepare(prompts: Sequence[Sequence[int]], most: int, drawn: bool, **how: Any) -> Call:
        ids = [list(prompt) for prompt in prompts]
        how |= {**DRAWN, "seed": SEED} if drawn else {"temperature": 0.0}

        def call(count: int) -> list[list[int]]:
            found = model.generate(
                ids, max_new_tokens=count, ignore_eos=True, repetition_penalty=1.0, kv_dtype=kv_dtype, num_beams=1,
                draft=None, **how,
            )  # fmt: skip
            return [list(one.token_ids) for one in found]

        return call

    return Loaded(__version__, prepare, facts)


def _transformers(path: Path, num_threads: int, dtype: str | None, kv_dtype: str | None, **options: Any) -> Loaded:
    """int8: weights per output, activations per tensor, quantised on the way. Keys are of the arithmetic's type."""
    import torch  # type: ignore[import-not-found,unused-ignore]
    import transformers  # type: ignore[import-not-found,unused-ignore]

    if kv_dtype not in (None, dtype):
        raise NotOffered(f"transformers keeps keys as {dtype}, not as {kv_dtype}")
    folder, source = _transformers_source(path)
    torch.set_num_threads(num_threads)
    transformers.logging.set_verbosity_error()
    kind = "float32" if dtype in (None, "int8") else dtype
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, str(kind)), attn_implementation="sdpa", local_files_only=True, **source, **options
    )
    model = model.eval().requires_grad_(False)
    if dtype == "int8":
        quantization = torch.ao.quantization
        model = quantization.quantize_dynamic(
            model, {torch.nn.Linear: quantization.per_channel_dynamic_qconfig}, dtype=torch.qint8
        )
    # what the files say of sampling and of the end would be mixed into every call
    model.generation_config = transformers.GenerationConfig(pad_token_id=0, eos_token_id=None)

    def prepare(prompts: Sequence[Sequence[int]], most: int, drawn: bool, **how: Any) -> Call:
        ids = torch.tensor(prompts)
        mask = torch.ones_like(ids)
        how |= {"do_sample": True, **DRAWN} if drawn else {"do_sample": False}

        def call(count: int) -> list[list[int]]:
            if drawn:
                torch.manual_seed(SEED)
            with torch.inference_mode():
                found = model.generate(ids, attention_mask=mask, max_new_tokens=count, use_cache=True, **how)
            return cast("list[list[int]]", found[:, ids.shape[1] :].tolist())

        return call

    return Loaded(transformers.__version__, prepare)


def _transformers_source(path: Path) -> tuple[Path, dict[str, Any]]:
    """What from_pretrained() is given, and its options."""
    if path.is_dir():
        return path, {}
    if path.suffix == ".gguf":
        return path.parent, {"gguf_file": path.name}
    raise NotOffered("transformers reads folders and .gguf files")


def _llama_cpp(path: Path, num_threads: int, dtype: str | None, kv_dtype: str | None, **options: Any) -> Loaded:
    from .with_llama_cpp import load

    return load(path, num_threads, kv_dtype, **options)


LOADERS: dict[str, Loader] = {"fastattn": _fastattn, "transformers": _transformers, "llama.cpp": _llama_cpp}
"""By name."""
