"""What the documentation site shows of the repository outside docs/; mkdocs.yml loads it as a hook.

Pages link to each other as files of the repository, so that they read the same there. A README elsewhere becomes a page
of its folder; a script, a config or a folder that a page links to becomes a page that shows it.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_FIRST = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
_ROLE = re.compile(r":[a-z]+:(?=<code>)")
_CELL_CODE = re.compile(r"(?<=<code>)[^<]+(?=</code>[^\n]*</td>)")
_BREAK = re.compile(r"(?<=[/_])(?=\w)|(?<=::)(?=\w)")
_FLAG = re.compile(r"(?<=\s)--?\w+(?=[^<]*</code></pre>)")  # of a command, which is not highlighted
_LANGUAGES = {".py": "python", ".sh": "bash", ".sbatch": "bash", ".yaml": "yaml", ".json": "json"}

_origins: dict[str, str] = {}  # page of the site -> path in the repository


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for everything that a page links to, and for what those link to."""
    root = Path(config.config_file_path).parent
    _origins.clear()
    _origins.update({file.src_uri: f"docs/{file.src_uri}" for file in files})
    todo = [(f"docs/{page.src_uri}", page.content_string) for page in files.documentation_pages()]

    def add(path: str) -> None:
        content = _content(root, path)
        file = File.generated(config, _uri(root, path), content=content)
        files.append(file)
        _origins[file.src_uri] = path
        todo.append((path, content))

    for path in _FIRST:
        add(path)
    while todo:
        page, text = todo.pop()
        for link, _ in _LINK.findall(text):
            path = _target(page, link)
            if path not in _origins.values() and (root / path).exists():
                add(path)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links between files of the repository into links between pages."""
    del files
    root, origin = Path(config.config_file_path).parent, _origins[page.file.src_uri]

    def replace(match: re.Match[str]) -> str:
        path = _target(origin, match[1])
        uri = path.removeprefix("docs/") if path.startswith("docs/") else _uri(root, path)
        if uri not in _origins:  # mkdocs says so
            return match[0]
        return posixpath.relpath(uri, posixpath.dirname(page.file.src_uri)) + (match[2] or "")

    return _LINK.sub(replace, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Shows names in docstrings, which stand there as for Sphinx, alone; lets long names in tables break, flags not."""
    del page, config, files
    html = _FLAG.sub(r'<span class="flag">\g<0></span>', html)
    return _CELL_CODE.sub(lambda match: _BREAK.sub("<wbr>", match[0]), _ROLE.sub("", html))


def _target(page: str, link: str) -> str:
    """The path in the repository that ``link`` means on the page of path ``page``."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def _uri(root: Path, path: str) -> str:
    if path.endswith("README.md"):
        return path.removesuffix("README.md") + "index.md"
    if path.endswith(".md"):
        return path
    return f"source/{path}/index.md" if (root / path).is_dir() else f"source/{path}.md"


def _content(root: Path, path: str) -> str:
    """The page's Markdown; its links are as in a file of that path."""
    file = root / path
    if file.suffix == ".md":
        return file.read_text(encoding="utf-8")
    title = f"---\nsearch:\n  exclude: true\nhide:\n  - toc\n---\n# {path}\n\n"
    if file.is_dir():
        names = sorted(child.name for child in file.iterdir() if child.is_file())
        return title + "\n".join(f"- [{name}]({file.name}/{name})" for name in names)
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".ipynb":
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
        return title + "\n\n".join(_code(text, "python") if kind == "code" else text for kind, text in cells)
    return title + _code(text, _LANGUAGES.get(file.suffix, "text"))


def _code(text: str, language: str) -> str:
    return f"~~~~{language}\n{text.rstrip()}\n~~~~"
