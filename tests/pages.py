"""Reads a page of the documentation as its reader would: types what it says to type, and compares what it shows.

Of a page's fenced blocks

* `console` holds commands after a prompt (`$ `, `# ` for root, `ann$ ` for that user), each run in a terminal of 80
  columns, and what they print. Of a command that shows no output only success is expected. In what is shown, `...`
  stands for any text, and on a line of its own for any lines.
* `python` is run in one interpreter for the whole page; a `text` block that follows is what it prints.
* any language with a `title="PATH"` is a file, written there.

Pages show what a user without privileges sees: what only root is told of files that it may write to is left out.

A block of any other kind is a mistake: nothing would hold it to be true. `sh` blocks are left to the test of the page.
"""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL
)
_PROMPT = re.compile(r"^(?:(?P<user>[a-z]*)\$|(?P<root>#)) (?P<line>.*)$")
_ALARMS = re.compile(r"^(error|warning|\w*Error|Traceback)\b.*", re.MULTILINE)
_TOLD_ROOT = re.compile(r"^(?:warning: )?this user may write to read-only files, .*\n", re.MULTILINE)
_END = "\x1eend of the block\x1e"  # which no page prints
# Typed line by line, as at a prompt: there a block ends with an empty line, and not with the next statement.
_INTERPRETER = f"""
import code, json, os, sys, traceback
def fail(*_, **__):
    traceback.print_exc()
    os._exit(1)
prompt = code.InteractiveConsole({{"__name__": "__main__"}})
prompt.showtraceback = prompt.showsyntaxerror = fail
sys.displayhook = lambda value: None
for block in sys.stdin:
    for line in [*json.loads(block).splitlines(), ""]:
        prompt.push(line)
    print({_END!r}, flush=True)
"""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    language: str
    title: str | None
    text: str


@dataclass(slots=True)
class Command:
    """A command after its prompt, as which user it is run, and what the page shows below it."""

    user: str
    line: str
    shown: list[str] = field(default_factory=list)


def blocks(page: str, *languages: str) -> list[Block]:
    """The fenced blocks of that text in order, of all languages or of those named."""
    fences = len(re.findall(r"^```", page, re.MULTILINE))
    found = [Block(each["language"], each["title"], each["text"]) for each in _FENCE.finditer(page)]
    assert fences == 2 * len(found), "a block without a language, or without an end"
    return [block for block in found if not languages or block.language in languages]


def commands(block: Block) -> list[Command]:
    """The commands of a `console` block; a line that ends in a backslash goes on in the next."""
    found: list[Command] = []
    for text in block.text.replace("\\\n", "").splitlines():
        prompt = _PROMPT.match(text)
        if prompt:
            found.append(Command("root" if prompt["root"] else prompt["user"], prompt["line"]))
        else:
            assert found, f"{text!r} is shown before any command"
            found[-1].shown.append(text)
    return found


