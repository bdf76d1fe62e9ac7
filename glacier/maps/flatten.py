"""Takes a module of this package, yields its source as one file that imports nothing of the package.

What it uses of other modules is put before it as it stands there, without methods that nothing asks for. So
such a file cannot do otherwise than the package does.
"""

import ast
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "glacier"
CALLED = "forward"
"""The method that PyTorch calls: nothing names it."""


@dataclass(frozen=True, slots=True)
class Module:
    """A module taken apart, without importing it."""

    lines: list[str]
    statements: list[ast.stmt]
    """All but imports."""
    defined: dict[str, ast.stmt]
    imported: dict[str, tuple[str, str]]
    """Name -> the module it is of, and its name there; the latter empty where it is that module."""


@cache
def _read(name: str) -> Module:
    spec = find_spec(name)
    if not spec or not spec.origin:
        raise ModuleNotFoundError(name)
    text = Path(spec.origin).read_text(encoding="utf-8")
    statements: list[ast.stmt] = []
    defined: dict[str, ast.stmt] = {}
    imported: dict[str, tuple[str, str]] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import):
            imported |= {alias.asname or alias.name: (alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {
                alias.asname or alias.name: (node.module or "", alias.name) for alias in node.names
            }
        else:
            statements.append(node)
            defined |= dict.fromkeys(_names(node), node)
    return Module(text.splitlines(), statements, defined, imported)


def _names(node: ast.stmt) -> list[str]:
    """What a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [
            part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)
        ]
    return [node.target.id] if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else []


def flattened(name: str) -> str:
    """The source of the module `name`, after that of what it needs.

    Raises:
        ValueError: two modules give one name to different things, or one takes something by another name.
    """
    asked: set[str] = set()
    while True:  # a method that is kept may ask for others
        file = _File(name, asked)
        if file.attributes <= asked:
            return file.text()
        asked |= file.attributes


class _File:
    """What one file is to hold."""

    def __init__(self, root: str, asked: set[str]) -> None:
        """Gather all of the module `root`, and what it needs, with the methods that are `asked` for."""
        self.root, self.asked = root, asked
        self.attributes: set[str] = set()
        """Named by what is kept."""
        self.imports: set[tuple[str, str, str]] = set()
        """Module, name in it, name here."""
        self.home = dict.fromkeys(_read(root).defined, root)
        """Name of what is taken -> the module it is of."""
        for node in _read(root).statements:
            self._follow(root, node)
        here = Counter([*self.home, *(name for _, _, name in self.imports)])
        if twice := [name for name, count in here.items() if count > 1]:
            raise ValueError(f"{twice[0]}: imported, and defined or imported as something else; rename one")

    def _follow(self, module: str, node: ast.stmt) -> None:
        """Take what a statement needs."""
        left_out = {inner for method in self._unasked(node) for inner in ast.walk(method)}
        for inner in ast.walk(node):
            if inner in left_out:
                continue
            if isinstance(inner, ast.Attribute):
                self.attributes.add(inner.attr)
            elif isinstance(inner, ast.Name):
                self._find(module, inner.id)

    def _find(self, module: str, name: str) -> None:
        source, there = _read(module).imported.get(name, (module, name))
        inside = source.split(".")[0] == PACKAGE
        if there != name and (there or inside):
            raise ValueError(f"{module}: imports {there or source} as {name}; expected its own name")
        if not inside:
            self.imports.add((source, there, name))
            return
        node = _read(source).defined.get(there)
        if node is None or self.home.get(there) == source:
            return  # of the language, of one function, or taken
        if there in self.home:
            raise ValueError(f"{there}: defined in {source} and {self.home[there]}; rename one")
        self.home[there] = source
        self._follow(source, node)

    def _unasked(self, node: ast.stmt) -> list[ast.FunctionDef]:
        """The methods of a class that nothing asks for."""
        inside = node.body if isinstance(node, ast.ClassDef) else []
        return [
            method
            for method in inside
            if isinstance(method, ast.FunctionDef)
            and not method.name.startswith("__")
            and method.name not in {CALLED, *self.asked}
        ]

    def _source(self, module: str, node: ast.stmt) -> str:
        """A statement as it stands in its module, with the text that documents it."""
        read = _read(module)
        after = read.statements[read.statements.index(node) + 1 :][:1]
        documented = isinstance(node, ast.Assign | ast.AnnAssign) and after and _is_text(after[0])
        gone = {i for method in self._unasked(node) for i in range(_first(method) - 1, _last(method) + 1)}
        lines = range(_first(node), _last(after[0] if documented else node) + 1)
        return "\n".join(read.lines[i - 1] for i in lines if i not in gone)

    def text(self) -> str:
        """The file."""
        made = [self._source(self.root, _read(self.root).statements[0]), self._import_lines()]
        gap = "\n"
        for module in _upstream(self.root):
            taken = [
                node
                for node in _read(module).statements
                if (isinstance(node, ast.If) and module == self.root)
                or any(self.home.get(name) == module for name in _names(node))
            ]
            made += [f"{gap}# {module}"] * bool(taken)
            before: ast.stmt | None = None
            for node in taken:
                apart = any(isinstance(one, ast.FunctionDef | ast.ClassDef) for one in (before, node))
                made.append("\n\n" * apart + self._source(module, node))
                before, gap = node, "\n\n"
        return "\n".join(made) + "\n"

    def _import_lines(self) -> str:
        """Imports as ruff sorts them: the language's own first."""
        groups: list[list[str]] = [[], []]
        for source in sorted({source for source, _, _ in self.imports}):
            group = groups[source.split(".")[0] not in sys.stdlib_module_names]
            whole = [here for s, there, here in self.imports if s == source and not there]
            group += [f"import {source}" + f" as {here}" * (here != source) for here in whole]
        for source in sorted({source for source, _, _ in self.imports}):
            group = groups[source.split(".")[0] not in sys.stdlib_module_names]
            names = [there for s, there, _ in self.imports if s == source and there]
            group += [f"from {source} import {', '.join(sorted(names, key=_by_kind))}"] * bool(names)
        return "\n" + "\n\n".join("\n".join(group) for group in groups)


def _upstream(name: str) -> list[str]:
    """A module of the package and those it imports, what is imported before what imports it."""
    found: list[str] = []
    for source, _ in _read(name).imported.values():
        if source.split(".")[0] == PACKAGE:
            found += _upstream(source)
    return list(dict.fromkeys([*found, name]))


def _by_kind(name: str) -> tuple[int, str]:
    """CONSTANTS, then Classes, then the rest."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _first(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _last(node: ast.stmt) -> int:
    return node.end_lineno or node.lineno
