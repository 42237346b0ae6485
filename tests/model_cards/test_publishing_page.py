"""The commands on docs/publishing.md are words that the commands take, and its messages those that they print."""

import re
import shlex
from argparse import ArgumentParser
from pathlib import Path

import pytest

from biovfm_hf.options import add_options, parse_options
from model_cards.card.command import CardOptions
from model_cards.demo.command import DemoOptions
from model_cards.hub.command import PushOptions
from model_cards.report.command import ReportOptions

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "publishing.md").read_text()
OPTIONS = {"card": CardOptions, "push": PushOptions, "report": ReportOptions, "demo": DemoOptions}


@pytest.mark.parametrize("line", re.findall(r"^    \$ biovfm (.*)$", PAGE, re.MULTILINE))
def test_its_commands_are_understood(line):
    command, *words = shlex.split(line)
    assert parse_options(ArgumentParser(), OPTIONS[command], words)


def test_its_options_exist():
    parsers = {command: ArgumentParser() for command in OPTIONS}
    for command, kind in OPTIONS.items():
        add_options(parsers[command], kind)
    known = " ".join(parser.format_help() for parser in parsers.values())
    named = set(re.findall(r"--[a-z][a-z-]+", PAGE)) - {"--protocol"}
    assert named and all(option in known for option in named)


def test_its_messages_are_those_of_the_code():
    folders = (ROOT / "biovfm_hf" / "hub", ROOT / "model_cards" / "hub")
    code = "".join(file.read_text() for folder in folders for file in sorted(folder.glob("*.py")))
    code = code.replace('"\n            f"', "")
    for message in re.findall(r"^\| `(.*?)`", PAGE, re.MULTILINE):
        pattern = r"[^`]*?".join(re.escape(part) for part in re.split(r"\bN\b|\bDIR\b|50", message))
        assert re.search(pattern, code), message
