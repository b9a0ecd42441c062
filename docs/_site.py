"""A MkDocs hook: what the documentation links outside of `docs/` becomes part of the site.

So a link is written once, as a forge needs it, relative to the file that it stands in:
Markdown becomes a page, anything else a file to read, both at the path that they have in
the repository. Links into `docs/` from there are turned the other way.
"""

from __future__ import annotations

import os.path
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)(?=[)#])")
_DOCS = "docs/"


def _path(uri: str) -> str:
    """Return where a file of the site is in the repository."""
    return _DOCS + uri if (_ROOT / _DOCS / uri).exists() else uri


def _linked(path: str) -> list[str]:
    """Return the paths in the repository that a Markdown file of it links to."""
    text = (_ROOT / path).read_text("utf-8")
    return [os.path.normpath(Path(path).parent / link) for link in _LINK.findall(text)]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is linked, directly or from a page that was added."""
    waiting = [_path(file.src_uri) for file in files.documentation_pages()]
    while waiting:
        for path in _linked(waiting.pop()):
            outside = not path.startswith((_DOCS, "..")) and files.get_file_from_path(path) is None
            if outside and (_ROOT / path).is_file():
                level = InclusionLevel.NOT_IN_NAV  # unless it is named there
                source = str(_ROOT / path)
                files.append(File.generated(config, path, abs_src_path=source, inclusion=level))
                if path.endswith(".md"):
                    waiting.append(path)
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links between `docs/` and the rest of the repository to where the site has both."""
    here = Path(_path(page.file.src_uri)).parent

    def turned(match: re.Match[str]) -> str:
        target = os.path.normpath(here / match[1])
        return os.path.relpath(target.removeprefix(_DOCS), Path(page.file.src_uri).parent)

    return _LINK.sub(turned, markdown)
