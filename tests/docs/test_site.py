"""The site builds without a warning, and is read without asking another host for anything."""

import os
import re
import subprocess
import sys

import pytest

import glacier
from tests.docs.pages import PAGES, ROOT

ELSEWHERE = re.compile(
    r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?(?:https?:)?//|<link[^>]*\shref=["']?(?:https?:)?//|@import"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "site"
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}, check=True,
    )  # fmt: skip
    return out


def test_each_page_is_there(site):
    for page in PAGES[1:]:  # the first is README
        name = page.relative_to(ROOT / "docs" if ROOT / "docs" in page.parents else ROOT)
        assert (site / name.with_suffix(".html")).is_file()
    assert (site / "benchmarks" / "results" / "noise.png").is_file()


def test_each_name_is_told(site):
    text = (site / "api.html").read_text()
    names = set(glacier.__all__) - {"__version__"}
    assert [name for name in names if f'id="glacier.{name}"' not in text] == []


def test_each_command_is_told(site):
    from glacier.cli import main

    text = (site / "cli.html").read_text()
    assert [name for name in main.commands if f'id="{name}"' not in text] == []


def test_nothing_is_fetched_from_elsewhere(site):
    assert ELSEWHERE.search('<script src="https://example.org/x.js">')
    for file in (*site.rglob("*.html"), *site.rglob("*.css")):
        assert not ELSEWHERE.search(file.read_text()), file
