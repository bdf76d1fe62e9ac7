"""A module with what it needs of others as one file."""

import sys

import pytest

from glacier.maps import flatten


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of two modules to be flattened."""
    monkeypatch.setattr(flatten, "PACKAGE", "few")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "few", raising=False)
    flatten._read.cache_clear()

    def write(**modules: str) -> None:
        (tmp_path / "few").mkdir()
        for name, text in {"__init__": "", **modules}.items():
            (tmp_path / "few" / f"{name}.py").write_text(text)

    return write


BELOW = '''"""Below."""

import math
import os

LIMIT = 3
"""The most."""
UNUSED = os.sep


class Counter:
    """Counts."""

    def __init__(self) -> None:
        self.count = 0

    def up(self) -> int:
        """One more."""
        return self.step(1)

    def step(self, by: int) -> int:
        """Some more."""
        self.count = min(self.count + by, LIMIT)
        return self.count

    def root(self) -> float:
        """Nobody asks for it."""
        return math.sqrt(self.count)


def unused() -> str:
    return UNUSED
'''


def test_a_flattened_module_holds_what_it_needs_and_no_more(package):
    top = "from few.below import Counter\n\n\ndef main() -> int:\n    return Counter().up()\n"
    package(below=BELOW, top=f'"""Top."""\n\n{top}')
    text = flatten.flattened("few.top")
    space: dict = {}
    exec(text, space)
    assert space["main"]() == 1
    assert space["LIMIT"] == 3
    assert not {"unused", "UNUSED", "os", "math"} & set(space)
    assert not hasattr(space["Counter"], "root")
    assert text.startswith('"""Top."""\n')
    assert '"""The most."""' in text


def test_one_name_of_two_modules_is_refused(package):
    package(below=BELOW, top='"""Top."""\n\nfrom few.below import Counter\n\nLIMIT = Counter().up()\n')
    with pytest.raises(ValueError, match=r"LIMIT: defined in few.below and few.top; rename one"):
        flatten.flattened("few.top")


@pytest.mark.parametrize(
    ("top", "words"),
    [
        ("from few.below import Counter as C\n\nC()", "few.top: imports Counter as C"),
        ("import few.below as below\n\nbelow.Counter()", "few.top: imports few.below as below"),
        ("from math import sqrt as root\n\nroot(4)", "few.top: imports sqrt as root"),
        ("from few.below import Counter\nfrom os import path as math\n\nmath, Counter()", "path as math"),
        ("import statistics as math\nfrom few.below import Counter\n\nmath, Counter().root()", "math: "),
        ("from few.below import Counter\nfrom math import LIMIT\n\nLIMIT, Counter().up()", "LIMIT: "),
    ],
)
def test_so_is_one_name_for_two_things(package, top, words):
    package(below=BELOW, top=f'"""Top."""\n\n{top}\n')
    with pytest.raises(ValueError, match=words):
        flatten.flattened("few.top")
