"""Pages link to figures in benchmarks/results, as in the repository; the site has copies of these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

FOLDER = "benchmarks/results"
ROOT = Path(__file__).parents[2]


def on_files(files: Files, config: Any) -> Files:
    for path in sorted((ROOT / FOLDER).glob("*.json")):
        files.append(File(f"{FOLDER}/{path.name}", str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace(f"](../{FOLDER}/", f"]({FOLDER}/")
