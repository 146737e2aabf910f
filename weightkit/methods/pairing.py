"""Pairs the tensors of a base with those of a diff (or of a tuned model, to make one), and says all that does not fit.

Used by ``recover`` and, the other way round, by ``make-diff``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from weightkit.blobs import known
from weightkit.checkpoints.beside import beside
from weightkit.checkpoints.checkpoint import Checkpoint
from weightkit.core.arguments import as_tuple
from weightkit.core.dtypes import FLOAT16, FLOAT32, DType, dtype_named
from weightkit.core.lazy import LazyTensor, derive
from weightkit.core.spec import TensorSpec
from weightkit.families import llama
from weightkit.ops.add import Cast
from weightkit.ops.vocab import Fill, GrowRows

TIED = "model.embed_tokens.weight"
"""What transformers ties ``lm_head.weight`` to."""

__all__ = ["NewRows", "Pairs", "Rules", "pair"]

NewRows = Literal["mean", "zero", "whole"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What the user said about tensors that differ in more than their values.

    Attributes:
        dtype: What base and diff are cast to before the arithmetic, a dtype or its name; None for the diff's own.
        new_rows: Rows that the base lacks: the mean of its rows, zeros, or the whole tensor taken as it is in the diff.
        whole: Shell patterns of names that are no differences but whole, taken as they are.
        inv_freq: Rotary frequencies that the base lacks: exact in float32, or rounded through float16, as some converters
            left them.
    """

    dtype: DType | None = None
    new_rows: NewRows | None = None
    whole: tuple[str, ...] = ()
    inv_freq: Literal["float32", "float16"] = "float32"

    if TYPE_CHECKING:  # what callers may say, where the fields hold what was made of it

        def __init__(
            self,
            dtype: DType | str | None = None,
            new_rows: NewRows | None = None,
            whole: str | Sequence[str] = (),
            inv_freq: Literal["float32", "float16"] = "float32",
        ) -> None: ...

    def __post_init__(self) -> None:
        if self.dtype is not None:
            object.__setattr__(self, "dtype", dtype_named(self.dtype))
        object.__setattr__(self, "whole", as_tuple(self.whole))

    def dtype_of(self, name: str, spec: TensorSpec) -> DType:
        """The dtype that a tensor is computed and stored in.

        Only floats are cast, and ``inv_freq`` is never narrowed: a buffer that LLaMA keeps in float32 whatever the model is
        loaded in. Source: KnowLM's ``--is_fp16`` under transformers 4.28.1, run (peer-reference).
        """
        if self.dtype is None or spec.dtype.kind != "float":
            return spec.dtype
        return spec.dtype if llama.is_inv_freq(name) and self.dtype != FLOAT32 else self.dtype

    def cast(self, name: str, tensor: LazyTensor) -> LazyTensor:
        """A tensor in that dtype."""
        wanted = self.dtype_of(name, tensor.spec)
        return tensor if wanted == tensor.spec.dtype else derive(Cast(wanted), tensor)


