"""Quantized weights, as their own tools store them: refused by name where something would be computed, copied where nothing is.

Names, dtypes and shapes of a linear layer of 64 outputs and 128 inputs. Source: AutoGPTQ 0.7 (group size 32), AutoAWQ 0.2
(packed along the outputs), bitsandbytes 0.43 (``QuantState.as_dict``, ``Linear8bitLt``), transformers 4.50 (fine-grained FP8),
compressed-tensors 0.9 (``pack-quantized``, ``float-quantized``); the configs are those of their READMEs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import Run, sha256
from tests.test_not_finite import lora
from weightkit.convert import convert
from weightkit.core.errors import PlanError
from weightkit.diff import make_diff
from weightkit.identify import identify
from weightkit.merge import merge_lora
from weightkit.recover import recover

OUT, IN, GROUPS = 64, 128, 4
Q = "model.layers.0.self_attn.q_proj"
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8, "torch_dtype": "float16"}
Tensors = dict[str, torch.Tensor]


def rest() -> Tensors:
    """What stays as it was."""
    torch.manual_seed(1)
    return {
        "model.embed_tokens.weight": torch.randn(8, IN).half(),
        "model.norm.weight": (torch.ones(IN) + torch.randn(IN) / 50).half(),
        "lm_head.weight": torch.randn(8, IN).half(),
    }


def integers(*shape: int) -> torch.Tensor:
    return torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int32)


def bytes_of(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.int32).to(torch.uint8)


def gptq() -> Tensors:
    return {
        f"{Q}.qweight": integers(IN // 8, OUT),
        f"{Q}.qzeros": integers(GROUPS, OUT // 8),
        f"{Q}.scales": torch.rand(GROUPS, OUT).half(),
        f"{Q}.g_idx": torch.arange(IN, dtype=torch.int32) // 32,
    }


def awq() -> Tensors:
    return {
        f"{Q}.qweight": integers(IN, OUT // 8),
        f"{Q}.qzeros": integers(GROUPS, OUT // 8),
        f"{Q}.scales": torch.rand(GROUPS, OUT).half(),
    }


def four_bits() -> Tensors:
    return {
        f"{Q}.weight": bytes_of(OUT * IN // 2, 1),
        f"{Q}.weight.absmax": bytes_of(OUT * IN // 64),
        f"{Q}.weight.quant_map": torch.rand(16),
        f"{Q}.weight.nested_absmax": torch.rand(1),
        f"{Q}.weight.nested_quant_map": torch.rand(256),
        f"{Q}.weight.quant_state.bitsandbytes__nf4": bytes_of(80),
    }


def eight_bits() -> Tensors:
    return {
        f"{Q}.weight": bytes_of(OUT, IN).view(torch.int8),
        f"{Q}.SCB": torch.rand(OUT),
        f"{Q}.weight_format": torch.tensor(0, dtype=torch.uint8),
    }


def fp8() -> Tensors:
    return {f"{Q}.weight": torch.randn(OUT, IN).to(torch.float8_e4m3fn), f"{Q}.weight_scale_inv": torch.rand(1, 1)}


def packed() -> Tensors:
    return {
        f"{Q}.weight_packed": integers(OUT, IN // 8),
        f"{Q}.weight_scale": torch.rand(OUT, GROUPS).half(),
        f"{Q}.weight_shape": torch.tensor([OUT, IN]),
    }


def whole_integers() -> Tensors:
    return {f"{Q}.weight": bytes_of(OUT, IN).view(torch.int8), f"{Q}.weight_scale": torch.rand(OUT, 1).bfloat16()}


KINDS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False}, "GPTQ"),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}, "AWQ"),
    "4bit": (four_bits, {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bitsandbytes"),
    "8bit": (eight_bits, {"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes"),
    "fp8": (fp8, {"quant_method": "fp8", "weight_block_size": [128, 128]}, "FP8"),
    "packed": (packed, {"quant_method": "compressed-tensors", "format": "pack-quantized"}, "compressed-tensors"),
    "int8": (whole_integers, {"quant_method": "compressed-tensors", "format": "int-quantized"}, "compressed-tensors"),
}


def folder(to: Path, named: Tensors, said: dict[str, Any] | None, *, pickled: bool = False) -> Path:
    to.mkdir()
    if pickled:
        torch.save(named, to / "pytorch_model.bin")
    else:
        save_file(named, to / "model.safetensors", metadata={"format": "pt"})
    config = CONFIG if said is None else CONFIG | {"quantization_config": said}
    (to / "config.json").write_text(json.dumps(config))
    return to


def plain(to: Path, *, zero: bool = False) -> Path:
    named = rest() | {f"{Q}.weight": torch.randn(OUT, IN).half()}
    return folder(
        to, {name: one * 0.0 + torch.randn(one.shape).half() / 99 if zero else one for name, one in named.items()}, None
    )


@pytest.fixture(params=[(kind, told) for kind in KINDS for told in (True, False)], ids=lambda one: f"{one[0]}-{one[1]}")
def base(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A quantized folder, with its config's word and without, and what it is called."""
    kind, told = request.param
    made, said, name = KINDS[kind]
    return folder(tmp_path / "q", rest() | made(), said if told else None), name


