"""Pages link to files outside docs/ as in the repository; the site has copies of these files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

RESULTS = "benchmarks/results"
ROOT = Path(__file__).parents[2]
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "examples/README.md": "examples.md",
}
"""Files of the repository by the pages that the site makes of them."""
COPIED = (f"{RESULTS}/*.json", "examples/**/*.py")
"""Files that the site has as they are."""


def on_files(files: Files, config: Any) -> Files:
    for path in sorted(file for pattern in COPIED for file in ROOT.glob(pattern)):
        name = path.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    for name, page in PAGES.items():
        text = (ROOT / name).read_text().replace("](docs/", "](")
        if name.startswith("examples/"):
            text = re.sub(r"\]\((?=[\w/]+\.py\))", "](examples/", text)
        for other, target in PAGES.items():
            text = text.replace(f"]({other}", f"]({target}")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    for folder in (RESULTS, "examples/custom_family"):
        markdown = markdown.replace(f"](../{folder}/", f"]({folder}/")
    for name, page in PAGES.items():
        markdown = markdown.replace(f"../{name}", page)
    return markdown