@dataclass(slots=True)
class Pairs:
    """For each tensor of the diff, what it is to be combined with.

    Attributes:
        base: Name -> the base's side, in the shape of the diff's; None where the diff's tensor is whole.
        notes: What was decided, for people.
        problems: What does not fit, one line each.
    """

    base: dict[str, LazyTensor | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def pair(base: Checkpoint, other: Checkpoint, rules: Rules, *, other_is: str) -> Pairs:
    """Find the base's side of every tensor.

    Args:
        base: The base.
        other: The diff, or the tuned model.
        rules: What the user said.
        other_is: What ``other`` is called in messages: ``diff``.
    """
    pairs = Pairs()
    grown: list[str] = []
    for name in other.tensors:
        spec = other.spec(name)
        if any(fnmatchcase(name, pattern) for pattern in rules.whole):
            pairs.base[name] = None
        elif name in base.tensors:
            pairs.base[name] = fitted(base.tensors[name], name, spec, rules, pairs, grown, other_is)
        elif name == "lm_head.weight" and TIED in base.tensors and base.json("config.json").get("tie_word_embeddings"):
            pairs.notes.append(f"lm_head.weight: the base ties it to {TIED}")
            pairs.base[name] = fitted(base.tensors[TIED], name, spec, rules, pairs, grown, other_is)
        else:
            pairs.base[name] = absent(base, other, name, rules, pairs, other_is)
    for pattern in rules.whole:
        if not any(fnmatchcase(name, pattern) for name in other.tensors):
            pairs.problems.append(f"--whole {pattern}: no tensor of the {other_is} has such a name")
    if grown:
        ask_for_new_rows(base, other, grown, rules, pairs, other_is)
    check_left_over(base, other, pairs, other_is)
    whole = [name for name, tensor in pairs.base.items() if tensor is None]
    if whole and len(whole) < len(pairs.base):
        pairs.notes.append(f"{listed(whole)}: taken whole from the {other_is}, nothing is added")
    elif whole:
        pairs.problems.append(f"the {other_is} and the base have no tensor in common")
    return pairs


def fitted(
    stored: LazyTensor, name: str, spec: TensorSpec, rules: Rules, pairs: Pairs, grown: list[str], other_is: str
) -> LazyTensor | None:
    """The base's tensor, with rows appended where it has too few."""
    have = stored.spec
    dtype = rules.dtype_of(name, spec)
    if have.dtype != dtype and not have.dtype.kind == dtype.kind == "float":
        pairs.problems.append(f"{name}: the base has {have}, the {other_is} {spec}: not to be added")
    elif have.shape == spec.shape:
        return stored
    elif llama.is_vocabulary(name) and len(have.shape) == len(spec.shape) == 2 and have.shape[1] == spec.shape[1]:
        if have.shape[0] > spec.shape[0]:
            pairs.problems.append(
                f"{name}: the base has {have.shape[0]} rows, the {other_is} {spec.shape[0]}: the base is already extended, "
                "perhaps already tuned; name the original"
            )
        else:
            grown.append(name)
            if rules.new_rows in ("mean", "zero"):
                fill: Fill = "mean" if rules.new_rows == "mean" else "zero"
                return derive(GrowRows(have.shape[0], spec.shape[0], fill, dtype), stored)
    else:
        pairs.problems.append(
            f"{name}: the base has {list(have.shape)}, the {other_is} {list(spec.shape)}: models of two sizes"
        )
    return None


def ask_for_new_rows(
    base: Checkpoint, other: Checkpoint, grown: Sequence[str], rules: Rules, pairs: Pairs, other_is: str
) -> None:
    """Say what becomes of the rows that the base lacks; it is never guessed."""
    name = grown[0]
    old, new = base.spec(name if name in base.tensors else TIED).shape[0], other.spec(name).shape[0]
    if rules.new_rows is None:
        pairs.problems.append(
            f"{', '.join(grown)}: the {other_is} has {new} rows, the base {old}: say what the new rows are. Stanford-style "
            "diffs need --new-rows mean, Vicuna v0 and LLaVA --new-rows zero; --new-rows whole takes these tensors as they are"
        )
    elif rules.new_rows != "whole":
        what = "the mean of the base's rows" if rules.new_rows == "mean" else "zeros"
        pairs.notes.append(f"{', '.join(grown)}: {new - old} rows that the base lacks are {what} (--new-rows)")


def absent(base: Checkpoint, other: Checkpoint, name: str, rules: Rules, pairs: Pairs, other_is: str) -> LazyTensor | None:
    """The base's side of a tensor whose name it lacks."""
    spec = other.spec(name)
    if (found := beside(base).get(name)) is not None:
        pairs.problems.append(f"{name}: a tensor in the {other_is}, no tensor in the base but {found}: not added")
        return None
    if llama.is_inv_freq(name):
        return computed_frequencies(base, name, spec, rules, pairs)
    if llama.block_of(name) is not None or name in (*llama.FIRST, *llama.LAST):
        pairs.problems.append(
            f"{name}: not in the base, which is another model, or incomplete; if the {other_is} is known to hold it whole, say "
            f"--whole {name}"
        )
    return None


def computed_frequencies(base: Checkpoint, name: str, spec: TensorSpec, rules: Rules, pairs: Pairs) -> LazyTensor | None:
    """The rotary frequencies, where the base's converter left them out: they follow from the config."""
    config = base.json("config.json")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind: object = rope
    theta: object = 10000.0
    if isinstance(rope, dict):
        kind = rope.get("rope_type") or rope.get("type") or "default"
        theta = config.get("rope_theta", rope.get("rope_theta", theta))
    if isinstance(theta, bool) or not isinstance(theta, int | float) or not 0 < theta < 1e30:
        pairs.problems.append(f"{name}: not in the base, and its config has rope_theta {theta!r}: wanted a number, as 10000")
        return None
    if kind != "default" or len(spec.shape) != 1:
        pairs.problems.append(f"{name}: not in the base, and its config speaks of another kind of frequencies ({kind!r})")
        return None
    note = f"inv_freq: not in the base, computed (theta {theta:g}) as exact float32; --inv-freq float16 rounds it first"
    if rules.inv_freq == "float16":
        note = f"inv_freq: not in the base, computed (theta {theta:g}), rounded through float16 (--inv-freq)"
    if note not in pairs.notes:
        pairs.notes.append(note)
    values = llama.inv_freq(spec.shape[0], float(theta))
    exact = known(name, TensorSpec(FLOAT32, spec.shape), values.tobytes())
    return derive(Cast(FLOAT16), exact) if rules.inv_freq == "float16" else exact


def check_left_over(base: Checkpoint, other: Checkpoint, pairs: Pairs, other_is: str) -> None:
    """What only the base has: frequencies are left out, a tied head may be; the rest is a misfit."""
    left = [name for name in base.tensors if name not in other.tensors]
    plain = beside(other)
    for name in left:
        if name in plain:
            pairs.problems.append(
                f"{name}: a tensor in the base, no tensor in the {other_is} but {plain[name]}: not spread over all elements; "
                "transformers refuses such a file, too"
            )
    left = [name for name in left if name not in plain]
    frequencies = [name for name in left if llama.is_inv_freq(name)]
    if frequencies:
        pairs.notes.append(f"inv_freq: in the base only ({len(frequencies)} tensors), left out as the {other_is} has it")
    tied = other.json("config.json").get("tie_word_embeddings")
    for name in left:
        if not (llama.is_inv_freq(name) or (name == "lm_head.weight" and tied)):
            pairs.problems.append(f"{name}: in the base, not in the {other_is}, which is incomplete or of another model")


def listed(names: Sequence[str]) -> str:
    """Some names, for a line."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
