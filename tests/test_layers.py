"""Holds the rooms: imports go strictly downwards, and each kind of work happens in one place."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import casstore
import casstore.models

PACKAGE = Path(casstore.__file__).parent

VOCABULARY = {"errors", "tag", "digest", "notebook", "progress", "settings", "release"}
VOCABULARY |= {"late", "late_classes", "not_finite", "plain_json", "description", "annotated"}
# What lets a process start quickly, which all may import.
QUICK = {"late", "late_classes"}
# What words may be made of, besides errors.
MADE_OF = {"late": {"release"}, "description": {"not_finite", "plain_json"}, "annotated": {"plain_json"}}
# A room may import itself and what stands before it. Whatever is new under casstore/ needs a place here.
ROOMS = [
    "storage",
    "archive",
    "catalog",
    "remote",
    "actions",
    "model",
    "draft",
    "remotes",
    "safetensors",
    "store",
    "opening",
]
# The same within these rooms, by module or folder.
INNER = {
    "storage": [
        *["access", "bounded_msgpack", "bounded_yaml", "names", "layout", "container", "machine"],
        *["buffers", "parents", "recipe", "swapping", "uncopied", "walking", "window", "working", "writers"],
        *["descriptors", "denials", "removal", "readable", "files", "append_log", "locks", "unfinished", "reserve"],
        *["write_back", "sharing"],
        *["tensors", "coding", "chunking", "pack", "manifest", "annotation_log", "chunk_sequence", "stretches"],
        *["objects", "ranges"],
        *["sessions"],
    ],
    "archive": [
        *["casmodel", "limits", "endpoint", "names", "pathset", "compression", "decompression", "links"],
        *["unpacked_tree", "copying", "tar", "zips", "formats", "unpacking", "oci", "model_signing", "writing"],
    ],
    "catalog": [
        *["boots", "decoding", "schema", "sqlite_errors", "transaction", "connection", "tables", "trust", "leases"],
        *["events", "parents", "index", "instances", "upkeep", "columns", "marks", "remotes"],
        *[
            "references",
            "sha256",
            "versions",
            "aliases",
            "backups",
            "query",
            "condition",
            "search",
            "listed",
            "containers",
        ],
        *["commits", "annotations", "trash", "deletions", "usage", "freed", "retention"],
        *["directories", "mending", "repacking", "restoring", "catalog"],
    ],
    "remote": [
        *["backend", "keys", "credentials", "loop", "transfers", "once", "unconditional", "documents", "segment"],
        *["other_places", "directory", "probe", "address", "object_store", "bucket", "records", "pushing", "reading"],
        *["fetching"],
        *["repacking", "summing_up", "deleting", "collect", "verifying"],
    ],
    "actions": [
        *["instance", "leasing", "missing", "resolve", "describing", "sources"],
        *[
            "workspace",
            "loose_files",
            "keeping",
            "reserved",
            "contents",
            "checksums",
            "signatures",
            "configure",
            "picking",
            "packs",
            "consistency",
            "home",
            "sharing",
        ],
        *["elsewhere_file", "directories", "single_files", "saving", "tensors", "comparing", "registry", "reopening"],
        *["gc", "health", "exchange"],
    ],
}
# How many pairs of the folders of `actions` know each other. A new pair is worth a thought.
MOST_ARROWS = 30
# Faces see the public names of the package and themselves, and may import late so that they start quickly. One of them
# is Python's: casstore.models, in BentoML's terms, whose public names the others may use too.
FACES = {"cli", "integrations", "models", "web"}
PUBLIC = {"casstore", "casstore.models", "casstore.integrations", "casstore.integrations.hugging_face"}
# What needs a library that takes time to import, and that not all need, is imported where it is used.
LATE = {
    ("casstore.remote.address", "casstore.remote.object_store"),
    ("casstore.late", "casstore.errors"),
    ("casstore.storage.coding.kernels", "casstore.storage.coding.plain"),
}

# What imports the module that its first argument names.
IMPORTING = {"import_module", "__import__", "LateModule"}

ONLY_IN_FILES = {
    "os": {"fsync", "fdatasync", "rename", "renames", "replace", "link", "chmod", "fchmod", "lchmod", "lockf"},
    "fcntl": {"flock", "lockf"},
    "shutil": {"copy", "copy2", "copyfile", "copyfileobj", "copymode", "copystat", "copytree", "move"},
}
# The same through pathlib. `replace` is missing: on a str it is harmless, and mypy tells no test which it is.
ONLY_IN_FILES_AS_METHODS = {"rename", "hardlink_to", "symlink_to", "chmod", "lchmod"}
SQL = re.compile(
    r"\b(SELECT\s.+\sFROM|SELECT\s+\w+\(|INSERT\s+(OR\s+\w+\s+)?INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|"
    r"(CREATE|DROP|ALTER)\s+(TABLE|INDEX|VIEW|TRIGGER)|PRAGMA\s+\w|BEGIN\s+(IMMEDIATE|EXCLUSIVE)|SAVEPOINT\s+\w)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Import:
    target: str
    line: int
    is_late: bool
    is_for_types: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


def room(module: str) -> str:
    """The part below `casstore`; empty for the package itself. `python -m casstore` is the command line."""
    if module == "casstore.__main__":
        return "cli"
    return module.split(".")[1] if "." in module else ""


def called(node: ast.Call) -> str:
    """The last part of the name that is called."""
    return str(node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", ""))


def imports(module: str, tree: ast.Module, modules: set[str]) -> Iterator[Import]:
    """All imports of the package's own modules."""

    def walk(node: ast.AST, is_late: bool, is_for_types: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, is_late, is_for_types)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                is_package = any(name.startswith(module + ".") for name in modules)
                base = module.split(".")[: len(module.split(".")) + is_package - node.level]
                source = ".".join([*base, source] if source else base)
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield Import(inner if inner in modules else source, node.lineno, is_late, is_for_types)
        elif isinstance(node, ast.Dict):  # a table of what is imported by name
            for entry in [*node.keys, *node.values]:
                if isinstance(entry, ast.Constant) and entry.value in modules - {"casstore"}:
                    yield Import(str(entry.value), entry.lineno, is_late, is_for_types)
        elif isinstance(node, ast.Call) and called(node) in IMPORTING and node.args:
            named = node.args[0]
            if isinstance(named, ast.Constant):
                yield Import(str(named.value), node.lineno, True, is_for_types)
            elif isinstance(named, ast.JoinedStr) and isinstance(named.values[0], ast.Constant):
                for name in sorted(modules):  # all that the text may be
                    if name.startswith(str(named.values[0].value)):
                        yield Import(name, node.lineno, True, is_for_types)
        is_late = is_late or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                yield from walk(child, is_late, True)
            for child in node.orelse:
                yield from walk(child, is_late, is_for_types)
        else:
            for each in ast.iter_child_nodes(node):
                yield from walk(each, is_late, is_for_types)

    for found in walk(tree, False, False):
        if found.target == "casstore" or found.target.startswith("casstore."):
            yield found


