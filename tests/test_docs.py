"""The documentation is whole: nothing is left out, links lead somewhere, and what the pages call is there."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import jaxgd
from jaxgd.solvers.registry import METHODS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
PEERS = {"optax": "optax", "optx": "optimistix", "jaxopt": "jaxopt", "torch": "torch", "jax": "jax"}
CODE = re.compile(r"`([^`\n]+)`")


def name(path):
    return path.relative_to(DOCS).as_posix()


def read(page):
    """The text of a page, or of the file beside the folder that it includes."""
    text = (DOCS / page).read_text()
    included = re.match(r"```\{include\} \.\./(\S+)", text)
    return (ROOT / included[1]).read_text() if included else text


def prose(page):
    return re.sub(r"```.*?```", "", read(page), flags=re.DOTALL)


def anchors(page):
    titles = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def test_every_page_is_in_the_navigation():
    found = {}
    lists = (DOCS / "conf.py").read_text().split("\nTASKS = ")[1].split("\nproject = ")[0]
    exec(f"TASKS = {lists}", found)  # noqa: S102 - our own, without what it needs of Sphinx
    entries = [entry for entries in found["NAVIGATION"].values() for entry in entries]
    listed = [re.sub(r".*<(.+)>", r"\1", entry).replace("self", "index") + ".md" for entry in entries]
    assert sorted(listed) == sorted(map(name, PAGES))


def test_every_status_has_its_cause_and_remedy():
    rows = re.findall(r"^\| `([A-Z_]+)` \|([^|]+)\|", prose("statuses.md"), flags=re.MULTILINE)
    assert sorted(status for status, _ in rows) == sorted(status.name for status in jaxgd.Status)
    success = prose("statuses.md").split("## Not converged")[0]
    for status in jaxgd.Status:
        assert (f"| `{status.name}` |" in success) == status.converged


def test_every_method_is_explained():
    text = read("methods.md")
    assert [method for method in METHODS if f'"{method}"' not in text] == []
    classes = "LevenbergMarquardt GradientDescent SampledNewton NewtonCG Newton ProjectedLBFGS LBFGS BFGS FISTA"
    for each in [*classes.split(), "ConjugateGradient", "BarzilaiBorwein", "SteepestDescent"]:
        assert f"`{each}(" in text


def test_every_public_name_is_in_the_reference():
    named = set(re.findall(r"^\.\. [\w:]+:: jaxgd\.(\w+)", read("reference.md"), flags=re.MULTILINE))
    assert named == {*jaxgd.__all__, "scipy"}  # which is imported where it is asked for


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_lead_somewhere(path):
    pages = {*map(name, PAGES)}
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(name(path))):
        if "://" in target:
            continue
        place, _, anchor = target.partition("#")
        found = (path.parent / place).resolve().relative_to(DOCS).as_posix() if place else name(path)
        if place.endswith(".svg"):
            assert f"def {Path(place).stem}(" in (DOCS / "pictures.py").read_text()
        else:
            assert found in pages, target
            assert not anchor or anchor in anchors(found), target


@pytest.mark.filterwarnings("ignore")  # what peers say when they are imported
@pytest.mark.parametrize("path", PAGES, ids=name)
def test_what_is_called_is_there(path):
    """Calls in tables and in the text name functions, options and peers that exist; the examples run anyway."""
    for code in CODE.findall(prose(name(path))):
        for dotted in re.findall(r"(?<![\w.])jaxgd(?:\.\w+)+", code):
            assert resolves(dotted), code
        for call in calls(code):
            assert not options(call) - known(call), code
        for alias, package in PEERS.items():
            for dotted in re.findall(rf"(?<![\w.]){alias}(?:\.\w+)+", code):
                try:
                    importlib.import_module(package)
                except ImportError:
                    continue
                assert resolves(dotted.replace(alias, package, 1)), code


def resolves(dotted):
    """Whether a dotted name leads to something, modules on the way imported."""
    found, path = None, ""
    for part in dotted.split("."):
        path = f"{path}.{part}" if path else part
        if found is None or not hasattr(found, part):
            try:
                found = importlib.import_module(path)
            except ImportError:
                return False
        else:
            found = getattr(found, part)
    return True


def calls(code):
    """The calls of this package in a piece of code, if it is one."""
    try:
        tree = ast.parse(code, mode="eval")
    except SyntaxError:
        try:
            tree = ast.parse(f"f({code})", mode="eval")
        except SyntaxError:
            return []
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    return [node for node in found if isinstance(node.func.value, ast.Name) and node.func.value.id == "jaxgd"]


def options(call):
    return {keyword.arg for keyword in call.keywords if keyword.arg}


def known(call):
    """The options of what is called; those of `minimize` go through the other fronts."""
    front = {"minimize", "minimize_many", "maximize", "least_squares"}
    own = set(inspect.signature(getattr(jaxgd, call.func.attr)).parameters)
    return own | set(inspect.signature(jaxgd.minimize).parameters) if call.func.attr in front else own