def test_nothing_is_computed_of_quantized_weights(base: tuple[Path, str], tmp_path: Path) -> None:
    path, name = base
    for refused in (
        lambda: recover(path, plain(tmp_path / "d", zero=True), tmp_path / "o"),
        lambda: merge_lora(path, [lora(tmp_path / "l", torch.rand(1, IN), torch.rand(OUT, 1))], tmp_path / "o"),
        lambda: convert(path, tmp_path / "o", "hf", dtype="float32"),
        lambda: convert(path, tmp_path / "o", "meta"),
        lambda: convert(path, tmp_path / "o", "tencentpretrain"),
    ):
        with pytest.raises(PlanError, match=f"is quantized \\(.*{name}") as told:
            refused()
        assert "\n" not in str(told.value)
        assert not (tmp_path / "o").exists()


def test_a_quantized_diff_is_refused(base: tuple[Path, str], tmp_path: Path) -> None:
    path, name = base
    with pytest.raises(PlanError, match=f"--diff .* is quantized \\(.*{name}"):
        recover(plain(tmp_path / "b"), path, tmp_path / "o")


def test_a_plain_copy_moves_quantized_weights_as_they_are(base: tuple[Path, str], tmp_path: Path) -> None:
    convert(base[0], tmp_path / "o", "hf")
    assert sha256(tmp_path / "o" / "model.safetensors") == sha256(base[0] / "model.safetensors")


def test_identify_names_the_method(base: tuple[Path, str]) -> None:
    assert base[1] in str(identify(base[0]))


def test_an_exact_difference_keeps_every_bit_of_quantized_weights(base: tuple[Path, str], tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    from safetensors.torch import load_file

    tuned = {
        name: one + 1 if one.dtype == torch.int32 else one for name, one in load_file(base[0] / "model.safetensors").items()
    }
    folder(tmp_path / "t", tuned, None)
    make_diff(base[0], tmp_path / "t", tmp_path / "d", method="exact")
    recover(base[0], tmp_path / "d", tmp_path / "o")
    assert sha256(tmp_path / "o" / "model.safetensors") == sha256(tmp_path / "t" / "model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_left_over_from_quantized_weights_is_a_note(weightkit: Run, tmp_path: Path, kind: str) -> None:
    path = folder(tmp_path / "b", rest() | {f"{Q}.weight": torch.randn(OUT, IN).half()}, KINDS[kind][1], pickled=True)
    adapter = lora(tmp_path / "l", torch.rand(1, IN), torch.rand(OUT, 1))
    for done in (
        merge_lora(path, [adapter], tmp_path / "m"),
        recover(path, plain(tmp_path / "d", zero=True), tmp_path / "r"),
        convert(path, tmp_path / "c", "hf", dtype="float32"),
    ):
        notes = [one for one in done.plan.notes if "quantization_config" in one]
        assert len(notes) == 1
        assert "none of its tensors is quantized" in notes[0]
