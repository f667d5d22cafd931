"""Constructors read from their source: names and types of arguments, and constants of classes, with no import.

The keyword-only constructor of a class is the schema of its node. Reading it from the source, and not from the class,
is what lets a mistake be answered before torch is imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, final

from pgkit import options
from pgkit.errors import UsageError, did_you_mean

_NAMESPACE: Mapping[str, Any] = {
    **{
        name: getattr(options, name)
        for name in ("Count", "Index", "Fraction", "Positive", "NonNegative", "Part", "Range")
    },
    **{kind.__name__: kind for kind in (bool, int, float, str, list, dict, tuple)},
    "Annotated": Annotated,
    "Any": Any,
    "Literal": Literal,
    "Mapping": Mapping,
    "Sequence": Sequence,
}
"""The names that an annotation of ours may use wherever they come from."""


def parameters(target: str) -> dict[str, tuple[Any, bool]]:
    """Returns the type of every argument of a pgkit class that configuration can hold, and whether it has a default.

    Raises: UsageError where there is no such class.
    """
    for source, definition in _lineage(target):
        for statement in definition.body:
            if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
                return dict(_configurable(source, statement.args))
    return {}


def attribute(target: str, name: str, default: Any) -> Any:
    """Returns the constant that a pgkit class, or a base of it, gives to a class attribute; else the default."""
    if not target.startswith("pgkit."):
        return default
    for _, definition in _lineage(target):
        for statement in definition.body:
            names = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
            value = getattr(statement, "value", None)
            if isinstance(value, ast.Constant) and any(isinstance(n, ast.Name) and n.id == name for n in names):
                return value.value
    return default


def methods(target: str) -> set[str]:
    """Returns the names of the methods that a pgkit class, or a base of it, defines."""
    found = (statement for _, definition in _lineage(target) for statement in definition.body)
    return {statement.name for statement in found if isinstance(statement, ast.FunctionDef)}


@final
class Source(Mapping[str, Any]):
    """One module of pgkit as text: its classes, and the types that its annotations name."""

    def __init__(self, name: str) -> None:
        """Raises: UsageError where there is no such module."""
        inside = Path(__file__).parent.parent.joinpath(*name.split(".")[1:])
        files = [file for file in (inside.with_suffix(".py"), inside / "__init__.py") if file.is_file()]
        if not files or not all(part.isidentifier() for part in name.split(".")):
            raise UsageError(f"_target_: {name} is no module of pgkit")
        self.statements = _statements(files[0])

    def __getitem__(self, name: str) -> Any:
        """Returns the type that a name in an annotation stands for.

        Raises: KeyError for what is not configuration, such as a tensor or an observation space.
        """
        if name in _NAMESPACE:
            return _NAMESPACE[name]
        statement = self.statements[name]
        if isinstance(statement, ast.ImportFrom):
            return Source(_pgkit_module(statement, name))[name]
        if isinstance(statement, ast.Assign):
            return self.evaluate(statement.value)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.statements)

    def __len__(self) -> int:
        return len(self.statements)

    def evaluate(self, annotation: ast.expr) -> Any:
        """Returns the type that an annotation stands for, names being looked up in this module alone."""
        code = compile(ast.Expression(annotation), "<annotation>", "eval")
        return eval(code, {"__builtins__": {}}, self)

    def lineage(self, name: str) -> Iterator[tuple[Source, ast.ClassDef]]:
        """Yields the class of that name and its bases within pgkit, each with the module that holds it."""
        statement = self.statements.get(name)
        if isinstance(statement, ast.ImportFrom) and str(statement.module).startswith("pgkit."):
            yield from Source(_pgkit_module(statement, name)).lineage(name)
        elif isinstance(statement, ast.ClassDef):
            yield self, statement
            for base in statement.bases:
                if isinstance(base, ast.Name):
                    yield from self.lineage(base.id)


def _lineage(target: str) -> list[tuple[Source, ast.ClassDef]]:
    module, _, name = target.rpartition(".")
    source = Source(module)
    found = list(source.lineage(name))
    if not found:
        classes = [word for word, statement in source.statements.items() if isinstance(statement, ast.ClassDef)]
        raise UsageError(f"_target_: {name} is no class of {module}{did_you_mean(name, classes)}")
    return found


def _configurable(source: Source, arguments: ast.arguments) -> Iterator[tuple[str, tuple[Any, bool]]]:
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if argument.annotation is None:
            continue
        try:
            yield argument.arg, (source.evaluate(argument.annotation), default is not None)
        except (NameError, KeyError, AttributeError):
            continue  # handed over by the program: no configuration holds a space, a policy or a generator


def _pgkit_module(statement: ast.ImportFrom, name: str) -> str:
    if not str(statement.module).startswith("pgkit."):
        raise KeyError(name)
    return str(statement.module)


@cache
def _statements(file: Path) -> dict[str, ast.stmt]:
    """Returns the statement that binds each top-level name of a file."""
    bound: dict[str, ast.stmt] = {}
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.ClassDef):
            bound[statement.name] = statement
        elif isinstance(statement, ast.ImportFrom):
            bound.update({alias.asname or alias.name: statement for alias in statement.names})
        elif isinstance(statement, ast.Assign):
            bound.update({target.id: statement for target in statement.targets if isinstance(target, ast.Name)})
    return bound
