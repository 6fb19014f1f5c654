"""Puts the site's pages together in build/docs, and builds the site in build/site; a warning fails it.

The documents' links lead from file to file of the repository, and are good there. On the site the README is the home page,
the other pages of the root are beside it, and the examples are sections of one page: links to these are rewritten.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "build" / "docs"
SITE = ROOT / "build" / "site"
EXAMPLES = Path("examples")
#: Of the root: what becomes a page or a file of the site, and where.
AT_ROOT = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "ARCHITECTURE.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "LICENSE": "LICENSE.txt",
    "STYLE.md": "STYLE.md",
}
#: What a page would fetch from elsewhere.
ELSEWHERE = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")


def place_of(source: Path) -> str:
    """Return where the site has a file of the repository, with its anchor. Raises ValueError if it does not have it."""
    if str(source) in AT_ROOT:
        return AT_ROOT[str(source)]
    if source == EXAMPLES:
        return "examples.md"
    if source.parent == EXAMPLES:
        return f"examples.md#{source.stem}"
    if source.parts[0] == "docs" and (ROOT / source).is_file():
        return str(source.relative_to("docs"))
    raise ValueError(f"the site has no {source}: link to a page, an example, or what scripts/docs_site.py puts there")


def rewritten(source: Path, page: Path) -> str:
    """Return the text of a document, with links from the page that it becomes."""

    def link(found: re.Match[str]) -> str:
        target = Path(os.path.normpath(source.parent / found[1]))
        place, _, anchor = place_of(target).partition("#")
        return f"{os.path.relpath(place, page.parent)}{f'#{anchor}' if anchor else found[2] or ''}"

    parts = re.split(r"(^```.*?^```$)", (ROOT / source).read_text(), flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)


def examples() -> str:
    """Return the page of the examples: of each what its file says it is, and its source."""
    sections = ["# Examples\n\nEach is a file of the repository's `examples`, and runs as it is.\n"]
    for path in sorted((ROOT / EXAMPLES).glob("*.py")):
        source = path.read_text()
        tree = ast.parse(source)
        rest = source.split('"""', 2)[2].lstrip("\n")
        sections.append(f"\n## {path.stem} {{ #{path.stem} }}\n\n{ast.get_docstring(tree)}\n\n```python\n{rest}```\n")
    return "".join(sections)


def assemble() -> None:
    """Write all pages anew."""
    shutil.rmtree(PAGES, ignore_errors=True)
    sources = [Path(name) for name in AT_ROOT] + [path.relative_to(ROOT) for path in sorted((ROOT / "docs").rglob("*.md"))]
    for source in sources:
        page = Path(place_of(source))
        (PAGES / page).parent.mkdir(parents=True, exist_ok=True)
        (PAGES / page).write_text(rewritten(source, page) if source.suffix == ".md" else (ROOT / source).read_text())
    (PAGES / "examples.md").write_text(examples())


def main() -> int:
    """Build the site; returns the exit code."""
    try:
        assemble()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    build = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    code = subprocess.run(build, cwd=ROOT, check=False).returncode
    fetched = {found for page in SITE.rglob("*.html") for found in ELSEWHERE.findall(page.read_text())} if code == 0 else set()
    for tag in sorted(fetched):
        print(f"a page would fetch from elsewhere: {tag}; the site works without a network", file=sys.stderr)
    return code or (1 if fetched else 0)


if __name__ == "__main__":
    sys.exit(main())
