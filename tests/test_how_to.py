"""docs/how-to/, how-it-works.md and glossary.md: a reader who types what they say sees what they show."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

import casstore
from casstore.cli.exits import ExitCode
from casstore.cli.main import cli
from casstore.cli.usage import usage_document, usage_fields, version_fields
from tests.kit import noise, plant, why_no_fuse
from tests.pages import ROOT, Reader, blocks

pytestmark = pytest.mark.crash

STAND_INS = Path(__file__).parent / "stand_ins"
HOW_TO = ROOT / "docs/how-to"
TROUBLESHOOTING = ROOT / "docs/troubleshooting.md"
PAGES = sorted(
    [*HOW_TO.glob("*.md"), ROOT / "docs/how-it-works.md", ROOT / "docs/glossary.md", ROOT / "docs/remotes.md"]
)


def text_of(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home directory of a reader, on a machine with another disk."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "ann").mkdir()
    return tmp_path / "ann"


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    return {"/mnt/disk": str(tmp_path / "disk")}


@pytest.mark.parametrize(
    "name",
    [
        *("how-it-works.md", "glossary.md", "how-to/aliases.md", "how-to/best-model.md", "how-to/find-versions.md"),
        "how-to/free-space.md",
        "how-to/hugging-face.md",
        "how-to/lineage.md",
        "how-to/lightning.md",  # its program runs in tests/integrations/test_lightning.py
        "how-to/pytorch.md",  # its programs run in tests/integrations/test_torch.py
        "how-to/registries.md",
        "how-to/share-by-disk.md",
        "how-to/signatures.md",
        "how-to/what-changed.md",
    ],
)
def test_a_page_can_be_followed(name: str, home: Path, places: dict[str, str]) -> None:
    page = text_of(name)
    for program in ("jq", "skopeo"):
        if re.search(rf"(\| |^\$ ){program} ", page, re.MULTILINE) and shutil.which(program) is None:
            pytest.skip(f"the page's commands need {program}")
    if "casstore[sign]" in page:
        pytest.importorskip("cryptography")
    with casstore.Store(home / ".casstore", auto_gc=False) as store:
        store.set_setting("link_mode", "hardlink")  # which a user without privileges has, and root not on every disk
    with Reader(home, places=places) as reader:
        reader.read(page)


def test_remotes(home: Path, tmp_path: Path, places: dict[str, str]) -> None:
    """A directory stands for the bucket, and for the NAS."""
    (tmp_path / "bucket").mkdir()
    (tmp_path / "nas").mkdir()
    buckets = {"s3://my-bucket": str(tmp_path / "bucket"), "/mnt/nas": str(tmp_path / "nas")}
    with casstore.Store(home / ".casstore", auto_gc=False) as store:
        store.set_setting("keep_days", "0")  # so that gc has something to do at once
    with Reader(home, places={**places, **buckets}) as reader:
        reader.read(text_of("remotes.md"))


ELSEWHERE = {"how-to/tensors.md"}  # tests/test_tensors_page.py


def test_every_page_is_followed() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    for page in PAGES:
        assert f'"{page.relative_to(ROOT / "docs")}"' in tests, page


def test_checkpoints(home: Path) -> None:
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    stand_ins = home.parent / "stand-ins"
    stand_ins.mkdir()
    for name in missing:
        shutil.copy(STAND_INS / f"{name}.py", stand_ins)
    with Reader(home, environment={"PYTHONPATH": str(stand_ins)}) as reader:
        reader.read(text_of("how-to/checkpoints.md"))
        # The callback, called as a Trainer does, twice for one checkpoint: a training that was resumed.
        reader.run_python(
            """
import sys
from types import SimpleNamespace
sys.path.insert(0, ".")
import trainer
Path = trainer.Path
Path("bert/checkpoint-500").mkdir(parents=True)
Path("bert/checkpoint-500/model.bin").write_bytes(b"weights")
state = SimpleNamespace(is_world_process_zero=True, global_step=500, log_history=[{"loss": 0.5}])
for _ in range(2):
    trainer.SaveToCasstore("bert").on_save(SimpleNamespace(output_dir="bert"), state, None)

