"""Documentation runs: every snippet as a program of its own, and pages show what the files and the code say."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import veldt.data

ROOT = Path(__file__).parents[2]
SNIPPETS = sorted((ROOT / "docs" / "snippets").glob("*.py"))
PAGES = sorted((ROOT / "docs").glob("*.md"))

PRINTS = {
    "replay.py": "next_obs [32, 4] discounts [0.0, 0.9703]",
    "custom_env.py": "episodes end",
    "custom_network.py": "return ",
    "train_api.py": "actions (3,)",
}
"""Something that each snippet prints."""


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What a snippet prints, run once as a program of its own in an empty folder."""

    @cache
    def run(name: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-W", "error::RuntimeWarning", str(ROOT / "docs" / "snippets" / name)],
            cwd=tmp_path_factory.mktemp("snippet"),
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    return run


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda path: path.name)
def test_a_snippet_runs(snippet, printed):
    assert PRINTS[snippet.name] in printed(snippet.name)


def test_what_the_page_on_replay_says_is_printed_is_printed(printed):
    assert f"```text\n{printed('replay.py')}```" in (ROOT / "docs" / "replay.md").read_text()


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda path: path.name)
def test_a_snippet_says_what_it_shows(snippet):
    assert ast.get_docstring(ast.parse(snippet.read_text()))


def test_replay_needs_nothing_but_replay():
    """The snippet on replay imports no agent, environment, part or runtime of Veldt."""
    tree = ast.parse((ROOT / "docs" / "snippets" / "replay.py").read_text())
    modules = {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert all(module == "veldt.data" or module.startswith("veldt.replay.") for module in modules)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda path: path.name)
def test_pages_show_what_the_code_says(page):
    text = page.read_text()
    assert generator().fresh(text) == text, "run: python docs/generate.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_fenced_program_in_docs_is_a_snippet(page):
    blocks = page.read_text().split("```python\n")[1:]
    shown = [block.partition("```")[0] for block in blocks]
    assert all(block in {path.read_text() for path in SNIPPETS} for block in shown)


def test_the_worked_rows_are_those_of_the_code():
    assert veldt.data.__doc__ is not None
    rows = veldt.data.__doc__.partition("    row       0")[2].partition("\n\n")[0]
    rows = ("row       0" + rows).replace("\n    ", "\n")
    assert f"```text\n{rows}\n```" in (ROOT / "docs" / "architecture.md").read_text()
