"""The house rules, as tests: who may import whom, what the core may not touch, exact ``__all__``, bounded files and functions.

Every rule names the file and line that breaks it. An exception is a line in one of the tables below, with its reason.
"""

from __future__ import annotations

import ast
import functools
import importlib
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "ohmqtt"

# -- the rooms ----------------------------------------------------------------------------------------------------------------------------

# Imports run from the end of this list to its beginning, never back. A room is a file or a folder of that name.
CORE = (
    "errors",
    "mqtt_spec",
    "serialization",
    "property",
    "packet",
    "topic",
    "topic_alias",
    "auth",
    "journal",
    "records",
    "link",
    "session",
)
ROOMS = (*CORE, "store", "address", "transport", "handle", "client", "aio", "cli", "__main__")
# These stand outside the list. The toolkit for tests may use everything but the command line, and only itself is built on it.
OUTSIDE = ("__init__", "testing")

# The core is deaf and blind: it can't have a socket, a clock, a thread, a disk, randomness or a log, because it can't import them.
CORE_MAY_IMPORT = {
    "__future__",
    "abc",
    "array",
    "base64",
    "binascii",
    "bisect",
    "collections",
    "copy",
    "dataclasses",
    "enum",
    "functools",
    "heapq",
    "itertools",
    "json",
    "keyword",
    "math",
    "operator",
    "re",
    "struct",
    "types",
    "typing",
    "typing_extensions",
    "weakref",
}
MAY_ALSO_IMPORT = {
    # Authentication is pure computation, apart from nonces, which must not be predictable.
    "auth": {"hashlib", "hmac", "secrets", "stringprep", "unicodedata"},
    # An extra, and asked for before it is imported: without it, plain lines are printed.
    "cli": {"rich"},
    # The fixtures shipped to users are pytest's.
    "testing": {"pytest"},
}

# -- exceptions, each with its reason -----------------------------------------------------------------------------------------------------

FILE_LINES_MAX = 600
LONG_FILES: dict[str, tuple[int, str]] = {}

FUNCTION_LINES_MAX = 70
LONG_FUNCTIONS: dict[str, tuple[int, str]] = {}

# Behaviour is never replaced: a fake is handed over. A figure may be, if reaching the true one would take long.
ATTRIBUTE_REPLACERS: dict[str, str] = {
    "tests/test_topic.py": "lowers a bound, so that reaching it takes no time",
    "tests/test_topic_alias.py": "lowers a bound, so that reaching it takes no time",
}

SLEEPERS: dict[str, str] = {
    "tests/test_review_client.py": "looks again each millisecond whether threads wait inside of publish or the I/O thread sleeps, which nothing announces",
}

