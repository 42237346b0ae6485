"""The commands on docs/publishing.md are words that the commands take, and its messages those that they print."""

import re
import shlex
from pathlib import Path

import pytest

from model_cards.card import command as card
from model_cards.demo import command as demo
from model_cards.hub import command as push
from model_cards.hub import files as hub_files
from model_cards.hub import retry as hub_calls
from model_cards.report import command as report

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "publishing.md").read_text()
PARSERS = {"card": card._parser(), "push": push._parser(), "report": report._parser(), "demo": demo._parser()}


@pytest.mark.parametrize("line", re.findall(r"^    \$ biovfm (.*)$", PAGE, re.MULTILINE))
def test_its_commands_are_understood(line):
    command, *words = shlex.split(line)
    PARSERS[command].parse_args(words)


def test_its_options_exist():
    known = " ".join(parser.format_help() for parser in PARSERS.values())
    named = set(re.findall(r"--[a-z][a-z-]+", PAGE)) - {"--protocol"}
    assert named and all(option in known for option in named)


def test_its_messages_are_those_of_the_code():
    code = "".join(Path(module.__file__).read_text() for module in (push, hub_calls, hub_files))
    code = code.replace('"\n            f"', "")
    for message in re.findall(r"^\| `(.*?)`", PAGE, re.MULTILINE):
        pattern = r"[^`]*?".join(re.escape(part) for part in re.split(r"\bN\b|\bDIR\b|50", message))
        assert re.search(pattern, code), message
