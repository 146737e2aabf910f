"""Sentencepiece models: read, and extended as Chinese-LLaMA-Alpaca extended LLaMA's, against sentencepiece itself."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.conftest import PEER, Run, sha256
from weightkit.checkpoints import vocabulary
from weightkit.core.errors import FormatError, PlanError

LLAMA = PEER / "hf-bin" / "tokenizer.model"
FIRST, SECOND = (PEER / f"lora-zh{number}-bin" / "tokenizer.model" for number in (1, 2))


def test_pieces_are_those_that_sentencepiece_reads() -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    for path in (LLAMA, FIRST, SECOND):
        theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
        wanted = [theirs.id_to_piece(number) for number in range(theirs.get_piece_size())]
        assert vocabulary.pieces(path.read_bytes(), path) == wanted


def test_a_merged_model_is_read_by_sentencepiece(weightkit: Run, tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    done = weightkit("tokenizer", "merge", LLAMA, SECOND, "-o", "t.model", "--add-piece", "<extra>", "--json")
    assert done.returncode == 0
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "t.model"))
    base, extra = (vocabulary.pieces(path.read_bytes(), path) for path in (LLAMA, SECOND))
    wanted = [*base, *(piece for piece in extra if piece not in base), "<extra>"]
    assert [theirs.id_to_piece(number) for number in range(theirs.get_piece_size())] == wanted
    assert theirs.get_score(len(wanted) - 1) == 0.0
    assert f'"pieces": {len(wanted)}' in done.stdout
    assert sha256(tmp_path / "t.model") in done.stdout


def test_the_bytes_are_those_of_protobufs_own_serializer() -> None:
    """What the scripts of the time did, by the protobuf runtime that comes with transformers' extras."""
    pb2 = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    base, extra = pb2.ModelProto(), pb2.ModelProto()
    base.ParseFromString(LLAMA.read_bytes())
    extra.ParseFromString(SECOND.read_bytes())
    known = {piece.piece for piece in base.pieces}
    for piece in extra.pieces:
        if piece.piece not in known:
            new = pb2.ModelProto().SentencePiece()
            new.piece, new.score = piece.piece, 0
            base.pieces.append(new)
    found, _ = vocabulary.merge_models(LLAMA.read_bytes(), LLAMA, SECOND.read_bytes(), SECOND)
    assert found == base.SerializeToString()


def test_nothing_to_add_gives_the_base() -> None:
    content = SECOND.read_bytes()
    assert vocabulary.merge_models(content, SECOND, LLAMA.read_bytes(), LLAMA)[0] == content


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    good = LLAMA.read_bytes()
    for bad in (b"", b"\x00\x01", b"not a model at all", good[:-3], b"\xff" * 40, b"version https://git-lfs.github.com\n"):
        with pytest.raises(FormatError):
            vocabulary.merge_models(bad, Path("bad"), good, LLAMA)
    with pytest.raises(PlanError, match="is there already"):
        vocabulary.merge_models(good, LLAMA, good, LLAMA, ["<s>"])
    with pytest.raises(PlanError, match="is empty"):
        vocabulary.merge_models(good, LLAMA, good, LLAMA, [""])


def test_inputs_and_other_files_are_not_written_over(weightkit: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    assert weightkit("tokenizer", "merge", LLAMA, SECOND, "-o", "mine").returncode == 1
    assert (tmp_path / "mine").read_text() == "mine"
    copy = tmp_path / "copy.model"
    copy.write_bytes(LLAMA.read_bytes())
    done = weightkit("tokenizer", "merge", copy, SECOND, "-o", copy, "--overwrite")
    assert done.returncode == 1
    assert copy.read_bytes() == LLAMA.read_bytes()
    assert weightkit("tokenizer", "merge", LLAMA, SECOND, "-o", "mine", "--overwrite").returncode == 0
    assert weightkit("tokenizer", "merge", "nowhere", SECOND, "-o", "x").returncode == 1
    wanted = vocabulary.merge_models(LLAMA.read_bytes(), LLAMA, SECOND.read_bytes(), SECOND)[0]
    assert sha256(tmp_path / "mine") == hashlib.sha256(wanted).hexdigest()
