"""How releases were asked: the text that their authors put round an instruction, word for word. No I/O.

A model that was tuned on one form of a question answers another form worse. None of these texts ends in a further
character than the authors' program ends in: whether a newline or a space stands there changes the first token.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TEMPLATES", "Template"]


@dataclass(frozen=True, slots=True)
class Template:
    """A form of question.

    Attributes:
        name: The word of ``--template``.
        before: What stands before the instruction.
        after: What stands behind it; the answer follows.
        releases: What was tuned so.
        source: Whose program asks so.
    """

    name: str
    before: str
    after: str
    releases: str
    source: str

    def around(self, prompt: str) -> str:
        """The text that the model is given."""
        return f"{self.before}{prompt}{self.after}"


BELOW = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\n"
)
CURIOUS = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. USER: "
)

TEMPLATES = {
    one.name: one
    for one in (
        Template(
            "alpaca",
            BELOW,
            "\n\n### Response:",
            "Stanford Alpaca",
            "tatsu-lab/stanford_alpaca train.py @761dc5b, prompt_no_input",
        ),
        Template(
            "knowlm",
            BELOW,
            "\n\n### Response:\n",
            "KnowLM, ZhiXi",
            "zjunlp/KnowLM finetune/lora/knowlm/templates/alpaca.json @0f00ad8, prompt_no_input",
        ),
        Template(
            "chinese-alpaca",
            f"{BELOW}\n",
            "\n\n### Response:\n\n",
            "Chinese-Alpaca, Plus, Pro",
            "ymcui/Chinese-LLaMA-Alpaca scripts/inference/inference_hf.py @090475f, prompt_input; it was tuned with another "
            "(training/build_dataset.py), and this one, the authors write there, gives better results",
        ),
        Template(
            "vicuna",
            CURIOUS,
            " ASSISTANT:",
            "Vicuna v1.1",
            "lm-sys/FastChat fastchat/conversation.py, vicuna_v1.1 (fschat 0.2.36)",
        ),
        Template(
            "belle",
            "Human: \n",
            "\n\nAssistant: \n",
            "BELLE",
            "LianjiaTech/BELLE train/src/entry_point/interface.py @645084d, generate_prompt",
        ),
    )
}
"""Name -> template."""
