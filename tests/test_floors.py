"""The house: imports go down, the public names are few, files and functions are short."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

import jaxgd

ROOT = Path(jaxgd.__file__).parent
# Each wing imports from those before it alone; two in one row do not know each other.
WINGS = [
    {"core"},
    {"solvers"},
    {"data"},
    {"compile"},
    {"history", "losses"},
    {"result"},
    {"watch"},
    {"rows", "lanes"},
    {"uncertainty"},
    {"dispatch"},
    {"api"},
    {"plot", "scipy"},
    {"__init__"},
    {"cli"},
    {"__main__"},
]
FILES = sorted(path for path in ROOT.rglob("*.py") if path.read_text().strip())


def module(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {module(path) for path in FILES}


def wing(name):
    return name.split(".")[0]


def imports(path):
    """The modules of this package that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxgd"):
            base = node.module.removeprefix("jaxgd").lstrip(".")
            for alias in node.names:
                below = f"{base}.{alias.name}".lstrip(".")
                found.add(below if below in NAMES else base or "__init__")
        elif isinstance(node, ast.Import):
            found |= {"__init__" for alias in node.names if alias.name == "jaxgd"}
    return found


def test_every_file_is_in_a_wing():
    assert {wing(name) for name in NAMES} == set().union(*WINGS)
    assert len(list(ROOT.glob("*.py"))) <= 7


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_lead_to_the_wings_before(path):
    place = {name: i for i, names in enumerate(WINGS) for name in names}
    own = wing(module(path))
    assert all(wing(name) == own or place[wing(name)] < place[own] for name in imports(path))


def test_no_imports_in_a_circle():
    graph = {module(path): imports(path) for path in FILES}
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("path", FILES, ids=module)
def test_sizes(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            start = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0].lineno
            assert node.end_lineno - start < 50, node.name


def test_no_class_name_stands_twice():
    found = [node.name for path in FILES for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    assert sorted(set(found)) == sorted(found)


def test_public_names():
    public = {name for name, value in vars(jaxgd).items() if name[0] != "_" and not isinstance(value, ModuleType)}
    assert public | {"losses", "plot", "watch"} == set(jaxgd.__all__)
    assert len(jaxgd.__all__) <= 31
    assert all(getattr(jaxgd, name).__doc__ for name in jaxgd.__all__)


def test_import_brings_no_optional_package():
    code = "import jax, sys; before = set(sys.modules); import jaxgd; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    optional = {"pandas", "polars", "optax", "scipy", "matplotlib", "tqdm", "pyarrow", "narwhals", "playwright"}
    assert not {name.split(".")[0] for name in done.stdout.split()} & optional
