"""Where a version was made: the commit of the code, the command line, the machine, and what was installed.

No environment variables, since they hold secrets. What looks like a secret on the command line is left out, as far as
that can be told.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

_GIT_SECONDS = 30
_LEFT_OUT = "[left out]"
_MOST_ARGUMENTS, _MOST_CHARACTERS = 1000, 4096
_SECRET_WORD = re.compile(
    r"(?i)(?:^|[-_.])(?:token|secrets?|passwords?|passwd|passphrase|pwd|auth|authorization|bearer|credentials?|cookies?|"
    r"(?:api|access|private|secret|auth|account)?[-_]?keys?)$"  # not tokens, of which a training counts thousands
)
_SECRET = re.compile(
    r"\b(?:hf_|gh[pousr]_|github_pat_|glpat-|sk-|pk-|rk-|xox[a-z]-|AKIA|ASIA|AIza|ya29\.|eyJ|pypi-|npm_|dckr_pat_)"
    r"[-._A-Za-z0-9]{8,}|-----BEGIN.*"
)
# Long, of letters and digits mixed: hexadecimal or base64. Words and names have hyphens, dots or slashes in between.
_RANDOM = re.compile(r"(?<![A-Za-z0-9])(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9+]{32,}={0,2}")
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+(?=@)")
# In the query of a URL, and in a program that is given to `python -c`.
_ASSIGNED = re.compile(
    r"(?i)((?:token|secret|passw(?:or)?d|api_?key|access_?key|[?&](?:sig|signature|key|auth|credential)))"
    r"(\s*[=:]\s*)(?:'[^']*'|\"[^\"]*\"|[^\s&;'\",)]+)"
)


def captured() -> dict[str, Any]:
    """Where this process runs, for the metadata."""
    found: dict[str, Any] = {
        "command": without_secrets(sys.orig_argv),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": _packages(),
    }
    git = _git()
    return {**found, "git": git} if git else found


def without_secrets(arguments: Sequence[str]) -> list[str]:
    """A command line without what looks like a secret: values of options that are called so, and random text."""
    return list(_kept(arguments[:_MOST_ARGUMENTS]))


def _kept(arguments: Sequence[str]) -> Iterator[str]:
    is_value = False
    for argument in arguments:
        text = argument.encode("utf-8", "backslashreplace").decode("utf-8")[:_MOST_CHARACTERS]
        if is_value and not text.startswith("--"):
            yield _LEFT_OUT
            is_value = False
            continue
        name, equals, _ = text.partition("=")
        is_secret = _SECRET_WORD.search(name.lstrip("-").rstrip(":")) is not None
        is_value = is_secret and not equals and text.startswith("-")
        if is_secret and equals:
            yield f"{name}={_LEFT_OUT}"
            continue
        for pattern in (_USER_IN_URL, _SECRET, _RANDOM):
            text = pattern.sub(_LEFT_OUT, text)
        yield _ASSIGNED.sub(rf"\1\2{_LEFT_OUT}", text)


def _packages() -> dict[str, str]:
    """Every package that is installed, with its version, by the name under which pip knows it."""
    import importlib.metadata  # here, since most saves need no such thing and it takes 15 ms

    found: dict[str, str] = {}
    for each in importlib.metadata.distributions():
        # What is damaged has no name; of two the first on the path is the one that is imported.
        with contextlib.suppress(Exception):
            name = re.sub(r"[-_.]+", "-", str(each.metadata["Name"])).lower()
            found.setdefault(name, str(each.version))
    found.pop("none", None)
    return dict(sorted(found.items()))


def _git() -> dict[str, Any]:
    """The commit of the working directory, and whether files that git knows differ from it; empty where there is none.

    Programs that the repository's configuration names are not started.
    """
    commit = _asked_of_git("rev-parse", "--verify", "HEAD")
    if commit is None or re.fullmatch(r"[0-9a-f]{40,64}", commit.strip()) is None:
        return {}
    status = _asked_of_git("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
    found: dict[str, Any] = {"commit": commit.strip(), "is_dirty": None if status is None else bool(status.strip())}
    branch = _asked_of_git("symbolic-ref", "--short", "-q", "HEAD")
    return {**found, "branch": branch.strip()} if branch and branch.strip() else found


def _asked_of_git(*words: str) -> str | None:
    options = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(
            ["git", *options, *words],  # noqa: S607 - the user's own
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=_GIT_SECONDS, check=False, env={**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"},
        )  # fmt: skip
        if answer.returncode == 0:
            return answer.stdout.decode("utf-8", "replace")
    return None