def may_import(module: str, target: str, is_for_types: bool) -> bool:
    mine, theirs = room(module), room(target)
    if mine in FACES:
        return target in PUBLIC or theirs == mine or theirs in QUICK
    if mine == "":
        return theirs in VOCABULARY or theirs in ROOMS
    if mine in VOCABULARY:
        return theirs in {"errors", *QUICK} or theirs in MADE_OF.get(mine, set())
    if theirs in VOCABULARY:
        return True
    if theirs not in ROOMS:
        return False
    facade = ROOMS.index("model")
    if is_for_types and ROOMS.index(mine) >= facade:
        return True
    return ROOMS.index(theirs) <= ROOMS.index(mine)


def inner(module: str) -> str:
    """The folder or module of its room that a module is in; empty for the room itself."""
    parts = module.split(".")
    return parts[2] if len(parts) > 2 else ""


def inner_fault(module: str, target: str) -> bool:
    """Whether an import goes upwards within one room."""
    order = INNER.get(room(module), [])
    mine, theirs = inner(module), inner(target)
    if room(module) != room(target) or not order or "" in (mine, theirs):
        return False
    return theirs not in order or mine not in order or order.index(theirs) > order.index(mine)


def arrows(sources: dict[str, str], name: str) -> set[tuple[str, str]]:
    """Which folders of a room import which."""
    modules = set(sources)
    folders = {inner(module) for module in modules if room(module) == name and module.count(".") > 2}
    return {
        (inner(module), inner(found.target))
        for module in modules
        if room(module) == name
        for found in imports(module, ast.parse(sources[module]), modules)
        if room(found.target) == name and {inner(module), inner(found.target)} <= folders
        if inner(module) != inner(found.target)
    }


