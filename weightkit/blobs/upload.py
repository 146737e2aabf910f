"""Puts a folder's files on the Hub so that they appear together: all bytes first, which can be taken up, then one commit.

huggingface_hub's ``upload_folder`` makes a commit every few minutes, so that half a release can be seen; here there is one,
on the parent that was seen before, or none. What is in the repository already is replaced or removed where that was said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightkit.blobs.addresses import HubAddress, hub_address
from weightkit.core.digest import Digest, hash_file
from weightkit.core.errors import FormatError, PlanError

__all__ = ["Uploaded", "check_repository", "upload"]

THE_HUBS = (".gitattributes", ".gitignore")
"""Files that the Hub makes itself."""

PAYLOADS = (
    *(".bin", ".safetensors", ".enc", ".wkx", ".pth", ".pt", ".index.json"),
    *("SUMS", ".sha256", "TENSORS", "release.toml", "model.sig"),
)
"""Ends of files that would be taken for a part of the release."""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A release on the Hub.

    Attributes:
        commit: The commit that holds it.
        notes: What else there is in the repository, one line each.
    """

    commit: str
    notes: tuple[str, ...] = ()


def check_repository(repo: str) -> str:
    """The name of a repository, or nothing.

    Raises:
        PlanError: It is none.
    """
    if repo and hub_address(repo, repo, "--repo") != HubAddress(repo):
        raise PlanError(f"--repo {repo[:80]!a} is more than the name of a repository", hint="write OWNER/NAME")
    return repo


def upload(
    folder: Path, files: Mapping[str, Digest | None], repo: str, *, private: bool = False, replacing: bool = False
) -> Uploaded:
    """Upload files and commit them at once; nothing is committed where all of them are there already.

    Args:
        folder: Where they lie.
        files: Their names there, and in the repository; and the SHA-256 that they must have, where it is known.
        repo: ``owner/name``; made if it is not there.
        private: Whether it is private; one that is there already, and is not, is refused.
        replacing: Whether other files of these names may be replaced, and another release's payload removed.

    Raises:
        PlanError: The Hub refuses, the name is none, or other files are in the way.
        FormatError: The Hub is not reached, or a file has changed; the same command goes on.
    """
    from weightkit.blobs.client import client, told
    from weightkit.blobs.hub import blob_of

    hub = client()
    check_repository(repo)
    name = f"--repo {repo}"
    with quiet(hub), told(name, "uploaded to"):
        api = hub.HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        info = api.repo_info(repo)
        if private and not info.private:
            raise PlanError(
                f"{name}: is there already, and everybody can read it; nothing was uploaded",
                hint="name another --repo, make it private on the Hub, or leave --private out",
            )
        parent = info.sha
        tree = [one for one in api.list_repo_tree(repo, recursive=True, revision=parent) if hasattr(one, "blob_id")]
        there = {one.path: blob_of(repo, str(parent), one).digest for one in tree}
    changed, removed, notes = beside(folder, files, there, name, replacing=replacing)
    if not changed and not removed:
        return Uploaded(str(parent), (*notes, f"hf://{repo} has all of these files already: nothing was uploaded"))
    with quiet(hub), told(name, "uploaded to"), in_one(hub, repo):
        adding = [hub.CommitOperationAdd(one, folder / one) for one in changed]
        for one in adding:
            wanted = files[one.path_in_repo]
            if wanted is not None and one.upload_info.sha256.hex() != wanted.hex:
                raise FormatError(folder / one.path_in_repo, "has changed since it was made; the same command makes it again")
        api.preupload_lfs_files(repo, adding, num_threads=2)
        if ignored := [one.path_in_repo for one in adding if one._should_ignore]:
            raise PlanError(f"{name}: its .gitignore leaves out {ignored[0]}, so the release would not be whole")
        operations = [*adding, *(hub.CommitOperationDelete(one) for one in removed)]
        made = api.create_commit(repo, operations, commit_message="Release, by weightkit", parent_commit=parent, num_threads=2)
    return Uploaded(str(made.oid), tuple(notes))


def beside(
    folder: Path, files: Mapping[str, Digest | None], there: Mapping[str, Digest], name: str, *, replacing: bool
) -> tuple[list[str], list[str], list[str]]:
    """Files to be uploaded, files to be removed, and notes on what else is in the repository.

    Raises:
        PlanError: Other files have the names, or would be taken for a part of the release, and may not be replaced.
    """
    same = {one for one in files if one in there and is_it(folder / one, there[one])}
    changed = [one for one in files if one not in same]
    replaced = [one for one in changed if one in there]
    others = [one for one in there if one not in files and one not in THE_HUBS]
    foreign = [one for one in others if one.endswith(PAYLOADS)]
    if (replaced or foreign) and not replacing:
        what = "holds another file of the name" if replaced else "holds a file that is no part of this release:"
        raise PlanError(
            f"{name}: {what} {(replaced or foreign)[0]}{more(replaced or foreign)}; nothing was uploaded",
            hint="name another --repo, or say --overwrite, which replaces it there",
        )
    notes = [f"{name}: replaced {first(replaced)}"] if replaced else []
    notes += [f"{name}: removed {first(foreign)}, no part of this release"] if foreign else []
    kept = [one for one in others if one not in foreign]
    notes += [f"{name}: also holds {first(kept)}, left as it is"] if kept else []
    return changed, foreign, notes


def more(names: list[str]) -> str:
    """How many there are besides the first."""
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def first(names: list[str]) -> str:
    """Some of the names."""
    return f"{', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"


def is_it(path: Path, digest: Digest) -> bool:
    """Whether a file has the digest that the Hub states."""
    return hash_file(path, {digest.algorithm})[digest.algorithm] == digest


@contextmanager
def in_one(hub: Any, repo: str) -> Iterator[None]:
    """What the Hub says of a commit on another parent, or of a card, in words.

    Raises:
        PlanError: The repository was changed meanwhile, or the card's metadata are none.
    """
    try:
        yield
    except ValueError as error:
        if "metadata" not in str(error):
            raise
        raise PlanError(
            f"--repo {repo}: the Hub does not take the card: {' '.join(str(error).split())[:200]}; nothing was committed",
            hint="say --license and --base-model as the Hub writes them: apache-2.0, owner/name",
        ) from error
    except hub.errors.HfHubHTTPError as error:
        if getattr(getattr(error, "response", None), "status_code", None) not in (409, 412):
            raise
        raise PlanError(
            f"--repo {repo}: somebody else changed it meanwhile; nothing of the release is in it",
            hint="look at it, then the same command: what was uploaded is not sent again",
        ) from error


@contextmanager
def quiet(hub: Any) -> Iterator[None]:
    """The client's own bars are not shown."""
    shown = not hub.utils.are_progress_bars_disabled()
    hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            hub.utils.enable_progress_bars()
