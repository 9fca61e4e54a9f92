"""Pages link to files outside docs/ as in the repository; the site has copies of these files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

RESULTS = "benchmarks/results"
ROOT = Path(__file__).parents[2]
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}
"""Files at the root by the pages that the site makes of them."""


def on_files(files: Files, config: Any) -> Files:
    for path in sorted((ROOT / RESULTS).glob("*.json")):
        files.append(File(f"{RESULTS}/{path.name}", str(ROOT), config.site_dir, config.use_directory_urls))
    for name, page in PAGES.items():
        text = (ROOT / name).read_text().replace("](docs/", "](")
        for other, target in PAGES.items():
            text = text.replace(f"]({other}", f"]({target}")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    markdown = markdown.replace(f"](../{RESULTS}/", f"]({RESULTS}/")
    for name, page in PAGES.items():
        markdown = markdown.replace(f"../{name}", page)
    return markdown
