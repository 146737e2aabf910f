"""The element types of tensors, with the names that each format has for them. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

__all__ = [
    *("BFLOAT16", "BY_NAME", "BY_SAFETENSORS", "BY_STORAGE", "FLOAT16", "FLOAT32", "Q4_0", "Q8_0"),
    *("DType", "dtype_named"),
]


@dataclass(frozen=True, slots=True)
class DType:
    """One element type.

    Attributes:
        name: torch's name, as ``float16``.
        itemsize: Bytes an element; where ``block`` elements lie together, of these.
        kind: What arithmetic it has.
        storage: The class that ``torch.save`` names for it; None where it pickles an ``UntypedStorage`` and the dtype
            (torch 2.13: ``torch._utils._rebuild_tensor_v3``).
        safetensors: The code in a safetensors header; None where that format has none.
        block: Elements of a row that lie together with what they have in common; rows are whole blocks.
    """

    name: str
    itemsize: int
    kind: Literal["float", "int", "bool", "complex", "quantized"]
    storage: str | None
    safetensors: str | None
    block: int = 1

    def __str__(self) -> str:
        return self.name


FLOAT32 = DType("float32", 4, "float", "FloatStorage", "F32")
FLOAT16 = DType("float16", 2, "float", "HalfStorage", "F16")
BFLOAT16 = DType("bfloat16", 2, "float", "BFloat16Storage", "BF16")

Q8_0 = DType("q8_0", 34, "quantized", None, None, 32)
Q4_0 = DType("q4_0", 18, "quantized", None, None, 32)
"""A scale in float16, then 32 weights of 8 or 4 bits. Source: ggml-common.h, ``block_q8_0``, ``block_q4_0``. torch has none."""

DTYPES: tuple[DType, ...] = (
    FLOAT32,
    FLOAT16,
    BFLOAT16,
    DType("float64", 8, "float", "DoubleStorage", "F64"),
    DType("int64", 8, "int", "LongStorage", "I64"),
    DType("int32", 4, "int", "IntStorage", "I32"),
    DType("int16", 2, "int", "ShortStorage", "I16"),
    DType("int8", 1, "int", "CharStorage", "I8"),
    DType("uint8", 1, "int", "ByteStorage", "U8"),
    DType("bool", 1, "bool", "BoolStorage", "BOOL"),
    DType("complex64", 8, "complex", "ComplexFloatStorage", "C64"),
    DType("complex128", 16, "complex", "ComplexDoubleStorage", None),
    DType("uint16", 2, "int", None, "U16"),
    DType("uint32", 4, "int", None, "U32"),
    DType("uint64", 8, "int", None, "U64"),
    DType("float8_e4m3fn", 1, "float", None, "F8_E4M3"),
    DType("float8_e5m2", 1, "float", None, "F8_E5M2"),
    DType("float8_e4m3fnuz", 1, "float", None, None),
    DType("float8_e5m2fnuz", 1, "float", None, "F8_E5M2FNUZ"),
    DType("float8_e8m0fnu", 1, "float", None, "F8_E8M0"),
)
"""Source of the storage classes: torch-golden (files of torch 1.6 to 2.15). Of the codes: safetensors 0.8, tensor.rs."""

BY_NAME: dict[str, DType] = {dtype.name: dtype for dtype in DTYPES}
BY_STORAGE: dict[str, DType] = {dtype.storage: dtype for dtype in DTYPES if dtype.storage}
BY_SAFETENSORS: dict[str, DType] = {dtype.safetensors: dtype for dtype in DTYPES if dtype.safetensors}

NICKNAMES = {
    "fp32": "float32",
    "float": "float32",
    "fp16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "fp64": "float64",
    "double": "float64",
}


def dtype_named(value: str | DType) -> DType:
    """A dtype by its name, torch's name, or what people call it: ``float16``, ``torch.float16``, ``fp16``, ``half``.

    Raises:
        ValueError: None is called so.
    """
    if isinstance(value, DType):
        return value
    name = str(value).lower().removeprefix("torch.")
    found = BY_NAME.get(NICKNAMES.get(name, name))
    if found is None:
        near = get_close_matches(name, [*BY_NAME, *NICKNAMES], n=1)
        raise ValueError(f"{value!r} is no dtype; " + (f"did you mean {near[0]}?" if near else f"known: {', '.join(BY_NAME)}"))
    return found
