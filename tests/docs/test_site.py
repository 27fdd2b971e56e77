"""The documentation site builds without a warning, and needs nothing from the network to be read."""

import os
import re
import subprocess
import sys
from html import unescape

import pytest

from tests.helpers import ROOT

pytest.importorskip("material", reason="needs the docs extra")
pytest.importorskip("mkdocstrings", reason="needs the docs extra")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; a broken link or anchor, or a name that the API reference lacks, fails the build."""
    folder = tmp_path_factory.mktemp("site")
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={folder}"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr  # --quiet would leave nothing to count
    return folder


def pages(site):
    return {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}


def test_site_has_a_page_for_every_document(site):
    documents = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert documents <= {path.relative_to(site) for path in site.rglob("*.html")}
    assert {"index.html", "launch/index.html", "data/index.html", "data/pascal/index.html"} <= pages(site).keys()


def test_site_can_be_read_offline(site):
    for name, html in pages(site).items():
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"([^\"]+)", html)
        loaded += re.findall(r"<link[^>]*rel=\"(?:stylesheet|preconnect|icon)\"[^>]*", html)
        assert loaded and not [tag for tag in loaded if "//" in tag], name
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.findall(r"url\(\s*['\"]?(?:https?:)?//", styles) and "@import" not in styles


def test_site_breaks_commands_between_flags_and_keeps_them_as_they_are(site):
    start = pages(site)["index.html"]
    assert '<span class="flag">--overlay</span>=overlay.png' in start
    main = re.search(r"<!-- main command -->\n```\n(.+)\n", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert main and main[1] in unescape(re.sub(r"<[^>]+>", "", start))
    styles = (ROOT / "docs/stylesheets/extra.css").read_text(encoding="utf-8")
    assert re.search(r"pre > code \{[^}]*white-space: pre-wrap", styles)


def test_site_shows_files_of_the_repository_that_it_links_to(site):
    found = pages(site)
    assert "source/configs/tiny.py.html" in found["index.html"]
    shown = re.sub(r"<[^>]+>", "", found["source/configs/tiny.py.html"])
    assert "config.train_steps = 500" in shown


def test_site_leads_to_the_notebooks_from_its_start_page(site):
    found = pages(site)
    assert 'href="notebooks.html"' in found["index.html"]
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert f'href="source/notebooks/{path.name}.html"' in found["notebooks.html"], path.name


def test_site_reference_has_the_public_names(site):
    import ldis_jax
    from ldis_jax import evaluators, tasks

    html = pages(site)["api.html"]
    names = {*evaluators.__all__, *tasks.__all__, *ldis_jax.__all__, "Segmentation", "ClassSegmentation"}
    ids = set(re.findall(r'id="ldis_jax\.[\w.]*?(\w+)"', html))
    assert names - ids == {"__version__"}
    assert not re.search(r":(class|func|meth|mod|attr):", html)


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/*.md")), ids=lambda path: path.name)
def test_site_sources_indent_lists_in_lists_by_four_spaces(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    assert not re.findall(r"^ {1,3}(?:[*-]|\d+\.) .*", text, re.M)  # Python-Markdown would take it for the outer list