def import_faults(sources: dict[str, str]) -> list[str]:
    faults = []
    graph: dict[str, set[str]] = {}
    modules = set(sources)
    for module, source in sources.items():
        if room(module) not in {"", *VOCABULARY, *ROOMS, *FACES}:
            faults.append(f"{module}: has no place in ROOMS")
            continue
        graph[module] = set()
        for found in imports(module, ast.parse(source), modules):
            where = f"{module}:{found.line}"
            if found.is_late and (module, found.target) in LATE:
                continue
            if not may_import(module, found.target, found.is_for_types):
                faults.append(f"{where}: may not import {found.target}")
            elif inner_fault(module, found.target):
                faults.append(f"{where}: imports {found.target} upwards")
            if found.is_late and room(module) not in FACES:
                faults.append(f"{where}: imports {found.target} late")
            if not found.is_for_types and not found.is_late and found.target != module:
                graph[module].add(found.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        faults.append("a cycle: " + " -> ".join(error.args[1]))
    return faults


def private_names(sources: dict[str, str], public: dict[str, set[str]]) -> list[str]:
    """What faces import from the package, or from another face, that is not one of its public names."""
    return [
        f"{module}:{node.lineno}: {alias.name} is no public name"
        for module, source in sources.items()
        if room(module) in FACES
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module in public and node.module != f"casstore.{room(module)}"
        for alias in node.names
        if alias.name not in public[node.module]
    ]


def is_package(module: str) -> bool:
    return any(other.startswith(f"{module}.") for other in SOURCES)


def file_faults(module: str, source: str) -> list[str]:
    """Syncs, renames, links, copies, locks and changes of mode outside the modules for them. An integration may lock a
    directory of its tool's, which is no part of a store."""
    if module in ("casstore.storage.files", "casstore.storage.locks"):
        return []
    tree = ast.parse(source)
    names = {}
    faults = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({alias.asname or alias.name: alias.name for alias in node.names})
        elif isinstance(node, ast.ImportFrom):
            forbidden = ONLY_IN_FILES.get(node.module or "", set())
            faults += [
                f"{module}:{node.lineno}: {node.module}.{alias.name}" for alias in node.names if alias.name in forbidden
            ]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        owner = node.value.id if isinstance(node.value, ast.Name) else None
        if owner in names:
            is_its_tools = module.startswith("casstore.integrations.") and node.attr == "flock"
            is_fault = node.attr in ONLY_IN_FILES.get(names[owner], set()) and not is_its_tools
        else:
            is_fault = node.attr in ONLY_IN_FILES_AS_METHODS and owner != "files"
        if is_fault:
            faults.append(f"{module}:{node.lineno}: {ast.unparse(node)}")
    return faults


def sql_faults(module: str, source: str) -> list[str]:
    """SQL, or an import of its library, outside the catalog."""
    if room(module) == "catalog":
        return []
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    faults = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            if SQL.search(node.value):
                faults.append(f"{module}:{node.lineno}: {node.value[:60]!r}")
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            imported = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            if any(name.split(".")[0] in ("apsw", "sqlite3") for name in imported):
                faults.append(f"{module}:{node.lineno}: imports {ast.unparse(node)}")
    return faults


def test_imports_go_downwards_early_and_without_cycles() -> None:
    assert import_faults(SOURCES) == []


def test_folders_of_actions_know_few_others() -> None:
    found = arrows(SOURCES, "actions")
    assert 0 < len(found) <= MOST_ARROWS, sorted(found)


@pytest.mark.parametrize("name", [*INNER, "cli", "models", "integrations"])
def test_rooms_say_what_they_are(name: str) -> None:
    """Each folder has a docstring that states its rule."""
    packages = [
        f"casstore.{name}",
        *(module for module in SOURCES if f"casstore.{name}." in module and is_package(module)),
    ]
    assert [module for module in packages if not ast.get_docstring(ast.parse(SOURCES[module]))] == []


def test_faces_see_public_names_only() -> None:
    public = {"casstore": {*casstore.__all__, "models"}, "casstore.models": set(casstore.models.__all__)}
    assert private_names(SOURCES, public) == []


@pytest.mark.parametrize("module", SOURCES)
def test_files_are_changed_in_one_module(module: str) -> None:
    assert file_faults(module, SOURCES[module]) == []


@pytest.mark.parametrize("module", SOURCES)
def test_sql_stands_in_the_catalog(module: str) -> None:
    assert sql_faults(module, SOURCES[module]) == []


def test_what_the_tests_look_for_is_there() -> None:
    """Else they would pass over an empty package."""
    assert len(SOURCES) > 30
    assert any(SQL.search(source) for module, source in SOURCES.items() if room(module) == "catalog")
    assert file_faults("casstore.elsewhere", SOURCES["casstore.storage.files"])


MADE_UP = {
    "casstore": "from casstore.store import Store",
    "casstore.errors": "",
    "casstore.tag": "from casstore.errors import InvalidTag",
    "casstore.storage": "",
    "casstore.storage.files": "from casstore import errors",
    "casstore.storage.pack": "from casstore.storage import files",
    "casstore.catalog": "",
    "casstore.catalog.index": "from casstore.storage.pack import PackEntry",
    "casstore.model": "if TYPE_CHECKING:\n    from casstore.store import Store",
    "casstore.store": "from casstore.model import Model\nfrom .catalog import index",
    "casstore.cli": "",
    "casstore.cli.main": "import casstore\nfrom casstore import Store\ndef f():\n    from casstore.cli import table",
    "casstore.cli.table": "",
}


def test_the_checker_accepts_what_it_should() -> None:
    assert import_faults(MADE_UP) == []


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("casstore.storage.pack", "from casstore.catalog import index", "may not import casstore.catalog.index"),
        ("casstore.storage.pack", "from ..catalog import index", "may not import casstore.catalog.index"),
        ("casstore.storage", "from .pack import x\nfrom ..store import Store", "may not import casstore.store"),
        ("casstore.storage.pack", "import casstore.store", "may not import casstore.store"),
        ("casstore.storage.pack", "import casstore", "may not import casstore"),
        ("casstore.storage.pack", "try:\n    from casstore import Store\nexcept E: pass", "may not import casstore"),
        (
            "casstore.catalog.index",
            "if TYPE_CHECKING:\n    from casstore.store import Store",
            "may not import casstore.store",
        ),
        ("casstore.model", "from casstore.store import Store", "may not import casstore.store"),
        ("casstore.tag", "from casstore.storage import files", "may not import casstore.storage.files"),
        ("casstore.tag", "from casstore.digest import Digest", "may not import casstore.digest"),
        ("casstore.errors", "from casstore.tag import Tag", "may not import casstore.tag"),
        ("casstore.cli.main", "from casstore.storage import files", "may not import casstore.storage.files"),
        ("casstore.cli.main", "def f():\n    from casstore.tag import Tag", "may not import casstore.tag"),
        ("casstore.cli.main", "from casstore.web.page import x", "may not import casstore.web.page"),
        ("casstore", "from casstore.cli.main import main", "may not import casstore.cli.main"),
        ("casstore.catalog.index", "def f():\n    from casstore.storage import pack", "late"),
        ("casstore.catalog.index", "class A:\n    def f(self):\n        import casstore.storage.pack", "late"),
        ("casstore.catalog.index", "x = lambda: importlib.import_module('casstore.storage.pack')", "late"),
        ("casstore.catalog.index", "x = LateModule('casstore.storage.pack')", "late"),
        ("casstore.catalog.index", "import_module(f'casstore.storage.{x}')", "imports casstore.storage.files late"),
        ("casstore.catalog.index", "import_module(f'casstore.{x}')", "may not import casstore.store"),
        ("casstore.storage.pack", "X = {'Index': 'casstore.catalog.index'}", "may not import casstore.catalog.index"),
        ("casstore", "X = {'main': 'casstore.cli.main'}", "may not import casstore.cli.main"),
        ("casstore.storage.files", "X = {'casstore.storage.pack': ('x',)}", "a cycle: "),
        ("casstore.storage.files", "from casstore.storage.pack import x", "a cycle: "),
        ("casstore.newroom", "", "casstore.newroom: has no place"),
        ("casstore.storage.files", "from casstore.storage.locks import Lock", "imports casstore.storage.locks upwards"),
        ("casstore.storage.new", "from casstore.storage import files", "imports casstore.storage.files upwards"),
        ("casstore.catalog.index", "from casstore.actions.gc import plan", "may not import casstore.actions.gc"),
    ],
)
def test_the_checker_finds_bad_imports(module: str, source: str, fault: str) -> None:
    faults = import_faults({**MADE_UP, module: source})
    assert any(fault in found for found in faults), faults