import resume
Path("resumed/model.bin").write_bytes(b"more")
"""
        )
    with casstore.Store(home / ".casstore", auto_gc=False) as store:
        assert store.get("bert").metadata == {"step": 500, "loss": 0.5}
        with store.get("bert").open("model.bin") as file:
            assert file.read() == b"weights"


def test_mlflow(home: Path) -> None:
    """Its programs are run beside MLflow, in tests/integrations."""
    with Reader(home) as reader:
        reader.read(text_of("how-to/mlflow.md"))
    for program in ("train.py", "register.py"):
        assert compile((home / program).read_text(), program, "exec")


def test_fsspec(home: Path) -> None:
    page = text_of("how-to/fsspec.md")
    with Reader(home) as reader:
        reader.read(page)
        assert (home / "copy/config.json").read_text() == '{"hidden_size": 384}\n'
        mount, use = (block.text for block in blocks(page, "sh"))
        why = why_no_fuse()
        if why:
            pytest.skip(why)
        mounting = subprocess.Popen(
            ["bash", "-e", "-c", mount], cwd=home, env=reader.environment, stdout=subprocess.PIPE, text=True
        )
        with mounting:
            assert mounting.stdout is not None
            said = mounting.stdout.readline()
            if not said:
                pytest.skip("this user may not mount here")
            assert said.startswith("models shows the versions of ")
            done = subprocess.run(
                ["bash", "-e", "-c", use], cwd=home, env=reader.environment, capture_output=True, text=True, check=False
            )
        assert done.stdout.split("\n") == ["bert:v1", "bert:v2", *2 * ['{"hidden_size": 384}'], ""], done
        assert mounting.returncode == 0


def test_backup_and_restore(
    home: Path,
    places: dict[str, str],
) -> None:
    page = text_of("how-to/backup-and-restore.md")
    files = {"w.bin": noise(1_200_000), "config.json": b"{}"}
    with casstore.Store(home / ".casstore", auto_gc=False) as store:
        store.save("bert:v1", plant(home / "out", files))
        store.save("bert:v2", plant(home / "out", {"config.json": b"{2}"}))
    # A line of a crontab is a command after the times at which it is run.
    typed = re.sub(r"^```crontab\n30 3 \* \* \* ", "```console\n$ ", page, flags=re.MULTILINE)
    with Reader(home, places=places) as reader:
        said = reader.read(typed)
    disk = home.parent / "disk"
    assert len(said) > 15
    assert json.loads((disk / "last-backup.json").read_text())["new_containers"] == 0
    assert said["CASSTORE_HOME=/mnt/disk/new casstore list"].count("bert:v") == 2
    assert all("sound" in text for line, text in said.items() if line.endswith("verify"))
    homes = [home / name for name in ("restored", "restored-too", "moved/.casstore", "models-of-today", ".casstore")]
    for each in (disk / "models", disk / "new", *homes):
        with casstore.Store(each, auto_gc=False) as store:
            assert store.tags() == ["bert:v2", "bert:v1"], each
            model = store.get("bert:v1")
            assert {file.path: model.open(file.path).read() for file in model.files} == files, each


def test_ci(home: Path) -> None:
    missing = [name for name in ("jq", "curl") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"the page's script needs {missing[0]}")
    page = text_of("how-to/ci.md")
    with Reader(home, environment={"PIP_NO_INDEX": "1"}) as reader:
        reader.read(page)
        (workflow,) = (block.text for block in blocks(page, "yaml"))
        job = yaml.safe_load(workflow)["jobs"]["test"]
        (home / "fetch-models.sh").chmod(0o755)
        for _ in range(2):  # with an empty cache, and with what the first run has left in it
            environment = {
                **reader.environment, **job["env"], "CASSTORE_HOME": str(home / "job/.casstore"), "MODELS": f"file://{home}",
            }  # fmt: skip
            for step in job["steps"]:
                if "run" in step and not (step["run"].startswith("pip ") and importlib.util.find_spec("pip") is None):
                    subprocess.run(["bash", "-e", "-c", step["run"]], cwd=home, env=environment, check=True)
        (home / "models.lock").write_text(f"bert:v2 {'0' * 64}\n")
        done = subprocess.run(["./fetch-models.sh"], cwd=home, env=environment, capture_output=True, check=False)
        assert done.returncode == 1
        assert b"models.lock says 000" in done.stderr
    table = page.partition("| code | meaning |")[2].partition("\n\n")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} <= {code.value for code in ExitCode}


needs_mounts = pytest.mark.skipif(
    any(shutil.which(program) is None for program in ("unshare", "mount", "setpriv", "useradd"))
    or os.geteuid() != 0
    or subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], check=False).returncode != 0,
    reason="only root can mount, and not everywhere",
)


@needs_mounts
def test_container(home: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        pytest.skip("the page's image is made with pip")
    programs = [STAND_INS / "bin"]
    environment = {"STAND_IN_IMAGES": str(home.parent / "images"), "PIP_NO_INDEX": "1"}
    (home / "wheels").mkdir()
    with Reader(home, programs=programs, environment=environment) as reader:
        reader.read(text_of("how-to/container.md"))
    with casstore.Store(home / ".casstore", auto_gc=False) as store:
        assert store.tags() == ["bert:v2"]


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that every user reaches; pytest's own are closed to all others."""
    root = Path(tempfile.mkdtemp(dir="/var/tmp"))
    root.chmod(0o755)
    yield root
    shutil.rmtree(root)


