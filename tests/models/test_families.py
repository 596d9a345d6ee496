# SPDX-License-Identifier: MIT
"""What holds for every family of the registry: tensors by name, keys of config.json, and the same bits however a model
is stored, batched, threaded and cut. A new family has to be in ``golden.tiny_models``, and nowhere else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import tiny_models
from golden.tiny_models import CASES
from support.variants import assert_one_result

import fastattn as fa
from fastattn._core import Blocks
from fastattn.engine.decode import Steps
from fastattn.engine.memory import PagedMemory
from fastattn.graph.build import trace_page
from fastattn.graph.checkpoint import Plan, check_tensors
from fastattn.graph.choice import HEADS
from fastattn.models.configkeys import REFUSED
from fastattn.models.families import as_markdown, families
from fastattn.models.gguf import ARCHITECTURES
from fastattn.models.registry import FAMILIES, family_of, open_source
from fastattn.typing import WeightType

README = Path(__file__).parents[2] / "README.md"
Array = np.ndarray[Any, Any]
Load = Callable[..., Any]
Folders = Callable[..., Path]

ONE = list({model_type: case for case, model_type in reversed(CASES.items())}.values())
"""The first small model of each family."""
LABELLED = ("llama", "gpt2", "opt", "mixtral", "mamba2")
"""Decoders under heads of labels: all families have them of one place, by the names of several kinds of files."""
UNDER_HEADS = [(case, head) for case in CASES for head in tiny_models.heads(case)
               if head == "causal_lm" or case in LABELLED or not family_of(CASES[case]).decoder]  # fmt: skip
DECODERS = [case for case in CASES if family_of(CASES[case]).decoder]
DTYPES: tuple[WeightType, ...] = ("float32", "float16", "bfloat16", "int8")
LARGE = ("masked_lm", "causal_lm")  # the heads that have weights of the model's type
STORED = [(case, head, dtype) for case, head in UNDER_HEADS for dtype in DTYPES
          if head in LARGE and (case in ONE or dtype == "int8") or case in ONE and dtype == "float32"]  # fmt: skip
OPTIONAL = {"nomic_bert": re.compile(r"cls\.predictions\.(transform\.dense\.)?bias")}
"""Tensors of a family that tell by themselves whether the model has them."""

_LATER_LAYER = re.compile(r"(layers?|albert_layer_groups)\.[1-9]\d*\.")


def plainest(case: str) -> str:
    """The head under which a model has least beside itself."""
    return tiny_models.heads(case)[0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The folder of a small model under a head, written once."""
    written: dict[tuple[str, str], Path] = {}

    def folder(case: str, head: str) -> Path:
        if (case, head) not in written:
            written[case, head] = tiny_models.make(case, head).save(tmp_path_factory.mktemp(case) / head)
        return written[case, head]

    return folder


@pytest.fixture(scope="module")
def load(folders: Folders) -> Load:
    """A small model under a head, the plainest where none is said, built once."""
    models: dict[tuple[str, str, str], Any] = {}

    def model(case: str, head: str = "", dtype: str = "float32") -> Any:
        key = case, head or plainest(case), dtype
        if key not in models:
            models[key] = fa.load(folders(*key[:2]), dtype)
        return models[key]

    return model


def first(output: Any) -> Array:
    """The first field of an output: hidden states or logits."""
    found: Array = output[0]
    return found


def bits(output: Any) -> dict[str, bytes | None]:
    """Every field of an output."""
    return {name: None if field is None else field.tobytes() for name, field in output._asdict().items()}


def test_every_family_has_a_small_model_under_each_of_its_heads() -> None:
    missing = FAMILIES.keys() - CASES.values()
    assert not missing, f"put a small configuration of {missing} into a maker of golden/tiny_models.py"
    assert set(CASES.values()) == FAMILIES.keys()
    for model_type in FAMILIES:
        heads = {head for case in CASES if CASES[case] == model_type for head in tiny_models.heads(case)}
        assert heads <= {*HEADS}
        assert heads >= {*family_of(model_type).architectures.values()} - {None, "next_sentence"}


