"""Adds pages of the repository to the docs site; a hook that mkdocs.yml names.

Links keep the form in which they work in the repository; here they become links of the site.
"""

import re
from pathlib import Path
from posixpath import dirname, join, normpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "start.md", "training/README.md": "training.md", "CONTRIBUTING.md": "contributing.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make the page's links those of the site."""
    sources = {place: source for source, place in PAGES.items()}
    return site_links(markdown, sources.get(page.file.src_uri, f"docs/{page.file.src_uri}"))


def site_links(text: str, source: str) -> str:
    """The text of a file of the repository with its links as those of the site.

    A link to a file that the site lacks becomes its words. One to a file that does not exist stays, for MkDocs to
    report.
    """

    def rewritten(link: re.Match[str]) -> str:
        target = normpath(join(dirname(source), link[3]))
        if target not in PAGES and not target.startswith("docs/"):
            return link[2] if (ROOT / target).exists() else link[0]
        return f"{link[1]}[{link[2]}]({PAGES.get(target, target.removeprefix('docs/'))}{link[4] or ''})"

    return LINK.sub(rewritten, text)
