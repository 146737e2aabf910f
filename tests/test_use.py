"""What holders of a result do next: the commands of ``docs/how-to/use.md`` on miniatures, and the notebooks."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PEER, sha256
from tests.pages import BLOCK, Session
from tests.test_recover import KNOWLM
from weightkit.families.prompts import TEMPLATES
from weightkit.verify import verify_files

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "how-to" / "use.md"
NOTEBOOKS = [ROOT / "examples" / name for name in ("weightkit.ipynb", "weightkit_zh.ipynb")]
QUESTION = "Who wrote Faust?"


def need(*names: str) -> pytest.MarkDecorator:
    lacking = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(lacking), reason=f"not installed: {', '.join(lacking)}")


def block(word: str) -> str:
    """The one block of the page that has a word, and that it says is run here."""
    (found,) = (
        one["text"]
        for one in BLOCK.finditer(PAGE.read_text())
        if word in one["text"] and (one["why"] or "").startswith("tests/test_use.py")
    )
    return found


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A shell where the page's folders are, and the template that the page writes."""
    found = Session(PAGE.read_text(), tmp_path_factory.mktemp("use"))
    found.env |= {"HF_HUB_OFFLINE": "1", "PATH": os.pathsep.join([str(Path(sys.executable).parent), found.env["PATH"]])}
    assert found.sh(block("chat_template.jinja")) == ""
    return found


def test_the_template_that_the_page_writes_is_the_authors(session: Session) -> None:
    """Read as transformers reads it: jinja takes off one line break at the end."""
    jinja2 = pytest.importorskip("jinja2")
    text = (session.here / "zhixi-13b" / "chat_template.jinja").read_text()
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(text)
    said = template.render(messages=[{"role": "user", "content": QUESTION}], bos_token="<s>")
    assert said == "<s> " + TEMPLATES["knowlm"].around(QUESTION)


def test_every_block_that_the_page_says_is_run_is_run() -> None:
    run = [one["text"] for one in BLOCK.finditer(PAGE.read_text()) if (one["why"] or "").startswith("tests/test_use.py")]
    words = ("weightkit try", "chat_template.jinja", "transformers serve", "curl", "load_in_8bit", "modelscope")
    assert sorted(run) == sorted(block(word) for word in words)


def test_a_folder_from_modelscope_is_taken_as_it_is(session: Session) -> None:
    """Its cache puts pickles and a file of its own beside the files. Source: modelscope 1.40.2, hub/utils/caching.py."""
    folder = session.here / "modelscope" / "zjunlp" / "zhixi-13b-diff"
    shutil.copytree(PEER / "diffs" / "knowlm", folder)
    listed = [{"Path": one.name, "Revision": "0" * 40} for one in sorted(folder.iterdir())]
    (folder / ".msc").write_bytes(pickle.dumps(listed))
    (folder / ".mdl").write_bytes(pickle.dumps({"id": "zjunlp/zhixi-13b-diff"}))
    (folder / ".mv").write_text("Revision:master,CreatedAt:1684000000")
    (folder / "configuration.json").write_text('{"framework":"Pytorch","task":"text-generation"}\n')
    words = block("modelscope").split()
    assert words[:2] == ["weightkit", "recover"]
    words[words.index("--out") + 1] = "rebuilt"
    printed = session.sh(" ".join(words))
    assert sha256(session.here / "rebuilt" / "pytorch_model.bin") == KNOWLM, printed
    assert verify_files(folder, sums(folder)).ok


def sums(folder: Path) -> Path:
    """A list of a folder's visible files, by coreutils."""
    listed = subprocess.run("sha256sum *", shell=True, cwd=folder, capture_output=True, check=True).stdout
    (folder.parent / "list").write_bytes(listed)
    return folder.parent / "list"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def serving(session: Session, command: str, port: int) -> Iterator[None]:
    """A server while it is needed."""
    with (session.here / "serve.log").open("w+") as log:
        server = subprocess.Popen(
            ["sh", "-c", command], cwd=session.here, env=session.env, stdout=log, stderr=log, start_new_session=True
        )
        try:
            for _ in range(480):
                assert server.poll() is None, log.name
                try:
                    urllib.request.urlopen(f"http://localhost:{port}/health", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.25)
            yield
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()


@need("transformers", "sentencepiece", "fastapi", "uvicorn", "openai")
def test_the_server_answers_as_weightkit_does(session: Session) -> None:
    port = free_port()
    command = block("transformers serve").replace("8000", str(port)).strip() + " --device cpu"
    with serving(session, command, port):
        answer = json.loads(session.sh(block("curl").replace("8000", str(port))))
    said = session.sh(block("weightkit try").strip() + " --json 2>/dev/null")
    assert answer["choices"][0]["message"]["content"] == json.loads(said)["answer"]
    assert json.loads(said)["asked"] == TEMPLATES["knowlm"].around(QUESTION)
    assert answer["usage"]["prompt_tokens"] == len(json.loads(said)["asked_tokens"])


@need("transformers", "sentencepiece", "bitsandbytes", "accelerate")
def test_eight_bits(session: Session) -> None:
    answer = session.sh(f"{block('load_in_8bit').strip()} 2>/dev/null").partition("<s> Who wrote Faust")[2]
    assert answer.strip()


def plain(text: str) -> str:
    """Without the colours of a terminal, which IPython gives the commands that it runs."""
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def cells(path: Path, kind: str = "code") -> list[str]:
    return ["".join(one["source"]) for one in json.loads(path.read_text())["cells"] if one["cell_type"] == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_clean_and_both_have_one_code(path: Path) -> None:
    found = json.loads(path.read_text())
    assert (found["nbformat"], found["metadata"]["kernelspec"]["name"]) == (4, "python3")
    for cell in found["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
    without_remarks = [[re.sub(r"\s*#.*", "", cell) for cell in cells(one)] for one in NOTEBOOKS]
    assert without_remarks[0] == without_remarks[1]
    assert len(cells(path, "markdown")) >= len(cells(path)) - 1


@pytest.mark.slow
@need("transformers", "sentencepiece", "nbclient", "ipykernel")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbclient
    import nbformat

    script = tmp_path / ".bin" / "weightkit"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m weightkit "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(script.parent), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    notebook: Any = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(plain(out.get("text", "")) for cell in notebook.cells for out in cell.get("outputs", []))
    assert "ok: all 2 published digests hold" in printed
    assert "2 ok, 0 FAILED" in printed
    assert "Traceback" not in printed
    assert "the model says: " in printed