def test_the_readme_has_the_table_of_the_pages() -> None:
    table = as_markdown()
    assert f"\n{table}\n\n" in README.read_text(encoding="utf-8"), "put what `fastattn info --families` prints there"
    named = [name for row in families() for name in row.model_types]
    assert sorted(named) == sorted(FAMILIES)
    assert sorted(name for row in families() for name in row.gguf) == sorted(ARCHITECTURES)
    assert all(row.heads and f"| {row.name} | " in table for row in families())


@pytest.mark.parametrize(("case", "head"), UNDER_HEADS)
def test_a_plan_names_the_tensors_of_the_file(load: Load, case: str, head: str) -> None:
    """All of them, with their shapes, and no others; nothing is left to be told of."""
    tensors = tiny_models.make(case, head).tensors
    opened = open_source(load(case, head).path, "float32", None)
    plan = Plan(opened.config, opened.weights)
    trace_page(opened.family, plan)
    planned = {next(name for name in names if name in tensors): shape for names, shape in plan.requests.items()}
    assert planned == {name: array.shape for name, array in tensors.items()}
    report, unknown = check_tensors(plan, opened.weights, opened.family.ignorable)
    assert (sorted(report.used), report.ignored, unknown) == (sorted(tensors), (), [])
    model = load(case, head)
    assert model.head_name == head and model.notes == [] and model.tensors == report


@pytest.mark.parametrize(("case", "head"), [(c, h) for c, h in UNDER_HEADS if c in ONE or h == plainest(c)])
def test_missing_and_misshaped_tensors_are_named(tmp_path: Path, case: str, head: str) -> None:
    """But those of later layers; and of those below a head, which are the plain model's, the first alone."""
    tiny, optional = tiny_models.make(case, head), OPTIONAL.get(CASES[case])
    below = () if head == plainest(case) else tuple(tiny_models.make(case, plainest(case)).tensors)
    for i, (name, array) in enumerate(tiny.tensors.items()):
        if _LATER_LAYER.search(name) or i and name.endswith(below):
            continue
        if name == "score.weight" and "score.bias" not in tiny.tensors:
            continue  # all of that head: without it there is none
        if optional is None or not optional.fullmatch(name):
            with pytest.raises(ValueError, match=f"missing tensors? '{re.escape(name)}'"):
                fa.load(tiny.save(tmp_path, without=name))
        shape = array.shape[0] + 1, *array.shape[1:]
        with pytest.raises(ValueError, match=rf"tensor '{re.escape(name)}' has shape \[.*\], but .* asks for \["):
            fa.load(tiny.save(tmp_path, tensors={name: np.zeros(shape, np.float32)}))


@pytest.mark.parametrize("case", ONE)
def test_unknown_tensors_are_refused_or_listed(tmp_path: Path, load: Load, case: str) -> None:
    name, batch = "encoder.layers.0.self_attn.sinks", tiny_models.batch(case)
    tiny_models.make(case, plainest(case)).save(tmp_path, tensors={name: np.zeros((2, 3), np.float32)})
    with pytest.raises(ValueError, match=f"no use for tensor '{re.escape(name)}'"):
        fa.load(tmp_path)
    model = fa.load(tmp_path, "float32", strict=False)
    (note,) = model.notes
    assert f"left out as unknown: tensor '{name}'" in note and model.tensors.ignored == (name,)
    assert bits(model(*batch)) == bits(load(case)(*batch))