@needs_mounts
def test_group_store(open_place: Path) -> None:
    """With real users and a real group, in a copy of /etc that only the page's commands see."""
    etc = open_place / "etc"
    subprocess.run(["cp", "-a", "/etc", etc], check=True)
    homes = open_place / "home"
    for user in ("root", "ann", "ben", "eve"):
        (homes / user).mkdir(parents=True)
    (open_place / "srv").mkdir()
    world = _world(etc)
    for number, user in enumerate(("ann", "ben", "eve"), 61_021):
        make = f"{world}\nuseradd --no-create-home --home-dir {homes / user} --uid {number} {user}"
        subprocess.run(["unshare", "--mount", "bash", "-e", "-c", make], check=True)
        os.chown(homes / user, number, number)
    with Reader(
        homes / "root",
        places={"/srv": str(open_place / "srv")},
        prefix={user: _as_user(world, user, homes / user) for user in ("root", "ann", "ben", "eve")},
    ) as reader:
        reader.read(text_of("how-to/group-store.md"))
    with casstore.Store(open_place / "srv/models", auto_gc=False) as store:
        assert store.tags() == ["bert:v2", "bert:v1"]


def _world(etc: Path) -> str:
    """What a shell in a mount namespace of its own runs first: another /etc, and ways to this Python for all users."""
    lines = [f"mount --bind {etc} /etc"]
    needed = {Path(path).resolve() for path in (sys.prefix, sys.base_prefix, ROOT)}
    opened: set[Path] = set()
    for path in sorted(needed):
        for directory in reversed(path.parents):
            if directory in opened or directory.stat().st_mode & 0o005 == 0o005:
                continue
            opened.add(directory)
            # What is closed to others is covered by an empty directory that shows just what is needed.
            below = {directory / each.relative_to(directory).parts[0] for each in needed if directory in each.parents}
            for number, child in enumerate(sorted(below)):
                lines += [f"mkdir -p {etc}/.stage{number}", f"mount --bind {child} {etc}/.stage{number}"]
            lines.append(f"mount -t tmpfs -o mode=755 none {directory}")
            for number, child in enumerate(sorted(below)):
                lines += [f"mkdir {child}", f"mount --move {etc}/.stage{number} {child}"]
    return "\n".join(lines)


def _as_user(world: str, user: str, home: Path) -> list[str]:
    switch = "" if user == "root" else f"setpriv --reuid {user} --regid {user} --init-groups"
    enter = f'{world}\nexport HOME={home}; cd {home}; exec {switch} "$@"'
    return ["unshare", "--mount", "bash", "-e", "-c", enter, "world"]


@pytest.mark.parametrize("page", [*PAGES, TROUBLESHOOTING], ids=lambda page: page.name)
def test_words_in_the_text_are_real(page: Path) -> None:
    """Commands, options and links, also where they stand in a sentence."""
    text = page.read_text(encoding="utf-8")
    for verb in re.findall(r"`(?:\w+=\S+ )*casstore (?:--home \S+ )?([a-z][a-z-]*)[^`]*`", text):
        assert verb in cli.commands, verb
    known = {option for command in _commands(cli) for each in command.params for option in each.opts}
    for words in re.findall(r"`(?:casstore |repair |gc )?([^`\n]*--[^`\n]*)`", text):
        for option in re.findall(r"(?<!\S)--[a-z-]+", words):
            assert option in known | _OF_OTHERS, option
    for link, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", text):
        target = (page.parent / link) if link else page
        assert target.exists(), link
        if anchor:
            assert anchor in _anchors(target), anchor


_OF_OTHERS = {
    "--help", "--upgrade", "--no-deps", "--only-binary", "--force-reinstall", "--user", "--from-oci-layout",
}  # of click, pip, docker and oras  # fmt: skip


def _commands(command: click.Command) -> Iterator[click.Command]:
    yield command
    for each in getattr(command, "commands", {}).values():
        yield from _commands(each)


def _anchors(page: Path) -> set[str]:
    headings = (line.lstrip("#").strip() for line in page.read_text(encoding="utf-8").splitlines() if line[:1] == "#")
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_glossary_has_all_words_of_stats(home: Path) -> None:
    page = text_of("glossary.md")
    tables = "\n".join(line for line in page.splitlines() if line.startswith("|"))
    (home / "w").write_bytes(b"weights")
    with casstore.Store(home / ".casstore", auto_gc=False) as store:
        store.save("m:1", home / "w")
        usages = [store.stats(), store.stats("m"), store.stats("m:1")]
    words = {word for usage in usages for word in (*usage_fields(usage), *version_fields(usage))}
    for word in sorted(words):
        assert re.search(rf"\b{re.escape(word)}\b", tables), word
    for key in sorted({key for usage in usages for key in usage_document(usage)}):
        assert f"`{key}`" in page, key


def test_the_picture_shows_a_store(home: Path) -> None:
    picture = (ROOT / "docs/how-it-works.svg").read_text(encoding="utf-8")
    with casstore.Store(home, auto_gc=False) as store, store.create("bert:v1") as draft:
        Path(draft.path, "w").write_bytes(b"w")
    shown = re.findall(r'class="path"[^>]*>([^<]+)<', picture)
    assert {"catalog.db", "manifests/", "objects/loose/", "objects/packs/"} <= set(shown)
    assert all((home / path).exists() for path in shown), shown
