"""Hooks of MkDocs: pages may link to what lies beside docs/, and the site takes it along."""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

BESIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/results/*", "notebooks/*.ipynb")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them, at the same path below the site's root."""
    root = Path(config.config_file_path).parent
    for path in (path for pattern in BESIDE for path in sorted(root.glob(pattern))):
        files.append(File.generated(config, path.relative_to(root).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links that leave docs/ are one folder shorter on the site; those into docs/ too."""
    up = "../" * page.file.src_uri.count("/")
    return markdown.replace(f"]({up}../", f"]({up}").replace("](docs/", "](")


def on_page_content(html: str, **_: Any) -> str:
    """What click prints in columns stays in columns."""
    return re.sub(r"<p>([^<]*\S {3,}\S[^<]*)</p>", r"<pre><code>  \1</code></pre>", html)
