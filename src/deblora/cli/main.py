"""The command line: finds the command and runs it; errors become one message and exit code 2."""

import errno
import logging
import os
import sys
from collections.abc import Sequence

from deblora import __version__
from deblora.cli import compare_commands, data_commands, detect_commands, run_commands
from deblora.cli.options import AGAIN, Command, Parser
from deblora.errors import DebloraError, LauncherError
from deblora.run.processes import is_first, is_lost_connection, join, leave, speaks_of_failure, world_size

COMMANDS: dict[str, Command] = {
    command.name: command
    for module in (run_commands, compare_commands, data_commands, detect_commands)
    for command in module.COMMANDS
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or 2 when the user has something to correct."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        _run(words)
        return 0
    except DebloraError as error:
        return _fail(str(error))
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}; {_advice(error, words)}")
    except Exception as error:
        if not is_lost_connection(error):
            speaks_of_failure()  # a traceback follows; the other processes need not wonder
            raise
        return _fail(f"another process of this run has ended without a word; {_how_to_go_on(words)}")
    except KeyboardInterrupt:
        if is_first():
            print(f"deblora: interrupted; {_how_to_go_on(words)}", file=sys.stderr)
        return 130


def _run(words: list[str]) -> None:
    command, rest = _command(words)
    join()
    if world_size() > 1 and not command.in_processes:
        raise LauncherError(f"deblora {command.name} runs in one process; start it without a launcher")
    options = command.parse(rest)
    logging.captureWarnings(True)
    if options.quiet:
        os.environ["TQDM_DISABLE"] = "1"  # tqdm and the log of a run obey it, also in other processes
    command.run(options)
    leave()


def _command(words: list[str]) -> tuple[Command, list[str]]:
    """Find the command, and return it with the words after its name.

    Raises:
        RecipeError: If there is none of that name.
        SystemExit: After help and version.
    """
    family = "detect" if words[:1] == ["detect"] else ""
    n_words = 2 if family else 1
    command = COMMANDS.get(" ".join(words[:n_words]))
    if command is not None:
        return command, words[n_words:]
    return _help(family, words[n_words - 1 :])


def _help(family: str, words: list[str]) -> tuple[Command, list[str]]:
    names = {
        name.removeprefix(f"{family} "): command
        for name, command in COMMANDS.items()
        if name.startswith("detect ") == bool(family)
    }
    listed = "\n".join(f"  {name:<16}{command.says}" for name, command in names.items())
    if family:
        about, start, more = detect_commands.ABOUT, "`deblora detect demo`", ""
    else:
        about = "De-biased LoRA adapters for long-tailed remote-sensing imagery."
        start = "`deblora demo`, or `deblora audit DATA` to see the long tail of your own data"
        more = "  detect          oriented object detection: deblora detect --help\n"
    parser = Parser(
        prog=f"deblora {family}".strip(),
        usage=f"deblora {f'{family} ' if family else ''}COMMAND ...",
        description=about,
        epilog=f"commands (deblora COMMAND --help says more):\n{listed}\n{more}\nStart with {start}.",
    )
    if not family:
        parser.add_argument("--version", action="version", version=f"deblora {__version__}")
    parser.parse_known_args(words)
    wrong = f"unknown command {words[0]}" if words else "no command is given"
    parser.error(wrong)
    raise AssertionError("unreachable")


def _advice(error: OSError, words: Sequence[str]) -> str:
    """Say what to do about a file that cannot be read or written."""
    if error.errno in _DENIED:
        return "check its permissions or name another folder"
    first = "free space" if error.errno in _FULL else "check the path and the disk"
    return f"{first}, then {_how_to_go_on(words)}"


def _how_to_go_on(words: Sequence[str]) -> str:
    """Say how a command that was cut short is given again."""
    command = COMMANDS.get(" ".join(words[: 2 if words[:1] == ["detect"] else 1]))
    return command.after_a_stop if command else AGAIN


def _fail(message: str) -> int:
    """Say what is wrong, once for all processes, and return the exit code."""
    if speaks_of_failure():
        print(f"deblora: {message}", file=sys.stderr, flush=True)
    return 2