# -- reading the tree ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """One Python file: where it is, what it says, what it means."""

    path: Path
    text: str = field(repr=False)
    tree: ast.Module = field(repr=False)

    @property
    def name(self) -> str:
        """The path below the project's folder, as it is written in messages and tables."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def room(self) -> str:
        """The first part of the path below the package."""
        return self.path.relative_to(SOURCE).with_suffix("").parts[0]

    @property
    def module(self) -> str:
        """The dotted name to import it by."""
        parts = self.path.relative_to(SOURCE.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def at(self, node: ast.AST) -> str:
        """Return ``path:line``."""
        return f"{self.name}:{getattr(node, 'lineno', 1)}"


@functools.cache
def python_files(folder: str) -> tuple[File, ...]:
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        found.append(File(path, text, ast.parse(text, filename=str(path))))
    return tuple(found)


def source_files() -> tuple[File, ...]:
    return python_files("src/ohmqtt")


def names_of(files: Iterable[File]) -> list[str]:
    return [file.name for file in files]


def each_file(files: Iterable[File]) -> pytest.MarkDecorator:
    files = list(files)
    return pytest.mark.parametrize("file", files, ids=names_of(files))


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def run_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk everything that can run: what only a type checker sees may point in any direction."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and is_type_checking(node.test):
            waiting.extend(node.orelse)
        else:
            waiting.extend(ast.iter_child_nodes(node))


def imports_of(file: File, nodes: Iterable[ast.AST]) -> Iterator[tuple[ast.AST, str]]:
    """Yield each import as an absolute dotted name: ``ohmqtt.packet.MQTTPublishPacket``, ``socket``."""
    package = [*file.path.relative_to(SOURCE.parent).parts[:-1]]
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node, f"{base}.{alias.name}"


def calls_of(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


# -- rules for the source -----------------------------------------------------------------------------------------------------------------


@each_file(source_files())
def test_imports_run_one_way(file: File) -> None:
    room = file.room
    assert room in ROOMS or room in OUTSIDE, f"{file.name}: a new room needs a place in ROOMS (and in the design)"
    for node, name in imports_of(file, run_time_nodes(file.tree)):
        parts = name.split(".")
        if parts[0] != "ohmqtt" or len(parts) < 2:
            continue
        target = parts[1]
        if target == "__version__":
            # The version is the one thing that the package itself owns; only the outermost rooms ask for it.
            assert room in {"cli", "__main__", *OUTSIDE}, f"{file.at(node)}: {room} imports from the package that imports it"
            continue
        assert target in ROOMS or target in OUTSIDE, f"{file.at(node)}: imports {name} through the package, not from its room"
        if room in {target, "__init__"}:
            continue
        if room == "testing":
            assert target not in {"cli", "__main__"}, f"{file.at(node)}: testing imports the command line"
            continue
        if room == "cli" and target == "testing":
            # The demonstration needs something that breaks.
            continue
        assert target in ROOMS[: ROOMS.index(room)], f"{file.at(node)}: {room} may not import {target}"


@each_file(source_files())
def test_source_imports_the_standard_library_only(file: File) -> None:
    for node, name in imports_of(file, run_time_nodes(file.tree)):
        top = name.split(".", maxsplit=1)[0]
        allowed = top == "ohmqtt" or top in sys.stdlib_module_names or top in MAY_ALSO_IMPORT.get(file.room, set())
        assert allowed, f"{file.at(node)}: {top} would be a run-time dependency"


@each_file(file for file in source_files() if file.room in CORE)
def test_core_is_deaf_and_blind(file: File) -> None:
    allowed = CORE_MAY_IMPORT | MAY_ALSO_IMPORT.get(file.room, set())
    for node, name in imports_of(file, run_time_nodes(file.tree)):
        top = name.split(".", maxsplit=1)[0]
        assert top == "ohmqtt" or top in allowed, f"{file.at(node)}: the core may not import {top}"
    for call, name in calls_of(file.tree):
        assert name not in {"open", "input", "breakpoint", "__import__"}, f"{file.at(call)}: the core may not call {name}"


@each_file(file for file in source_files() if file.room in CORE)
def test_core_file_has_a_test_file_of_its_own(file: File) -> None:
    # A room that is a folder may have several: test_session_outbound.py.
    tests = [*(ROOT / "tests").glob(f"test_{file.room}.py"), *(ROOT / "tests").glob(f"test_{file.room}_*.py")]
    assert tests, f"{file.name} needs tests/test_{file.room}.py, which alone covers it"


@each_file(source_files())
def test_all_is_exact(file: File) -> None:
    if file.path.name == "__main__.py":
        return
    module = importlib.import_module(file.module)
    assert hasattr(module, "__all__"), f"{file.name}: no __all__"
    listed: list[str] = list(module.__all__)
    assert len(listed) == len(set(listed)), f"{file.name}: __all__ names something twice"
    for name in listed:
        assert hasattr(module, name), f"{file.name}: __all__ names {name}, which doesn't exist"
    defined = set(public_names(file.tree.body, with_imports=file.path.name == "__init__.py"))
    if "*" in defined:
        defined.remove("*")
        for _, name in imports_of(file, file.tree.body):
            if name.endswith(".*"):
                defined.update(importlib.import_module(name[:-2]).__all__)
    # A figure in capitals is the module's own unless it is listed; the next test sees to it that no other room uses it then.
    forgotten = sorted(name for name in defined - set(listed) if not name.isupper())
    assert not forgotten, f"{file.name}: public, but not in __all__: {forgotten} (give a private name an underscore)"
    foreign = sorted(name for name in set(listed) - defined if not is_made_here(module, name))
    assert not foreign, f"{file.name}: in __all__, but not defined here: {foreign}"


@each_file(source_files())
def test_rooms_use_only_what_others_list(file: File) -> None:
    for node, name in imports_of(file, ast.walk(file.tree)):
        origin, _, wanted = name.rpartition(".")
        parts = origin.split(".")
        if parts[0] != "ohmqtt" or len(parts) < 2 or parts[1] == file.room or wanted == "*":
            continue
        listed = importlib.import_module(origin).__all__
        assert wanted in listed, f"{file.at(node)}: {origin} doesn't list {wanted} in its __all__"


def is_made_here(module: object, name: str) -> bool:
    """Return True for what a table made at import: it can't be seen in the text, but it says where it belongs."""
    owner = getattr(getattr(module, name), "__module__", None)
    return owner == getattr(module, "__name__", "")


