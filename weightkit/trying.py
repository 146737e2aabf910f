"""Asks a model that stands on the disk, through transformers: the last look after a recovery.

import weightkit.trying
weightkit.trying.ask("zhixi-13b", "Who wrote Faust?", template="knowlm").text

It is the one module that imports transformers, and only when asked. No code of the folder's is run, nothing is downloaded,
and pickles pass torch's own allow-list. Decoding is greedy: the likeliest token each time, so that equal weights answer alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from weightkit.core.dtypes import DType
from weightkit.core.errors import FormatError, PlanError, WeightkitError
from weightkit.core.installed import adding_extra
from weightkit.core.torch_here import in_one_line, load, version_of
from weightkit.families.prompts import TEMPLATES

__all__ = ["AUTO", "CHAT", "PLAIN", "Answer", "ask"]

AUTO, CHAT, PLAIN = "auto", "chat", "none"
"""Templates beside those of ``TEMPLATES``: the tokenizer's own if it has one, else none; the tokenizer's own; none."""

OLDEST = (5, 23)
"""The first transformers that this was tested with. 5.0.0 splits what LLaMA's ``tokenizer.model`` is to split otherwise."""

CONFIG, ADAPTER = "config.json", "adapter_config.json"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered.

    Attributes:
        text: The answer, as the tokenizer spells it, without special tokens.
        tokens: The answer's tokens, the one that ends it included.
        asked: The whole text that the model was given.
        asked_tokens: Its tokens.
        template: The name of what stood round the prompt.
        ended: Whether the model ended the answer itself; else it was cut at the number of tokens allowed.
        dtype: What was computed in.
        device: Where.
    """

    text: str
    tokens: tuple[int, ...]
    asked: str
    asked_tokens: tuple[int, ...]
    template: str
    ended: bool
    dtype: str
    device: str


def ask(
    folder: Path | str,
    prompt: str,
    *,
    template: str = AUTO,
    max_new_tokens: int = 128,
    dtype: DType | str | None = None,
    device: str = "cpu",
    say: Say | None = None,
) -> Answer:
    """Load the model in ``folder`` and let it answer ``prompt``, greedily.

    Args:
        folder: A folder of transformers' layout.
        prompt: What is asked.
        template: A name of ``TEMPLATES``, ``chat``, ``none``, or ``auto``.
        max_new_tokens: Where the answer is cut.
        dtype: What the weights are cast to; None: as ``config.json`` says, or they are stored.
        device: Where to compute, as torch calls it.
        say: Is told what a user may want to know.

    Raises:
        FormatError: transformers does not load the folder.
        PlanError: It is no model of transformers' layout, or there is no such template, or no such device.
        TorchError: torch is missing, or not fit.
        WeightkitError: transformers is missing, or not fit.
    """
    path = checked(Path(folder))
    if template not in (AUTO, CHAT, PLAIN, *TEMPLATES):
        raise PlanError(f"no template {template}", hint=f"one of {', '.join((AUTO, CHAT, PLAIN, *TEMPLATES))}")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is at least 1, not {max_new_tokens}")
    transformers = transformers_here()
    closed = {"local_files_only": True, "trust_remote_code": False}
    with failing(path):
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(path), **closed)
    template, text, tokens = asked_with(tokenizer, path, prompt, template, say or (lambda _: None))
    with failing(path):
        name = "auto" if dtype is None else getattr(dtype, "name", dtype)
        model = transformers.AutoModelForCausalLM.from_pretrained(str(path), dtype=name, weights_only=True, **closed)
        ends = ends_of(model, tokenizer)
        # Of what generation_config.json says only the tokens that end are kept: sampling and penalties are no greedy answer.
        model.generation_config = transformers.GenerationConfig(
            do_sample=False,
            num_beams=1,
            bos_token_id=model.config.bos_token_id,
            eos_token_id=sorted(ends) or None,
            pad_token_id=min(ends, default=0),
        )
    try:
        model = model.to(device).eval()
    except Exception as error:  # torch has a class of error for each way in which a device is not there
        raise PlanError(f"--device {device}: {in_one_line(error)}", hint="name one that torch has here: cpu") from error
    with failing(path):
        given = tokenizer.pad({"input_ids": [list(tokens)]}, return_tensors="pt", padding=False).to(device)
        found = model.generate(**given, max_new_tokens=max_new_tokens)[0].tolist()[len(tokens) :]
        spelt = tokenizer.decode(found, skip_special_tokens=True)
    return Answer(
        text=spelt,
        tokens=tuple(found),
        asked=text,
        asked_tokens=tokens,
        template=template,
        ended=bool(found) and found[-1] in ends,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
    )


def checked(path: Path) -> Path:
    """The folder, if it is one that transformers is to load.

    Raises:
        PlanError: It is none.
    """
    if not path.is_dir():
        raise PlanError(f"{path}: is no folder; the model's is wanted", path=path)
    if (path / ADAPTER).exists():
        raise PlanError(
            f"{path}: is an adapter ({ADAPTER}), and no whole model",
            path=path,
            hint="weightkit merge --base BASE --lora LORA --out OUT",
        )
    if not (path / CONFIG).is_file():
        raise PlanError(
            f"{path}: has no {CONFIG}, so transformers cannot load it",
            path=path,
            hint="weightkit convert SRC DST --to hf",
        )
    return path


def transformers_here() -> Any:
    """transformers.

    Raises:
        TorchError: torch is missing, or not fit.
        WeightkitError: transformers is not installed, too old, or does not load.
    """
    if find_spec("transformers") is None:
        raise WeightkitError(f"this needs transformers, which is not installed: {adding_extra('try')}")
    if (version_of("transformers") or OLDEST) < OLDEST:
        said = f"transformers {metadata.version('transformers')} is too old, {OLDEST[0]}.{OLDEST[1]} or later is needed"
        raise WeightkitError(f"{said}: {adding_extra('try')}")
    load()
    try:
        found = import_module("transformers")
        found.AutoModelForCausalLM.from_pretrained  # noqa: B018  # named, so that it is loaded
    except Exception as error:  # whatever a library of somebody else's raises while it loads
        raise WeightkitError(f"transformers does not load: {in_one_line(error)}; {adding_extra('try')}") from error
    return found


@contextmanager
def failing(path: Path) -> Iterator[None]:
    """Whatever transformers raises about a folder, as one line."""
    try:
        yield
    except (MemoryError, WeightkitError):
        raise
    except ModuleNotFoundError as error:
        raise WeightkitError(f"{path}: transformers needs {error.name} to load it: {adding_extra('try')}") from error
    except Exception as error:  # whatever a library of somebody else's raises at a damaged folder
        raise FormatError(path, f"transformers does not load it: {in_one_line(error)}") from error


def asked_with(tokenizer: Any, path: Path, prompt: str, template: str, say: Say) -> tuple[str, str, tuple[int, ...]]:
    """The template that is used, the text that the model is given, and its tokens."""
    if template == AUTO:
        template = CHAT if tokenizer.chat_template else PLAIN
        known = ", ".join(TEMPLATES)
        if template == PLAIN:
            say(f"{path} has no chat template: the prompt is given as it is; --template names one: {known}")
    if template == CHAT:
        if not tokenizer.chat_template:
            raise PlanError(
                f"{path}: its tokenizer has no chat template", path=path, hint=f"name one of {', '.join(TEMPLATES)}"
            )
        with failing(path):
            talk = [{"role": "user", "content": prompt}]
            text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
            return template, text, tuple(tokenizer(text, add_special_tokens=False).input_ids)  # it has its own
    text = TEMPLATES[template].around(prompt) if template in TEMPLATES else prompt
    with failing(path):
        tokens = tuple(tokenizer(text).input_ids)
    if not tokens:
        raise PlanError("--prompt is empty, and nothing stands round it: there is nothing to go on from")
    return template, text, tokens


def ends_of(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that end an answer, as the folder's files name them."""
    ends: set[int] = set()
    for said in (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id):
        ends |= {said} if isinstance(said, int) else set(said or ())
    return ends
