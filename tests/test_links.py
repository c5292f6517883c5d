"""Every relative link and every #anchor in the pages and notebooks resolves; no network is used."""

import json
import pathlib
import re
import urllib.parse

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LINK = re.compile(r"\]\(\s*<?([^()\s<>]+(?:\([^()\s]*\))?)>?(?:\s+\"[^\"]*\")?\s*\)")
DEFINITION = re.compile(r"^ {0,3}\[[^\]^]+\]:\s*(\S+)", re.MULTILINE)
HTML = re.compile(r"<(?:a|img)\b[^>]*?\b(?:href|src)=[\"']([^\"']+)[\"']")


def pages():
  """The Markdown files and notebooks of the repository."""
  found = list(ROOT.glob("*.md"))
  for folder in ("cscjax", "experiments", "tests"):
    found += [p for p in (ROOT / folder).rglob("*") if p.suffix in (".md", ".ipynb")]
  return sorted(path for path in found if ".ipynb_checkpoints" not in path.parts)


def markdown(path):
  """The text of a page, or of the Markdown cells of a notebook, without code."""
  text = path.read_text(encoding="utf-8")
  if path.suffix == ".ipynb":
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells)
  text = re.sub(r"^ {0,3}(```+|~~~+).*?^ {0,3}\1", "", text, flags=re.MULTILINE | re.DOTALL)
  return re.sub(r"(?<=\n\n)(?: {4}.*\n+)+", "\n", text)


def anchors(path):
  """The anchors that GitHub gives to the headings of a page, and explicit ones."""
  text, found = markdown(path), set()
  for heading in re.findall(r"^ {0,3}#{1,6}\s+(.*?)\s*#*\s*$", text, re.MULTILINE):
    shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)  # a link counts by its text
    slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
    number = 0
    while (unique := f"{slug}-{number}" if number else slug) in found:
      number += 1
    found.add(unique)
  return found | set(re.findall(r"<[^>]+\b(?:id|name)=[\"']([^\"']+)[\"']", text))


def broken(path, root=ROOT):
  """The links of a page that lead nowhere, or out of the repository."""
  text = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", lambda m: "`" * len(m[0]), markdown(path), flags=re.DOTALL)
  for link in [m for pattern in (LINK, DEFINITION, HTML) for m in pattern.findall(text)]:
    url = urllib.parse.urlsplit(link)
    if url.scheme or url.netloc:
      continue
    target = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
    if not target.exists() or not target.is_relative_to(root):
      yield link
    elif url.fragment and (
      target.suffix not in (".md", ".ipynb") or url.fragment not in anchors(target)
    ):
      yield link


@pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links(path):
  assert list(broken(path)) == []


def test_there_are_pages():
  names = {str(path.relative_to(ROOT)) for path in pages()}
  assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "experiments/README.md"} <= names


PAGE = """\
# A page: its `code`, and more!

## Again
## Again
## [Linked](other.md) heading

{}
"""


@pytest.mark.parametrize(
  "link",
  [
    "[no file](none.md)",
    "![no picture](none.png)",
    "[no file [in brackets]](none.md)",
    "[![a badge](none.svg)](other.md)",
    "[no anchor](#nowhere)",
    "[no anchor](other.md#nowhere)",
    "[no third](#again-2)",
    "[not that of a page](other.txt#again)",
    "[outside](../outside.md)",
    "[by name][1]\n\n[1]: none.md",
    '<a href="none.md">none</a>',
    "[in code](#comment)\n\n```\n# comment\n```",
  ],
)
def test_finds_a_broken_one(link, tmp_path):
  root = tmp_path / "root"
  root.mkdir()
  for name in ("root/other.md", "root/other.txt", "outside.md"):
    (tmp_path / name).write_text("# Other\n")
  (root / "page.md").write_text(PAGE.format(link))
  assert len(list(broken(root / "page.md", root))) == 1


@pytest.mark.parametrize(
  "link",
  [
    "[a file](other.md), [a folder](.), [its heading](other.md#other)",
    "[headings](#a-page-its-code-and-more) [twice](#again-1) [linked](#linked-heading)",
    "[elsewhere](https://example.org/none.md) and [mail](mailto:a@example.org)",
    "`[code](none.md)` and\n\n```\n[code](none.md)\n```\n\n    [code](none.md)\n",
    '[a title](other.md "none.md") and [a space](with%20space.md)',
    '<span id="here"></span>[here](#here)',
  ],
)
def test_accepts_a_good_one(link, tmp_path):
  for name in ("other.md", "with space.md"):
    (tmp_path / name).write_text("# Other\n")
  (tmp_path / "page.md").write_text(PAGE.format(link))
  assert list(broken(tmp_path / "page.md", tmp_path)) == []


def test_finds_one_in_a_notebook(tmp_path):
  cells = [
    {"cell_type": "markdown", "source": ["# Title\n", "[good](#title) [bad](none.md)"]},
    {"cell_type": "code", "source": ["# [not a link](none.md)"]},
  ]
  (tmp_path / "notebook.ipynb").write_text(json.dumps({"cells": cells}))
  assert list(broken(tmp_path / "notebook.ipynb", tmp_path)) == ["none.md"]
