"""What the README and the documentation tell people to type exists, and what they link to is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import tyro

import veldt
from veldt import cli, demonstrate, flags
from veldt.systems import SYSTEMS, find

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted((ROOT / "docs").glob("*.md"))


def commands(page: Path) -> list[str]:
    """Indented lines and spans of code that start with a command, without comments and without settings of the shell."""
    lines = re.findall(r"^(?:next:)? +(.+)$|`([^`\n]+)`", page.read_text(), re.MULTILINE)
    bare = [re.sub(r"^(\w+=\S* )+", "", indented or span).partition(" #")[0].strip() for indented, span in lines]
    return [line for line in bare if re.match(r"(veldt|make) [a-z-]", line)]


ALL = sorted({command for page in PAGES for command in commands(page)})
TRAIN = [command for command in ALL if command.startswith("veldt train ") and "..." not in command and "ENV" not in command]


def test_the_readme_begins_with_the_two_commands():
    found = re.findall(r"^ {4}(\S.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert found[:2] == ["make train", "make test"]


@pytest.mark.parametrize("command", TRAIN)
def test_a_training_command_is_understood(command):
    words = shlex.split(command)[2:]
    positional = [] if words[0].startswith("--") else words[:2]
    system = find(positional[0]) if positional else find("dqn")
    start, values = flags.parse(system, words[len(positional) :])
    assert bool(positional) == (start.resume is None)
    veldt.settings.split(values, (system.config, veldt.RunOptions, veldt.EnvOptions))


@pytest.mark.parametrize("command", [command for command in ALL if command.startswith("veldt chaos ") and "ENV" not in command])
def test_a_command_of_chaos_is_understood(command):
    _, values = flags.parse(find(shlex.split(command)[2]), shlex.split(command)[4:], flags.Chaos)
    assert "steps" in values


@pytest.mark.parametrize("command", [command for command in ALL if re.match("veldt (eval|check-env|doctor) ?[^ ]", command)])
def test_another_command_is_understood(command):
    name, *words = shlex.split(command)[1:]
    shape = {"eval": cli.EvalFlags, "check-env": cli.CheckFlags, "doctor": cli.DoctorFlags}[name]
    tyro.cli(shape, args=words)


@pytest.mark.parametrize(
    "command", [command for command in ALL if re.match("veldt demos [a-z]", command) and "..." not in command]
)
def test_a_command_for_demonstrations_is_understood(command):
    if "ENV" not in command:
        name, *words = shlex.split(command)[2:]
        demonstrate.parse(name, words)


def test_every_command_is_one_that_veldt_has():
    names = {command.split()[1] for command in ALL if command.startswith("veldt ")}
    assert names <= set(re.findall(r"^  veldt (\S+)", cli.USAGE, re.MULTILINE))
    assert "train" in names


def test_every_target_is_in_the_makefile():
    targets = set(re.findall(r"^([a-z.][a-z./-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {command.split()[1] for command in ALL if command.startswith("make ")} <= targets


def test_the_command_of_make_train_is_understood():
    words = re.findall(r"veldt train (.+)", (ROOT / "Makefile").read_text())[0].split()
    _, values = flags.parse(find(words[0]), words[2:])
    assert values["steps"] == 50_000


def mentioned_flags() -> list[str]:
    text = (ROOT / "README.md").read_text() + "".join(page.read_text() for page in PAGES)
    return sorted(set(re.findall(r"`--([a-z-]+)", text)))


@pytest.mark.parametrize("flag", mentioned_flags())
def test_a_flag_in_the_text_exists(flag):
    configs = (system.config for system in SYSTEMS.values())
    shapes = (flags.Start, flags.Chaos, *demonstrate.SHAPES.values(), *configs, veldt.RunOptions, veldt.EnvOptions)
    known = {name for shape in shapes for name in shape.__dataclass_fields__} | {"help", "help_all"}
    name = flag.replace("-", "_")
    assert name in known or name.removeprefix("no_") in known


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_the_public_names_used_in_the_readme_exist():
    names = set(re.findall(r"veldt\.(\w+)", (ROOT / "README.md").read_text()))
    assert names <= set(veldt.__all__)


def test_the_versions_are_exact_and_of_no_machine():
    for name in ("constraints.txt", "bench/constraints.txt"):
        lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line) for line in lines)
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().splitlines()


def test_every_direct_dependency_is_pinned():
    project = (ROOT / "pyproject.toml").read_text()
    wanted = {name.lower().replace("_", "-") for name in re.findall(r'"([A-Za-z][\w-]*)(?:\[\w+\])?>=', project)}
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert wanted - pinned == {"envpool"}  # an extra that make does not install
