"""The house: imports go down, the public names are few, files and functions are short."""

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import jaxgd

ROOT = Path(jaxgd.__file__).parent
FLOORS = [
    {
        "core.lapack",
        "core.flat",
        "closure",
        "losses",
        "core.terms",
        "core.linear_products",
        "cache",
        "arrays",
        "blocks",
        "columns",
        "trace",
        "saved",
        "spread",
    },
    {"inputs", "core.tiles", "tables", "added", "covariance", "asking"},
    {"core.problem", "sources"},
    {"traced", "frames"},
    {"mean"},
    {"core.convergence", "rows", "core.scaling"},
    {
        "core.stop",
        "solvers.search",
        "solvers.directions",
        "solvers.trail",
        "solvers.descent",
        "solvers.proximal",
        "solvers.optax",
        "solvers.region",
        "solvers.dense",
        "solvers.curvature",
        "solvers.memory",
        "solvers.sampled",
        "solvers.newton",
    },
    {"core.loop", "seen", "core.implicit"},
    {"core.status_text", "watch"},
    {"program", "result", "watching", "methods", "places"},
    {"prepare", "resume", "pool", "passes"},
    {"solve", "kept", "axes", "prepare_rows", "stream", "moments"},
    {"lanes", "batches"},
    {"many", "sweep"},
    {"known", "whole"},
    {"origin"},
    {"groups", "starts", "minibatch"},
    {"answer"},
    {"api"},
    {"plot.canvas", "plot.surface"},
    {"plot.curves"},
    {"plot.chapter", "plot.contours", "plot.page"},
    {"plot.census", "plot.profiles"},
    {"plot"},
    {"__init__"},
    {"shell.tips", "shell.loss", "shell.printed", "shell.outputs"},
    {"shell.arguments", "shell.arrays"},
    {"shell.columns"},
    {"shell.data"},
    {"shell.given", "shell.failed"},
    {"shell.command"},
    {"__main__"},
]
FILES = sorted(path for path in ROOT.rglob("*.py") if path.read_text().strip())


def module(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path):
    """The modules of this package that a file imports, as the floors name them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxgd"):
            base = node.module.removeprefix("jaxgd").lstrip(".")
            below = {f"{base}.{alias.name}".lstrip(".") for alias in node.names}
            found |= below if below <= set().union(*FLOORS) else {base}
        elif isinstance(node, ast.Import):
            found |= {"__init__" for alias in node.names if alias.name == "jaxgd"}
    return found


def test_every_file_has_a_floor():
    wings = {module(path) for path in FILES if path.name == "__init__.py"} - {"__init__", "plot"}
    assert {module(path) for path in FILES} - wings == set().union(*FLOORS)


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_go_down(path):
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    # A solver is made of its pieces: the imports within a floor.
    beside = {
        ("solvers.descent", "solvers.search"),
        ("solvers.descent", "solvers.directions"),
        ("solvers.descent", "solvers.trail"),
        ("solvers.directions", "solvers.search"),
        ("solvers.trail", "solvers.directions"),
        ("solvers.newton", "solvers.region"),
        ("solvers.optax", "solvers.proximal"),
        ("solvers.curvature", "solvers.region"),
        ("solvers.curvature", "solvers.dense"),
        ("solvers.dense", "solvers.region"),
        ("solvers.memory", "solvers.region"),
        ("solvers.memory", "core.stop"),
        ("solvers.directions", "core.stop"),
        ("solvers.descent", "core.stop"),
        ("solvers.trail", "core.stop"),
        ("solvers.newton", "core.stop"),
        ("solvers.newton", "solvers.memory"),
        ("solvers.newton", "solvers.curvature"),
        ("solvers.newton", "solvers.sampled"),
        ("solvers.sampled", "solvers.region"),
    }
    here = floor.get(module(path), 0)
    assert all(floor[name] < here or (module(path), name) in beside for name in imports(path))


@pytest.mark.parametrize("path", FILES, ids=module)
def test_sizes(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            start = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0].lineno
            assert node.end_lineno - start < 50, node.name


def test_public_names():
    public = {name for name, value in vars(jaxgd).items() if name[0] != "_" and not isinstance(value, ModuleType)}
    assert public | {"losses", "plot", "watch"} == set(jaxgd.__all__)
    assert len(jaxgd.__all__) <= 30
    assert all(getattr(jaxgd, name).__doc__ for name in jaxgd.__all__)


def test_import_brings_no_optional_package():
    code = "import jax, sys; before = set(sys.modules); import jaxgd; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    optional = {"pandas", "polars", "optax", "scipy", "matplotlib", "tqdm", "pyarrow", "narwhals", "playwright"}
    assert not {name.split(".")[0] for name in done.stdout.split()} & optional
