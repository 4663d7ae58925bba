"""Commands are killed at some of their file operations and go on to the same bytes; ``make kill`` takes all of them."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "kill.py"


def test_killed_commands_go_on_to_the_same_bytes() -> None:
    names = ["run", "export", "detect train"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--trials", "2", *names], capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = [line.rsplit(maxsplit=4) for line in done.stdout.splitlines()[1:]]
    assert [row[0] for row in counts] == names
    assert all(int(row[1]) > 10 and row[2:4] == ["2", "0"] for row in counts), done.stdout
