"""`casstore events`: what is told on a terminal and in a pipe, and how following ends."""

from __future__ import annotations

import json
import signal

import pytest

from tests.cli.conftest import Cli
from tests.kit import known


def test_in_a_pipe_on_a_terminal_and_as_json(saved: Cli) -> None:
    saved("gc", "--evict-all")
    lines = [line.split("\t") for line in saved("events").out.splitlines()]
    count = len(lines)
    assert lines[-1][2:4] == ["gc", ""]
    assert lines[0][0].endswith("Z")
    assert lines[0][1].count("@") == 1
    assert lines[0][2:4] == ["saved", lines[0][3]]
    assert lines[0][4].startswith("size_bytes=")
    told = saved("events", "--json").json["events"]
    assert [event["kind"] for event in told] == [line[2] for line in lines]
    assert [event["number"] for event in told] == list(range(1, count + 1))
    assert len(saved("events", "-n", "1").out.splitlines()) == 1
    assert len(saved("events", "--since", "1w").out.splitlines()) == count
    assert saved("events", "--since", "2099-01-01T00:00Z").out == ""
    screen = saved.on_terminal("events")
    assert "TIME" in screen
    assert "root@" in screen or "@" in screen
    assert "nothing has been done since then" in saved.on_terminal("events", "--since", "2099-01-01")


@pytest.mark.parametrize("since", ["yesterday", "7", "d", "-3d", "2026-13-01", "7y", ""])
def test_no_time(saved: Cli, since: str) -> None:
    assert "neither an age, such as 90m" in saved("events", "--since", since, code=2).err


def test_following_ends_with_ctrl_c(saved: Cli) -> None:
    process = saved.start("events", "--follow", "-n", "1", "--json")
    first = json.loads(known(process.stdout).readline())
    saved("pin", "bert")  # which is none
    saved("delete", saved("list").out.partition("\t")[0], "--yes")
    assert json.loads(known(process.stdout).readline())["number"] == first["number"] + 1
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert process.communicate() == ("", "")


def test_following_ends_with_its_reader(saved: Cli) -> None:
    """Also while nothing happens that it would be told."""
    process = saved.start("events", "--follow")
    with process:
        assert known(process.stdout).readline()
        known(process.stdout).close()
        assert process.wait(60) == 141
        assert known(process.stderr).read() == ""


def test_what_is_empty_is_not_told(saved: Cli) -> None:
    saved("alias", "set", "bert@prod", "bert:v1")
    saved("delete", "bert:v2", "--yes")
    lines = [line.split("\t")[2:] for line in saved("events", "-n", "2").out.splitlines()]
    assert lines[0] == ["alias moved", "bert@prod", "version=v1"]
    assert lines[1][2].startswith("for_good=false,size_bytes=")
