"""Options: the same checks from Python and from a command line, which is filled from the fields."""

import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest

from biovfm_hf.errors import OptionError, UserError
from biovfm_hf.options import CommandParser, argument, check_options, option, parse_options, required


@dataclass(frozen=True)
class Drawing:
    folders: tuple[Path, ...] = argument("folders to draw from", metavar="DIR")
    out: Path = required("the file to write")
    count: int = option(500, "how many", least=1, most=1000)
    weight: float | None = option(None, "their weight", above=0)
    mode: str = option("fast", "how", choices=("fast", "slow"))
    tags: tuple[str, ...] = option((), "tags, each with a --tags of its own")
    loud: bool = option(False, "say more")

    def __post_init__(self) -> None:
        check_options(self)


def parsed(*words):
    return parse_options(CommandParser("draw"), Drawing, words)


def test_the_command_line_fills_the_fields():
    options = parsed("a", "b", "--out", "c.png", "--tags", "x", "--tags", "y", "--loud", "--weight", "2")
    paths = (Path("a"), Path("b"))
    assert options == Drawing(paths, Path("c.png"), weight=2.0, tags=("x", "y"), loud=True)


def test_python_may_give_names_for_paths_and_lists_for_tuples():
    assert Drawing(["a"], out="c.png", weight=3) == parsed("a", "--out", "c.png", "--weight", "3")
    assert Drawing("a", out="c.png").folders == (Path("a"),)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("count", 0, "1 or more"),
        ("count", 1001, "1000 or less"),
        ("count", 2.5, "not of type int"),
        ("count", True, "not of type int"),
        ("weight", 0.0, "above 0"),
        ("weight", float("inf"), "finite"),
        ("weight", float("nan"), "finite"),
        ("mode", "wild", "not one of fast, slow"),
        ("out", None, "not of type Path"),
    ],
)
def test_wrong_values_are_refused_with_the_field_and_the_reason(field, value, reason):
    with pytest.raises(UserError, match=f"^{field}: .*{reason}"):
        Drawing(**{"folders": ["a"], "out": "c.png", field: value})


@pytest.mark.parametrize("words", [["a", "--out", "c", "--count", "0"], ["a"], ["a", "--out", "c", "--weight", "nan"]])
def test_wrong_arguments_end_with_status_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        parsed(*words)
    assert ended.value.code == 2 and "draw: error: " in capsys.readouterr().err


@dataclass(frozen=True)
class Framed(Drawing):
    frame_width: int = option(0, "pixels around each", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frame_width and self.loud:
            raise OptionError("frame_width", "has no effect on loud drawings")
        if self.folders == (Path("full"),):
            raise OptionError("folders", "full has no room")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["a", "--frame-width", "2", "--loud"], "--frame-width: has no effect on loud drawings"),
        (["a", "--frame-width=-2"], "--frame-width: -2 must be 0 or more"),
        (["full"], "folders: full has no room"),  # no option on the command line
    ],
)
def test_an_option_that_is_refused_is_named_as_it_was_given(words, reason, capsys):
    with pytest.raises(SystemExit):
        parse_options(CommandParser("draw"), Framed, [*words, "--out", "c"])
    assert f"draw: error: {reason} (" in capsys.readouterr().err
    with pytest.raises(OptionError, match=r"^frame_width: -2 must be 0") as refused:
        Framed("a", out="c", frame_width=-2)
    again = pickle.loads(pickle.dumps(refused.value))  # as it comes from another process
    assert (again.option, str(again)) == ("frame_width", str(refused.value))


def test_help_states_defaults(capsys):
    with pytest.raises(SystemExit):
        parsed("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "how many (default: 500)" in text and "--tags TAGS tags, each" in text and "{fast,slow}" in text


@dataclass(frozen=True)
class Lists:
    views: tuple[str, ...] = option(("front",), "views", choices=("front", "side", "top"), commas=True)
    images: tuple[Path, ...] = option((), "images", many=True, group="more")
    pairs: dict[str, str] | None = option(None, "pairs", read=lambda value: dict([value.split("=")]))

    def __post_init__(self) -> None:
        check_options(self)


def test_values_with_commas_many_values_and_words_of_their_own():
    words = ["--views", "top,side", "--images", "a", "b,c", "--pairs", "x=1"]
    options = parse_options(CommandParser("draw"), Lists, words)
    assert options == Lists(["top", "side"], ["a", Path("b,c")], "x=1")
    assert (options.images, options.pairs) == ((Path("a"), Path("b,c")), {"x": "1"})
    assert parse_options(CommandParser("draw"), Lists, []) == Lists()
    near, far = "views: 'topp' is not one of front, side, top; did you mean top", r"top \(views\)$"
    for wrong, reason in (({"views": "topp"}, near), ({"views": "zz"}, far), ({"pairs": "x"}, "^pairs: ")):
        with pytest.raises(UserError, match=reason):
            Lists(**wrong)


@dataclass(frozen=True)
class Counts:
    seeds: tuple[int, ...] = option((0,), "seeds", commas=True, least=0)

    def __post_init__(self) -> None:
        check_options(self)


def test_numbers_with_commas_between():
    assert parse_options(CommandParser("draw"), Counts, ["--seeds", "1, 4"]) == Counts([1, 4]) == Counts("1,4")
    for wrong in ("1,x", "1.5", "-1", ""):
        with pytest.raises(UserError, match=r"^seeds: "):
            Counts(wrong)


def test_a_mistake_is_one_line_with_the_nearest_option(capsys):
    with pytest.raises(SystemExit) as ended:
        parsed("a", "--out", "c", "--cuont", "3")
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(lines) == 1
    assert "unrecognized arguments: --cuont" in lines[0] and "did you mean --count?" in lines[0]
