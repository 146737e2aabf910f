"""The workflows: what they may do, and that what they call is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def loaded(name: str) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_they_may_read_and_no_more(path: Path) -> None:
    workflow = loaded(path.stem)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert job.get("permissions") in ([None, {"id-token": "write"}] if name == "publish" else [None])
        assert job["timeout-minutes"] <= (180 if name == "rigs" else 60)
        for step in job["steps"]:
            assert "uses" in step or "run" in step
            assert re.fullmatch(r"[\w./-]+@(v\d+|release/v\d+)", step.get("uses", "a/b@v1"))
            assert "${{" not in step.get("run", ""), "values come as environment variables, so that none is read as shell"


def test_every_python_and_torch_that_is_promised_is_tested() -> None:
    job = loaded("tests")["jobs"]["tests"]
    matrix = job["strategy"]["matrix"]
    setup = (ROOT / "setup.cfg").read_text()
    assert re.findall(r"Python :: (3\.\d+)", setup) == matrix["python"]
    assert {one["os"] for one in matrix["include"]} == {"ubuntu-latest", "macos-latest"}
    oldest = re.search(r"torch>=(\d+\.\d+)", setup)
    assert oldest is not None
    assert any(one["torch"].startswith(oldest[1]) for one in matrix["include"])
    extras = re.search(r"\.\[(\w+)\]", "".join(step.get("run", "") for step in job["steps"]))
    assert extras is not None
    assert f"\n{extras[1]} =\n" in setup
    for step in loaded("tests")["jobs"]["readme"]["steps"]:
        if step.get("run", "").startswith("sh "):
            assert (ROOT / step["run"].split()[1]).is_file()


def test_a_release_is_built_checked_and_published_without_a_secret() -> None:
    workflow = loaded("release")
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads "on" as true
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    commands = "\n".join(step.get("run", "") for step in build["steps"])
    assert "python -m build" in commands
    assert "twine check --strict" in commands
    assert (publish["needs"], publish["environment"]) == ("build", "release")
    assert "secrets." not in (ROOT / ".github" / "workflows" / "release.yml").read_text()
    tag = re.search(r'grep -qxF "(.*)" weightkit/__init__\.py', commands)
    assert tag is not None
    from weightkit import __version__

    line = tag[1].replace('\\"', '"').replace("${TAG#v}", __version__)
    assert line in (ROOT / "weightkit" / "__init__.py").read_text().splitlines()