def public_names(body: Iterable[ast.stmt], *, with_imports: bool) -> Iterator[str]:
    for node in body:
        names: list[str] = []
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names = [node.name]
            case ast.Assign() if not is_type_variable(node.value):
                names = [name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)]
                # `table[key] = value` defines nothing.
                names = [name for name in names if not any(isinstance(target, ast.Subscript | ast.Attribute) for target in node.targets)]
            case ast.AnnAssign(target=ast.Name(id=name)):
                names = [name]
            case ast.ImportFrom(module=str(origin)) if with_imports and (node.level or origin.startswith("ohmqtt")):
                # Without a module it is `from . import errors`, and a room is there anyway.
                names = [alias.asname or alias.name for alias in node.names]
            case ast.If() if is_type_checking(node.test) and not with_imports:
                yield from public_names(node.orelse, with_imports=with_imports)
            case ast.If() | ast.For() | ast.While():
                yield from public_names([*node.body, *node.orelse], with_imports=with_imports)
            case ast.Try():
                handlers = [statement for handler in node.handlers for statement in handler.body]
                yield from public_names([*node.body, *handlers, *node.orelse, *node.finalbody], with_imports=with_imports)
            case ast.With():
                yield from public_names(node.body, with_imports=with_imports)
            case _:
                pass
        yield from (name for name in names if not name.startswith("_") or name == "__version__")


def is_type_variable(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] in {"TypeVar", "ParamSpec", "TypeVarTuple"}


@each_file(source_files())
def test_file_is_readable_in_one_go(file: File) -> None:
    lines = file.text.count("\n")
    limit = LONG_FILES.get(file.name, (FILE_LINES_MAX, ""))[0]
    assert lines <= limit, f"{file.name} has {lines} lines, more than {limit}: make it a folder, or argue in LONG_FILES"


