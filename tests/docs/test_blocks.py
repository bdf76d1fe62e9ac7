"""Every block of code that README or a page shows is run, on the synthetic twin of what it is meant for."""

import json
import subprocess
import sys

import pytest

from glacier.store.reader import Store
from tests.docs.given import MAKERS, NAMES, Given
from tests.docs.pages import PAGES, ROOT, Part, parts_of
from tests.docs.programs import install

EXEMPT = {
    ("README.md", "make demo"): "continuous integration runs `make test`, and a slow test the demo",
    ("CONTRIBUTING.md", "git clone"): "continuous integration clones and installs so, with `make test`",
}
"""(page, how a block begins) -> why it is not run."""
LEAVES = {
    ("docs/ingest.md",): {"tiles.zarr": 9, "plain.zarr": 9, "scenes.zarr": 12 + 9, "dense.zarr": 27},
    ("docs/hkh.md", "hkh_patches.tar.gz"): {"hkh.zarr": 24},
    ("docs/hkh.md", "hkh/"): {"hkh.zarr": 24},
    ("docs/hkh.md",): {"hkh.zarr": 24},
}
"""(page, what is given) -> tiles of the stores that there are at the end."""

ENDED = "--- end"
"""What run.py says last."""
PARTS = [part for page in PAGES for part in parts_of(page)]


def exempt(part: Part, text: str) -> list[tuple[str, str]]:
    page = str(part.page.relative_to(ROOT))
    return [key for key in EXEMPT if key[0] == page and text.startswith(key[1])]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    with Given(folder, install(folder / "bin")) as made:
        yield made


@pytest.mark.parametrize(
    "part", [pytest.param(p, id=str(p), marks=[pytest.mark.slow] if p.slow else []) for p in PARTS]
)
def test_the_blocks_run(part, given, tmp_path):
    for shared in ("cli.py", "benchmarks"):  # pages are read in a clone
        (tmp_path / shared).symlink_to(ROOT / shared)
    code = [("python", f"{part}, given", given.put(name, tmp_path)) for name in part.given]
    for block in part.blocks:
        if not exempt(part, block.text):
            where = f"{part.page.relative_to(ROOT)}:{block.line}"
            code.append((block.language, where, given.localised(block.text)))
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-m", "tests.docs.run"],
        input=json.dumps(code), cwd=tmp_path, env=given.environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:]
    assert ENDED in done.stdout.splitlines(), f"a block ended it all: {done.stdout[-8000:]}"
    for store, tiles in LEAVES.get((str(part.page.relative_to(ROOT)), *part.given), {}).items():
        with Store(tmp_path / store) as opened:
            assert len(opened) == tiles, store


def test_what_is_exempt_is_there():
    met = {key for part in PARTS for block in part.blocks for key in exempt(part, block.text)}
    assert met == set(EXEMPT)


def test_what_is_given_is_used():
    assert {name for part in PARTS for name in part.given} == set(MAKERS) | set(NAMES)


def test_a_block_that_fails_is_told(tmp_path):
    for code in (["sh", "p:3", "true\nfalse | cat\ntrue"], ["python", "p:3", "assert 1 + 1 == 3"]):
        done = subprocess.run(
            [sys.executable, "-m", "tests.docs.run"], input=json.dumps([code]), cwd=ROOT,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode
        assert "p:3" in done.stderr


@pytest.mark.parametrize(("text", "ended"), [("pass", True), ("import sys; sys.exit()", False)])
def test_a_block_that_leaves_is_told(text, ended):
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.run"], input=json.dumps([["python", "p:3", text]]), cwd=ROOT,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (ENDED in done.stdout.splitlines()) is ended


@pytest.mark.parametrize(
    "text",
    [
        "    glacier train",
        "```\nglacier train\n```",
        "```bash\nglacier train\n```",
        "<details>\n```sh\nglacier train\n```\n</details>",
        "<!--given: hkh.zarr -->",
        "<!-- Given: hkh.zarr -->",
        "<!-- slowly given: hkh.zarr -->",
        "<!-- given hkh.zarr -->",
        "Words <!-- given: hkh.zarr -->",
    ],
)
def test_no_block_escapes(tmp_path, text):
    (tmp_path / "p.md").write_text(f"# A page\n\n{text}\n")
    with pytest.raises(ValueError, match=r"p\.md:3"):
        parts_of(tmp_path / "p.md")
