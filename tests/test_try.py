"""``weightkit try``: what is asked, what comes out, what is never done. Most of it is skipped without transformers."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from tests.conftest import PEER, Run
from tests.test_docs import keys_on_the_page
from weightkit import recover, trying
from weightkit.cli import main
from weightkit.cli.try_ import printable
from weightkit.core.errors import FormatError, PlanError, WeightkitError
from weightkit.families.prompts import TEMPLATES

BASE, TUNED = PEER / "hf-bin", PEER / "tuned-fp16-bin"
HERE = all(importlib.util.find_spec(name) for name in ("transformers", "sentencepiece"))
needs_transformers = pytest.mark.skipif(not HERE, reason="transformers is not installed: pip install 'weightkit[try]'")
QUESTION = "Who wrote Faust?"
BELOW = "Below is an instruction that describes a task. Write a response that appropriately completes the request."

ASKED = {
    # tatsu-lab/stanford_alpaca README.md @761dc5b, "Data Release", the second prompt; train.py ends at the colon.
    "alpaca": f"{BELOW}\n\n### Instruction:\nWho wrote Faust?\n\n### Response:",
    # What zjunlp/KnowLM's Prompter (examples/generate_lora.py @0f00ad8) makes with its default, templates/alpaca.json.
    "knowlm": f"{BELOW}\n\n### Instruction:\nWho wrote Faust?\n\n### Response:\n",
    # What generate_prompt of ymcui/Chinese-LLaMA-Alpaca scripts/inference/inference_hf.py @090475f makes.
    "chinese-alpaca": f"{BELOW}\n\n### Instruction:\n\nWho wrote Faust?\n\n### Response:\n\n",
    # What get_conv_template("vicuna_v1.1") of fschat 0.2.36 makes; the test below asks it, where it is installed.
    "vicuna": "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: Who wrote Faust? ASSISTANT:",
    # What generate_prompt of LianjiaTech/BELLE train/src/entry_point/interface.py @645084d makes.
    "belle": "Human: \nWho wrote Faust?\n\nAssistant: \n",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_question_is_asked_as_the_authors_ask(name: str) -> None:
    assert TEMPLATES[name].around(QUESTION) == ASKED[name]


def test_a_prompt_with_braces_is_left_as_it_is() -> None:
    assert "{prompt} {0} {}" in TEMPLATES["alpaca"].around("{prompt} {0} {}")


@pytest.mark.skipif(importlib.util.find_spec("fastchat") is None, reason="FastChat is not installed")
def test_vicuna_is_asked_as_fastchat_asks() -> None:
    source = Path(str(importlib.util.find_spec("fastchat").submodule_search_locations[0])) / "conversation.py"  # type: ignore
    spec = importlib.util.spec_from_file_location("conversation_of_fastchat", source)
    module: Any = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    talk = module.get_conv_template("vicuna_v1.1")
    talk.append_message(talk.roles[0], QUESTION)
    talk.append_message(talk.roles[1], None)
    assert TEMPLATES["vicuna"].around(QUESTION) == talk.get_prompt()


def test_without_transformers_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trying, "find_spec", lambda name: None)
    with pytest.raises(WeightkitError, match=r"needs transformers, which is not installed: .*install ") as caught:
        trying.ask(BASE, QUESTION)
    assert "\n" not in str(caught.value)


def test_a_transformers_that_splits_texts_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """5.0.0 makes other tokens of LLaMA's tokenizer.model than the tokenizer of 2023, and says nothing."""
    monkeypatch.setattr(trying, "find_spec", lambda name: name)
    monkeypatch.setattr(trying, "version_of", lambda name: (5, 0))
    monkeypatch.setattr(trying.metadata, "version", lambda name: "5.0.0")
    with pytest.raises(WeightkitError, match=r"^transformers 5\.0\.0 is too old, 5\.23 or later is needed: .*install "):
        trying.ask(BASE, QUESTION)


