"""What happens to the pages as the site is built: examples run, pictures are drawn, formulas become MathML."""

import doctest
import html
import re
import sys
from pathlib import Path
from typing import Any

import latex2mathml.converter
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

HERE = Path(__file__).parent
BORROWED = {"README.md": "tour.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


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
    said: list[str] = []
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    test = doctest.DocTestParser().get_doctest(markdown, {}, page.file.src_uri, page.file.src_uri, 0)
    if doctest.DocTestRunner(optionflags=flags).run(test, out=said.append).failed:
        raise PluginError("".join(said))
    return markdown.replace("```python\n>>> ", "```pycon\n>>> ")


def on_page_content(content: str, **_: Any) -> str:
    """Turn formulas into MathML."""

    def converted(found: re.Match[str]) -> str:
        kind = "block" if found[1] == "div" else "inline"
        return f'<{found[1]} class="arithmatex">{latex2mathml.converter.convert(html.unescape(found[2]), display=kind)}</{found[1]}>'

    return FORMULA.sub(converted, content)
