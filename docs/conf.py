"""How Sphinx makes a site of the pages: `python -m sphinx -W -E docs site`."""

import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import pictures  # noqa: E402 - found by the line above

TASKS = "line logistic oscillation gamma decays groups network ridge huber resume"
GUIDES = "one-fit many-fits tables big-data gpu bounds uncertainty derivatives pictures resume shell compiling trust"
PEERS = {
    "SciPy": "scipy",
    "lmfit": "lmfit",
    "jax.scipy.optimize": "jax-scipy",
    "jaxopt": "jaxopt",
    "optax": "optax",
    "optimistix": "optimistix",
    "scikit-learn": "scikit-learn",
    "PyTorch": "torch",
}
NAVIGATION = {
    "First": ["Start here <self>", "The textbook's chapter <chapter>"],
    "Tasks": [f"tasks/{page}" for page in TASKS.split()],
    "Guides": [f"guides/{page}" for page in GUIDES.split()],
    "Coming from": [f"{peer} <coming-from/{page}>" for peer, page in PEERS.items()],
    "What it means": ["statuses", "stopping", "methods", "measured", "when-not-gpu"],
    "The library": ["reference", "contributing", "changelog"],
}

project = html_title = "jaxgd"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
smartquotes_action = "D"  # dashes alone: quotes in the text are those of code
default_role = "py:obj"  # what docstrings have in backticks is code, and a link if it is in the reference
add_module_names = False
python_maximum_signature_line_length = 100
autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"
highlight_language = "none"
highlight_options = {"python": {"stripnl": True}}  # the empty line that ends an example
copybutton_exclude = ".gp, .go"  # what is copied of an example is what was typed
html_theme = "furo"
pygments_dark_style = "github-dark"
html_theme_options = {"dark_css_variables": {"picture-filter": "invert(0.92) hue-rotate(180deg)"}}
html_static_path = html_css_files = ["extra.css"]
html_show_copyright = html_show_sourcelink = html_copy_source = html_use_index = html_domain_indices = False
html_math_renderer = "mathml"


def add_navigation(_: Any, page: str, source: list[str]) -> None:
    """Add the site's navigation to the home page, which stays plain Markdown elsewhere."""
    for caption, pages in NAVIGATION.items() if page == "index" else ():
        source[0] += "\n".join(["\n```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```\n"])


def write_formula(translator: Any, node: nodes.math | nodes.math_block) -> None:
    """Write a formula as MathML, which browsers show unaided, with no space beside the bars of a length."""
    block = isinstance(node, nodes.math_block)
    formula = tex2mathml(node.astext(), as_block=block)
    formula = formula.replace(">|</mo>", ' lspace="0" rspace="0">|</mo>')
    translator.body.append(f'<div class="math">{formula}</div>' if block else formula)
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Draw the pictures, and tell Sphinx of the functions above."""
    (HERE / "pictures").mkdir(exist_ok=True)
    for name, drawn in pictures.draw():
        (HERE / "pictures" / f"{name}.svg").write_bytes(drawn)
    app.connect("source-read", add_navigation)
    app.add_html_math_renderer("mathml", (write_formula, None), (write_formula, None))