def test_the_checker_finds_private_names() -> None:
    source = "from casstore import Store, Secret"
    public = {"casstore": {"Store"}, "casstore.models": {"get"}}
    assert private_names({"casstore.cli.main": source}, public) == ["casstore.cli.main:1: Secret is no public name"]
    assert private_names({"casstore.store": source}, public) == []
    source = "from casstore.models import get, secret"
    assert private_names({"casstore.web": source}, public) == ["casstore.web:1: secret is no public name"]
    assert private_names({"casstore.models.calls": source}, public) == []


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.fsync(3)",
        "import os as system\nsystem.rename(a, b)",
        "from os import replace",
        "import fcntl\ndef f():\n    fcntl.flock(3, 2)",
        "import shutil\nshutil.copy2(a, b)",
        "f(key=path.rename)",
        "path.with_suffix('.x').chmod(0o444)",
    ],
)
def test_the_checker_finds_file_calls(source: str) -> None:
    assert len(file_faults("casstore.actions.saving.save", source)) == 1
    assert file_faults("casstore.storage.files", source) == []


def test_the_checker_leaves_other_calls_alone() -> None:
    source = "import os\nfrom casstore.storage import files\nfiles.rename(a, b)\n'a'.replace('b', 'c')\nos.stat(a)"
    assert file_faults("casstore.actions.saving.save", source) == []


@pytest.mark.parametrize(
    "source",
    [
        "x = 'SELECT name FROM versions'",
        "x = f'''\n  INSERT OR IGNORE INTO chunks VALUES ({y})'''",
        "x = f'DELETE FROM {table}'",
        "run('PRAGMA user_version')",
        "run('BEGIN IMMEDIATE')",
        "import apsw",
        "from sqlite3 import connect",
    ],
)
def test_the_checker_finds_sql(source: str) -> None:
    assert len(sql_faults("casstore.actions.saving.save", source)) == 1
    assert sql_faults("casstore.catalog.index", source) == []


def test_the_checker_knows_prose_from_sql() -> None:
    source = '"""INSERT INTO a table."""\nx = "select a model from the store, update it, delete from disk"'
    assert sql_faults("casstore.actions.saving.save", source) == []
