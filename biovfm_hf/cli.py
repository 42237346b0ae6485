"""The `biovfm` command: sub-commands of the front door, each loaded only when it is used."""

import os
import select
import sys
from collections.abc import Sequence

from .environment import prepare_libraries
from .errors import UserError, one_line
from .front_door import COMMANDS
from .rooms import load_room_module, packages_named

_READER_LEFT = 141  # the status that a shell gives to a program that SIGPIPE ended


def usage() -> str:
    """The help text: one line per command."""
    lines = [f"  {name:<11} {entry.summary}" for name, entry in COMMANDS.items()]
    return "\n".join(
        [
            "usage: biovfm COMMAND [options]",
            "",
            "Biomedical vision foundation models: build the data, pretrain, probe, publish.",
            "",
            "commands:",
            *lines,
            "",
            "On several GPUs, pretraining is started by accelerate; biovfm pretrain --help explains how.",
            "",
            "biovfm COMMAND --help has the details. Start with: biovfm quickstart",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command. Returns the exit status: 0 done, 1 failed, 2 wrong arguments, 141 closed output."""
    try:
        status = _caught(list(sys.argv[1:] if argv is None else argv))
    finally:  # also after argparse's SystemExit: Python would complain of a reader that left
        is_read = _flush_output()
    return status if is_read else _READER_LEFT


def _caught(arguments: list[str]) -> int:
    """Run the command. A failure is printed as one line on stderr."""
    try:
        return _run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (OSError, MemoryError) as error:
        if isinstance(error, BrokenPipeError) and _reader_left():
            return _READER_LEFT
        print(f"error: {_system_failure(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what was finished is kept, and the same command continues", file=sys.stderr)
        return 1


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        from .version import package_version  # imported here, so that --help stays fast

        print(f"biovfm-hf {package_version()}")
        return 0
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        print(_unknown(command), file=sys.stderr)
        return 2
    prepare_libraries()
    module = COMMANDS[command].module
    with packages_named(module):
        return load_room_module(module).main(rest)


def _reader_left() -> bool:
    """Whether standard output is a pipe that nobody reads any more, as after `| head`."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return any(state & select.POLLERR for _, state in output.poll(0))


def _flush_output() -> bool:
    """Write out what was printed. Returns False if nobody reads it any more; later output then goes nowhere."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _system_failure(error: OSError | MemoryError) -> str:
    """The operating system's error in words, with the file and the remedy."""
    from .writing.files import is_disk_full  # imported here, so that --help stays fast

    if isinstance(error, MemoryError):
        return "too little memory; close other programs, or use fewer workers or a smaller batch size"
    full = is_disk_full(error)
    name = error.filename2 if full and error.filename2 else error.filename  # when copying, the file being written
    remedy = "make room, and run the same command again" if full else "check it, then try again"
    return f"{name}: " * bool(name) + f"{error.strerror or one_line(error)}; {remedy}"


def _unknown(command: str) -> str:
    from .nearest import did_you_mean

    return f"error: biovfm has no command {command!r}{did_you_mean(command, COMMANDS)}"


if __name__ == "__main__":
    sys.exit(main())