def test_what_is_no_model_is_refused_before_anything_is_loaded(weightkit: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, said in (
        (PEER / "lora-alpaca-bin", "weightkit merge --base BASE --lora LORA"),
        (PEER / "meta" / "7B", "--to hf"),
        (tmp_path / "empty", "has no config.json"),
        (tmp_path / "nothing", "nothing"),
    ):
        done = weightkit("try", folder, "--prompt", QUESTION)
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    assert weightkit("try", BASE, "--prompt", QUESTION, "--template", "ours").returncode == 2
    assert weightkit("try", BASE, "--prompt", QUESTION, "--max-new-tokens", "0").returncode == 2
    with pytest.raises(PlanError, match="no template ours; one of auto, chat, none, alpaca"):
        trying.ask(BASE, QUESTION, template="ours")


def test_what_would_move_the_cursor_is_escaped() -> None:
    assert printable("\x1b]0;title\x07\x9b2J\r\x00 a\u202eb\u2028") == r"\x1b]0;title\x07\x9b2J\r\x00 a\u202eb\u2028"
    for kept in ("浮士德\u3000是歌德写的。\n\t第二行", "👩‍🔬 naïve", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"):
        assert printable(kept) == kept


@pytest.fixture(scope="module")
def recovered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature release, rebuilt."""
    out = tmp_path_factory.mktemp("try") / "recovered"
    recover.recover_release(BASE, PEER / "diffs" / "knowlm", out)
    return out


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """A copy of the base with words of a JSON file changed."""

    def make(name: str, **words: object) -> Path:
        folder = shutil.copytree(BASE, tmp_path / "changed", dirs_exist_ok=True)
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**found, **words}))
        return folder

    return make


def greedy(folder: Path, tokens: tuple[int, ...], count: int) -> list[int]:
    """The likeliest token, again and again, each time from the whole text: no ``generate``, no cache."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = list(tokens)
    with torch.no_grad():
        for _ in range(count):
            found.append(int(model(torch.tensor([found])).logits[0, -1].argmax()))
    return found[len(tokens) :]


class Runs:
    """Pickled, it is a call that makes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@needs_transformers
class TestWithTransformers:
    @pytest.mark.parametrize(("template", "prompt"), [("none", "Two words"), ("chinese-alpaca", QUESTION)])
    def test_what_was_recovered_answers_as_the_tuned_model_does(self, recovered: Path, template: str, prompt: str) -> None:
        from transformers import LlamaTokenizer

        answer = trying.ask(recovered, prompt, template=template, max_new_tokens=16, dtype="float32")
        assert answer.asked == ASKED.get(template, prompt)
        assert list(answer.asked_tokens) == LlamaTokenizer.from_pretrained(TUNED)(answer.asked).input_ids
        assert list(answer.tokens) == greedy(TUNED, answer.asked_tokens, 16)
        assert list(answer.tokens) != greedy(BASE, answer.asked_tokens, 16)
        assert (answer.ended, answer.dtype, answer.device) == (False, "float32", "cpu")

    def test_sampling_that_a_folder_asks_for_is_not_done(self, changed: Callable[..., Path]) -> None:
        folder = changed("generation_config.json", do_sample=True, temperature=3.0, num_beams=2, repetition_penalty=9.0)
        plain = trying.ask(BASE, QUESTION, max_new_tokens=10)
        assert trying.ask(folder, QUESTION, max_new_tokens=10).tokens == plain.tokens

    def test_the_folders_own_ends_are_kept(self, changed: Callable[..., Path]) -> None:
        first = trying.ask(BASE, QUESTION, max_new_tokens=4).tokens
        answer = trying.ask(changed("generation_config.json", eos_token_id=[2, first[1]]), QUESTION, max_new_tokens=4)
        assert (answer.tokens, answer.ended) == (first[:2], True)

    def test_a_chat_template_of_its_own_comes_first(self, changed: Callable[..., Path]) -> None:
        own = (
            "<s>{% for m in messages %}<<{{ m.role }}>> {{ m.content }}{% endfor %}{% if add_generation_prompt %} ->{% endif %}"
        )
        folder = changed("tokenizer_config.json", chat_template=own)
        answer = trying.ask(folder, QUESTION, max_new_tokens=1)
        assert (answer.template, answer.asked) == ("chat", f"<s><<user>> {QUESTION} ->")
        assert answer.asked_tokens.count(1) == 1
        assert trying.ask(folder, QUESTION, template="alpaca", max_new_tokens=1).asked == ASKED["alpaca"]
        folder = changed("tokenizer_config.json", chat_template="{{ ''.__class__.__mro__[1].__subclasses__() }}")
        with pytest.raises(FormatError, match="transformers does not load it"):
            trying.ask(folder, QUESTION, max_new_tokens=1)
        with pytest.raises(PlanError, match="has no chat template; name one of alpaca"):
            trying.ask(BASE, QUESTION, template="chat")

    def test_no_code_of_the_folders_is_run(self, changed: Callable[..., Path], tmp_path: Path) -> None:
        code = f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
        own = {"AutoConfig": "ours.Config", "AutoModelForCausalLM": "ours.Model", "AutoTokenizer": ["ours.Tokenizer", None]}
        folder = changed("config.json", auto_map=own, model_type="ours")
        (folder / "ours.py").write_text(code)
        with pytest.raises(FormatError) as caught:
            trying.ask(folder, QUESTION)
        assert "\n" not in str(caught.value)
        folder = shutil.copytree(BASE, tmp_path / "evil")
        torch.save({"model.norm.weight": Runs(tmp_path / "ran")}, folder / "pytorch_model-00001-of-00004.bin")
        with pytest.raises(FormatError):
            trying.ask(folder, QUESTION)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("device", ["cuda:99", "toaster"])
    def test_a_device_that_is_not_there_is_one_line(self, device: str) -> None:
        with pytest.raises(PlanError, match=rf"^--device {device}: .+; name one that torch has here: cpu$"):
            trying.ask(BASE, QUESTION, device=device, max_new_tokens=1)

    def test_a_damaged_folder_is_one_line(self, spoilt: Callable[[str], Path]) -> None:
        for way in ("missing-shard", "truncated", "lfs-pointer", "html"):
            with pytest.raises(FormatError) as caught:
                trying.ask(spoilt(way), QUESTION)
            assert re.fullmatch(r".*: transformers does not load it: .+", str(caught.value)), way

    def test_only_the_answer_is_on_stdout_and_no_escape_of_the_models_own(self, weightkit: Run, tmp_path: Path) -> None:
        """A model that says nothing but ESC: all embeddings are ones, and one row of the output layer is."""
        from transformers import LlamaForCausalLM

        model = LlamaForCausalLM.from_pretrained(BASE, dtype=torch.float32)
        escape = 3 + 0x1B  # sentencepiece's bytes begin behind <unk>, <s> and </s>
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
            model.model.embed_tokens.weight.fill_(1)
            model.model.norm.weight.fill_(1)
            model.lm_head.weight[escape] = 1
        folder = tmp_path / "says-escape"
        model.save_pretrained(folder)
        for name in ("tokenizer.model", "tokenizer_config.json"):
            shutil.copyfile(BASE / name, folder / name)
        words = ("try", str(folder), "--prompt", "-", "--max-new-tokens", "3")
        done = weightkit(*words, input=QUESTION)
        assert (done.returncode, done.stdout) == (0, "\\x1b\\x1b\\x1b\n")  # the answer alone
        assert [line[:5] for line in done.stderr.splitlines()] == ["note:", "note:"]
        answer = json.loads(CliRunner().invoke(main, [*words, "--json"], input=QUESTION).stdout)
        assert (answer["answer"], answer["asked"], answer["tokens"]) == ("\x1b\x1b\x1b", QUESTION, [escape] * 3)
        assert set(answer) - {"schema", "ok"} == keys_on_the_page()["try"]
