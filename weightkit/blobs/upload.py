"""Puts a folder's files on the Hub so that they appear together: all bytes first, which can be taken up, then one commit.

huggingface_hub's ``upload_folder`` makes a commit every few minutes, so that half a release can be seen; here there is one,
on the parent that was seen before, or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from weightkit.blobs.addresses import hub_address
from weightkit.blobs.hub import client, told

__all__ = ["upload"]


def upload(folder: Path, names: Sequence[str], repo: str, *, private: bool = False) -> str:
    """Upload files and commit them at once.

    Args:
        folder: Where they lie.
        names: Their names there, and in the repository.
        repo: ``owner/name``; made if it is not there.
        private: Whether one that is made is private.

    Returns:
        The commit.

    Raises:
        PlanError: The Hub refuses, or the name is none.
        FormatError: It is not reached; the same command goes on.
    """
    hub = client()
    address = hub_address(repo, repo, "--repo")
    with told(f"--repo {repo}"):
        api = hub.HfApi()
        api.create_repo(address.repository, private=private, exist_ok=True)
        parent = api.repo_info(address.repository).sha
        files = [hub.CommitOperationAdd(name, folder / name) for name in names]
        api.preupload_lfs_files(address.repository, files)
        made = api.create_commit(
            address.repository, files, commit_message="Release, by weightkit", parent_commit=parent, num_threads=2
        )
    return str(made.oid)