@each_file([*source_files(), *python_files("examples"), *python_files("scripts")])
def test_functions_fit_on_a_screen(file: File) -> None:
    for node in ast.walk(file.tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        assert node.end_lineno is not None
        lines = node.end_lineno - node.lineno + 1
        if ast.get_docstring(node) is not None:
            docstring = node.body[0]
            assert docstring.end_lineno is not None
            lines -= docstring.end_lineno - docstring.lineno + 1
        limit = LONG_FUNCTIONS.get(f"{file.name}:{node.name}", (FUNCTION_LINES_MAX, ""))[0]
        assert lines <= limit, f"{file.at(node)}: {node.name} has {lines} lines, more than {limit}"


@each_file(file for file in source_files() if file.room not in {"cli", "__main__"})
def test_source_does_not_print(file: File) -> None:
    for call, name in calls_of(file.tree):
        assert name not in {"print", "sys.stdout.write", "sys.stderr.write"}, f"{file.at(call)}: prints"


def test_exceptions_are_needed() -> None:
    """An exception that nothing needs any more goes away, and one without a reason doesn't count."""
    reasons = {key: reason for key, (_, reason) in [*LONG_FILES.items(), *LONG_FUNCTIONS.items()]}
    for key, reason in {**reasons, **ATTRIBUTE_REPLACERS, **SLEEPERS}.items():
        assert (ROOT / key.split(":", maxsplit=1)[0]).exists(), f"an exception for {key}, which doesn't exist"
        assert len(reason.split()) >= 4, f"the exception for {key} gives no reason"
    for name, (limit, _) in LONG_FILES.items():
        lines = (ROOT / name).read_text(encoding="utf-8").count("\n")
        assert FILE_LINES_MAX < lines <= limit, f"{name} has {lines} lines: its exception ({limit}) isn't needed or doesn't fit"


# -- rules for everything -----------------------------------------------------------------------------------------------------------------

# Put together, because this file is looked at as well.
NOTES_TO_ONESELF = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b")


def text_files() -> list[Path]:
    folders = ["src", "tests", "examples", "scripts", "docs", "bench", ".ci", ".github"]
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    found += [path for path in ROOT.iterdir() if path.suffix in {".md", ".toml", ".py"} or path.name == "Makefile"]
    return sorted(path for path in found if path.suffix not in {".pyc", ".db", ".png"} and "__pycache__" not in path.parts)


def test_no_notes_to_oneself() -> None:
    broken = []
    for path in text_files():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if NOTES_TO_ONESELF.search(line):
                broken.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not broken, "\n".join(broken)


def test_version_is_written_once_and_the_release_notes_know_it() -> None:
    version = importlib.import_module("ohmqtt").__version__
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_package_is_typed() -> None:
    assert (SOURCE / "py.typed").exists()


# -- rules for the tests ------------------------------------------------------------------------------------------------------------------


@each_file(python_files("tests"))
def test_tests_use_fakes_and_not_mocks(file: File) -> None:
    for node, name in imports_of_tests(file):
        assert not name.startswith(("unittest.mock", "mock.", "pytest_mock")), f"{file.at(node)}: imports a mock library"
    for call, name in calls_of(file.tree):
        replaces = name.endswith((".setattr", ".delattr")) and "patch" in name
        assert not replaces or file.name in ATTRIBUTE_REPLACERS, f"{file.at(call)}: hand a fake over, don't replace attributes"


@each_file(python_files("tests"))
def test_tests_do_not_sleep(file: File) -> None:
    if file.name in SLEEPERS:
        return
    imported = {name for _, name in imports_of_tests(file)}
    for call, name in calls_of(file.tree):
        sleeps = name == "time.sleep" or (name == "sleep" and "time.sleep" in imported)
        assert not sleeps, f"{file.at(call)}: wait for the thing itself, not for a time"
        if name == "asyncio.sleep":
            # Zero is a turn of the loop, not a time.
            assert [ast.unparse(argument) for argument in call.args] == ["0"], f"{file.at(call)}: wait for the thing itself"


@each_file(file for file in python_files("tests") if file.path.name.startswith("test_"))
def test_requirement_marks_are_written_as_in_the_standard(file: File) -> None:
    for call, name in calls_of(file.tree):
        if name == "pytest.mark.spec":
            assert call.args, f"{file.at(call)}: names no requirement"
            for argument in call.args:
                identifier = ast.literal_eval(argument)
                assert re.fullmatch(r"MQTT-\d(\.\d+)+(-\d+)?", identifier), f"{file.at(call)}: {identifier!r} is no requirement"


def imports_of_tests(file: File) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node, f"{node.module or ''}.{alias.name}"