class Reader:
    """Somebody with an empty home directory, this environment's `casstore`, and a page to follow.

    `places` maps paths that the page takes as examples to real ones. `programs` are directories whose programs come
    first. `prefix` is put before each shell of a user, as by a page that needs several users.
    """

    def __init__(
        self,
        home: Path,
        *,
        places: Mapping[str, str] | None = None,
        programs: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
        prefix: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.home = home
        self._places = places or {}
        self._prefix = prefix or {}
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("CASSTORE", "PYTHON", "PIP"))}
        path = os.pathsep.join([*map(str, programs), str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = {
            **kept, "HOME": str(home), "PATH": path, "TERM": "dumb", "NO_COLOR": "1", "CASSTORE_AUTO_GC": "0",
            "TZ": "UTC", **(environment or {}),
        }  # fmt: skip
        self._interpreter: subprocess.Popen[str] | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._interpreter is not None:
            said, _ = self._interpreter.communicate()
            assert kind or self._interpreter.returncode == 0, said

    def read(self, page: str) -> dict[str, str]:
        """Do all that the page says, in its order. Returns what each command printed."""
        said: dict[str, str] = {}
        printed: str | None = None  # by the Python before
        for block in blocks(page):
            if block.title is not None:
                self._write(block.title, block.text)
            elif block.language == "console":
                for command in commands(block):
                    said[command.line] = self.run(command)
            elif block.language == "python":
                printed = self.run_python(block.text)
            elif block.language == "text":
                assert printed is not None, f"nothing before it prints this: {block.text}"
                assert_shown(block.text.splitlines(), printed, "a block of Python")
            else:
                assert block.language == "sh", f"no test runs this {block.language}: {block.text}"
        return said

    def run(self, command: Command) -> str:
        """Run a command as in a terminal; fails where it ends otherwise than the page shows."""
        # Whatever the line sets or exports is there in the next, as in a shell that stays open.
        shell = self._shell(command.user)
        keep = f'{{ export -p; echo "cd $(printf %q "$PWD")"; }} > {shell}'
        line = self._real(command.line)
        text = f"set -o pipefail -o allexport; . {shell}\n{line}\ncode=$?\n{keep}\nexit $code\n"
        code, output = self._in_a_terminal([*self._prefix.get(command.user, ()), "bash", "-c", text])
        output = self._as_on_the_page(output)
        if command.shown:
            assert_shown(command.shown, output, command.line)
        alarms = [each.group() for each in _ALARMS.finditer(output)]
        expected = [each.group() for each in _ALARMS.finditer("\n".join(command.shown))]
        assert bool(alarms) == bool(expected), f"{command.line}\n{output}"
        assert expected or code == 0, f"{command.line}\n{output}"
        return output

    def run_python(self, text: str) -> str:
        """Run it in the page's interpreter. Returns what it printed."""
        if self._interpreter is None:
            self._interpreter = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", _INTERPRETER],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                cwd=self.home, env=self.environment, text=True,
            )  # fmt: skip
        assert self._interpreter.stdin is not None
        assert self._interpreter.stdout is not None
        self._interpreter.stdin.write(json.dumps(self._real(text)) + "\n")
        self._interpreter.stdin.flush()
        said = ""
        for line in self._interpreter.stdout:
            if line == f"{_END}\n":
                return self._as_on_the_page(said)
            said += line
        raise AssertionError(f"{text}\n{said}")

    def _write(self, title: str, text: str) -> None:
        path = self.home / self._real(title)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._real(text), encoding="utf-8")

    def _shell(self, user: str) -> Path:
        """Where the variables and the directory of a user's shell are kept, from one line to the next."""
        path = self.home.parent / f".{self.home.name}.{user}.shell"
        if not path.exists():
            path.write_text("cd\n")
            path.chmod(0o666)
        return path

    def _real(self, text: str) -> str:
        for example, real in self._places.items():
            text = text.replace(example, real)
        return text

    def _as_on_the_page(self, text: str) -> str:
        for example, real in self._places.items():
            text = text.replace(real, example)
        return _TOLD_ROOT.sub("", text.replace(str(self.home), "/home/ann"))

    def _in_a_terminal(self, line: Sequence[str]) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        try:
            modes = termios.tcgetattr(theirs)
            modes[1] &= ~termios.OPOST  # no carriage returns
            termios.tcsetattr(theirs, termios.TCSANOW, modes)
            shell = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, cwd=self.home, env=self.environment
            )
        finally:
            os.close(theirs)
        output = b""
        try:
            while piece := _read(ours):
                output += piece
        finally:
            os.close(ours)
        return shell.wait(), output.decode()


def assert_shown(shown: Sequence[str], output: str, what: str) -> None:
    """Fail where `output` is not what the page shows, in which `...` stands for what differs each time.

    Blanks may be more or fewer: they depend on how long the longest word of a table is. So may empty lines.
    """
    # A bar that is shown where a command takes long, and taken away again, leaves an empty line.
    lines = [line for line in output.splitlines() if line.strip()]
    reached = {0}  # how many lines what is shown so far may stand for
    for line in filter(str.strip, shown):
        if line.strip() == "...":
            reached = set(range(min(reached, default=len(lines) + 1), len(lines) + 1))
        else:
            words = [re.escape(word).replace(re.escape("..."), ".*") for word in line.split()]
            pattern = re.compile(r"[ \t]*" + r"[ \t]+".join(words) + r"[ \t]*")
            reached = {place + 1 for place in reached if place < len(lines) and pattern.fullmatch(lines[place])}
    assert len(lines) in reached, f"{what} prints\n{output}\nand not\n" + "\n".join(shown)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # how a terminal on Linux says that nobody is left to write
        return b""
