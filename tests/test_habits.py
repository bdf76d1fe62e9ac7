"""What people are told to run is what runs: README, Makefile, continuous integration, hooks, guides."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
CI = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())


def targets(text):
    """Each `make X Y` in a text."""
    found = re.findall(r"\bmake ([a-z-]+(?: [a-z-]+)*)", text)
    return {word for words in found for word in words.split()}


def runs(job):
    """Shell commands of a job."""
    return [step["run"] for step in job["steps"] if "run" in step]


def made(target, variables=""):
    """Commands that `make TARGET` would run in a clone; what an outer make was told is not handed on."""
    command = ["make", "--dry-run", "--always-make", *variables.split(), target]
    env = {"PATH": os.environ["PATH"]}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout


def test_continuous_integration_runs_the_commands_of_the_readme():
    first = re.search(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    commands = {line.split("#")[0].strip() for line in first.strip().splitlines()}
    assert commands == {"make demo", "make test"}
    public = {re.sub(r" CONSTRAINTS=.*", "", run) for job in CI["jobs"].values() for run in runs(job)}
    assert commands <= public
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()


def test_each_job_is_one_target():
    for name, job in CI["jobs"].items():
        (run,) = runs(job)
        assert re.fullmatch(r"make [a-z-]+( CONSTRAINTS=\$\{\{ matrix\.constraints \}\})?", run), name


def test_the_matrix_is_what_the_package_says_it_serves():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    said = [c.rsplit(" ", 1)[1] for c in project["classifiers"] if re.search(r"Python :: 3\.\d", c)]
    rows = CI["jobs"]["test"]["strategy"]["matrix"]["include"]
    assert [row["python"] for row in rows] == said
    assert project["requires-python"] == f">={said[0]}"
    assert [row["constraints"] for row in rows] == ["constraints.txt"] + ["/dev/null"] * (len(said) - 1)


@pytest.mark.parametrize("file", [
    "README.md", "CONTRIBUTING.md", ".ci/run", ".pre-commit-config.yaml",
    ".github/workflows/ci.yml", ".github/PULL_REQUEST_TEMPLATE.md",
])  # fmt: skip
def test_what_is_to_be_made_can_be(file):
    asked = targets((ROOT / file).read_text())
    assert asked
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    assert asked <= set(phony)


def test_constraints_hold_unless_others_are_asked_for():
    assert "--constraint constraints.txt" in made("install")
    assert "--constraint /dev/null" in made("install", "CONSTRAINTS=/dev/null")


def test_another_python_gets_an_environment_of_its_own():
    """`make` takes one that is there for installed, whatever its Python."""
    asked = re.findall(r"make test ([^`]*CONSTRAINTS=/dev/null)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert asked
    for variables in asked:
        first, *others = made("install", variables).splitlines()
        assert re.fullmatch(r"python3\.1[2-9] -m venv \.venv31[2-9]", first)
        assert not [line for line in others if ".venv/" in line]


def test_the_hook_is_what_continuous_integration_checks():
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-config"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (hook,) = repo["hooks"]
    assert hook["entry"] == "make lint"
    assert made("lint").splitlines()[-3:] == [
        ".venv/bin/ruff check .", ".venv/bin/ruff format --check .", ".venv/bin/mypy"
    ]  # fmt: skip
    assert set(made("lint").splitlines()) < set(made("test").splitlines())


def test_paths_that_guides_name_exist():
    for page in ("CONTRIBUTING.md", "docs/kaggle.md"):
        for name in re.findall(
            r"`((?:glacier|tests|docs|notebooks|benchmarks)/[\w./-]*)`", (ROOT / page).read_text()
        ):
            assert (ROOT / name).exists(), f"{page}: {name}"