@pytest.mark.parametrize("case", ONE)
def test_keys_of_the_configuration(tmp_path: Path, load: Load, case: str) -> None:
    """An unknown one is noted; those that ask for another model are refused, unless they say nothing."""
    tiny, batch = tiny_models.make(case, plainest(case)), tiny_models.batch(case)
    model = fa.load(tiny.save(tmp_path, of_some_other_kind={"a": 3}), "float32")
    assert model.notes == [f"{tmp_path / 'config.json'}: unknown key 'of_some_other_kind'"]
    assert bits(model(*batch)) == bits(load(case)(*batch))
    for key, reason in REFUSED.items():
        with pytest.raises(ValueError, match=f"config.json: {key} is .*: ") as caught:
            fa.load(tiny.save(tmp_path, **{key: {"0": [1]}}))
        assert reason in str(caught.value) or "not supported" in str(caught.value)
    for nothing in (None, False, {}, []):
        assert fa.load(tiny.save(tmp_path, **dict.fromkeys(REFUSED, nothing))).notes == []


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("case", CASES)
def test_instruction_sets_and_threads_change_no_bit(load: Load, case: str, dtype: str) -> None:
    model, batch = load(case, tiny_models.heads(case)[:2][-1], dtype), tiny_models.batch(case)

    def call(num_threads: int | None) -> Array:
        return first(model(*batch, num_threads=num_threads))

    assert_one_result(call, f"{case} {dtype}", kernels=("tile",), slow=case.endswith("long"))


@pytest.mark.parametrize(("case", "head"), UNDER_HEADS)
def test_a_row_has_the_same_bits_alone_and_in_any_batch(load: Load, case: str, head: str) -> None:
    model, batch = load(case, head), tiny_models.batch(case)
    together = model(*batch)
    for row in range(len(batch[0])):
        alone = model(*(array[row : row + 1] for array in batch))
        for name, field in together._asdict().items():
            assert field is None or getattr(alone, name).tobytes() == field[row].tobytes(), name


@pytest.mark.parametrize(("case", "head"), UNDER_HEADS)
def test_padding_changes_no_bit(load: Load, case: str, head: str) -> None:
    model, ids = load(case, head), tiny_models.batch(case)[0][:1]
    padding = json.loads((model.path / "config.json").read_text()).get("pad_token_id", 0)
    padded = np.pad(ids, ((0, 0), (0, 9)), constant_values=padding)
    mask = np.pad(np.ones_like(ids), ((0, 0), (0, 9)))
    together = model(padded, mask)._asdict()
    for name, field in model(ids)._asdict().items():
        if field is not None:
            other = together[name] if field.shape[:2] != ids.shape else together[name][:, : ids.shape[1]]
            assert other.tobytes() == field.tobytes(), name


@pytest.mark.parametrize(("case", "head", "dtype"), STORED)
def test_packed_files_have_the_same_bits(tmp_path: Path, load: Load, case: str, head: str, dtype: WeightType) -> None:
    model, batch = load(case, head, dtype), tiny_models.batch(case)
    packed = fa.load(fa.pack(model.path, tmp_path / "model.fastattn", dtype))
    expected, got = model(*batch), packed(*batch)
    assert type(got) is type(expected) and packed.head_name == model.head_name == head
    assert bits(got) == bits(expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", DECODERS)
def test_a_stream_may_be_cut_anywhere(load: Load, case: str, dtype: str) -> None:
    """Steps over memory, at every cut, beside another sequence: the bits of a call with all tokens."""
    model, ids = load(case, "causal_lm", dtype), tiny_models.batch(case)[0][0]
    expected, trace = model(ids[None]).logits[0], model.graph.trace
    memory = PagedMemory(trace, [4] * len(trace.groups), "float32")
    steps = Steps(model.graph, model.program(["logits"]), Blocks(), memory)
    for cut in range(1, len(ids)):
        one, other = memory.add(), memory.add()
        lengths = [len(ids), len(ids)]
        found = steps.run([one, other], [ids[:cut], ids[:3]], [True, True], lengths=lengths)
        assert found.tobytes() == expected[[cut - 1, 2]].tobytes(), cut
        found = steps.run([other, one], [ids[3:5], ids[cut:]], [True, True], lengths=lengths)
        assert found.tobytes() == expected[[4, -1]].tobytes(), cut
        memory.free(one)
        memory.free(other)


@pytest.mark.parametrize("case", CASES)
def test_short_inputs(load: Load, case: str) -> None:
    model = load(case)
    width = first(model([[3]])).shape[2]
    assert first(model([[3]])).shape == (1, 1, width)
    assert first(model(np.zeros((2, 0), int))).shape == (2, 0, width)
    assert first(model(np.zeros((0, 3), int))).shape == (0, 3, width)
    assert not first(model([[3, 4]], [[0, 0]])).any()
