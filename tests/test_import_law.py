import ast
import subprocess
import sys
from pathlib import Path

import pytest

import glacier

ROOT = Path(glacier.__file__).parent

LAW = {
    "scenes": set(),
    "store": set(),
    "model": set(),
    "synth": {"scenes"},
    "ingest": {"scenes", "store"},
    "pipeline": {"store"},
    "train": {"store", "pipeline", "model"},
    "maps": {"scenes", "pipeline", "model", "train"},
}
COMMON = {
    "addresses",
    "classes",
    "config",
    "console",
    "errors",
    "ground",
    "lock",
    "machine",
    "pictures",
    "version",
}
LIGHT = [
    "glacier.scenes.layouts", "glacier.scenes.read", "glacier.ingest.write", "glacier.store.reader",
    "glacier.pipeline.plan", "glacier.pipeline.order", "glacier.pipeline.augment",
]  # fmt: skip


def imports(file: Path) -> set[str]:
    """Names of glacier's parts that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = [node.module or ""]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("glacier.")}
    return found


@pytest.mark.parametrize("part", sorted(LAW))
def test_each_part_imports_only_what_lies_upstream(part):
    for file in (ROOT / part).rglob("*.py"):
        strange = imports(file) - LAW[part] - COMMON - {part}
        assert not strange, f"{file.relative_to(ROOT)} imports {strange}"


def test_every_folder_is_under_the_law():
    folders = {f.parent.name for f in ROOT.glob("*/__init__.py")}
    assert folders == set(LAW)


def test_nothing_imports_the_command_line():
    for file in ROOT.rglob("*.py"):
        assert "cli" not in imports(file) or file.name == "__main__.py"


@pytest.mark.parametrize("folder", sorted(LAW))
def test_each_folder_says_what_it_takes_and_yields(folder):
    text = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text()))
    assert "akes" in text
    assert "yields" in text
    assert len(text.splitlines()) == 1


def loaded_by(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_light_modules_import_neither_torch_nor_dali():
    loaded = loaded_by("".join(f"import {name}\n" for name in LIGHT))
    assert not {"torch", "nvidia.dali"} & loaded


def test_help_imports_nothing_heavy():
    loaded = loaded_by("from glacier.cli import main\nmain(['--help'], standalone_mode=False)")
    assert not {"torch", "nvidia", "numpy", "zarr", "rasterio", "rich"} & loaded
