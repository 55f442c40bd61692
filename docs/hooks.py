"""What happens to the pages as the site is built: examples run, pictures are drawn, formulas become MathML."""

import doctest
import html
import re
import sys
from pathlib import Path
from typing import Any

import latex2mathml.converter
from griffe import Extension
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

HERE = Path(__file__).parent
BORROWED = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
EXAMPLE = re.compile(r"^>>> .*?(?=\n\n|\Z)", re.DOTALL | re.MULTILINE)  # in a docstring, up to an empty line


def run(text: str, where: str) -> None:
    """Run the examples in a text; one that prints something else than it says ends the build."""
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    if runner.run(doctest.DocTestParser().get_doctest(text, {}, where, where, 0), out=said.append).failed:
        raise PluginError("".join(said))


class Docstrings(Extension):
    """Run the examples in docstrings, and show them as code."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Do so for a module, a class or a function."""
        if not obj.is_alias and obj.docstring:
            run(obj.docstring.value, obj.path)
            obj.docstring.value = EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)


def on_files(files: Any, config: Any) -> Any:
    """Add the pictures, and the pages that stand beside this folder, linked to as pages of the site."""
    sys.path.insert(0, str(HERE))
    import pictures  # noqa: PLC0415 - found by the line above

    for name, page in BORROWED.items():
        text = (HERE.parent / name).read_text()
        for old, new in (*BORROWED.items(), ("docs/", "")):
            text = text.replace(f"]({old}", f"]({new}")
        files.append(File.generated(config, page, content=text))
    for name, drawn in pictures.draw():
        files.append(File.generated(config, f"pictures/{name}.svg", content=drawn))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Run the page's examples, and show them as what is typed at a prompt."""
    run(markdown, page.file.src_uri)
    return markdown.replace("```python\n>>> ", "```pycon\n>>> ")


def on_page_content(content: str, **_: Any) -> str:
    """Turn formulas into MathML, with no space beside the bars of a length."""

    def converted(found: re.Match[str]) -> str:
        shown = {"span": "inline", "div": "block"}[found[1]]
        formula = latex2mathml.converter.convert(html.unescape(found[2]), display=shown)
        formula = re.sub(r"<mo[^>]*>(&#x0007C;|\|)</mo>", r'<mo stretchy="false" lspace="0" rspace="0">|</mo>', formula)
        return f'<{found[1]} class="arithmatex">{formula}</{found[1]}>'

    return FORMULA.sub(converted, content)
