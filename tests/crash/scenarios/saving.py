"""A store is made, and versions are saved in it."""

from __future__ import annotations

from pathlib import Path

from tests.crash.scenarios import Scenario, open_store, put, scenario, write
from tests.crash.scenarios.steps import LARGE, A, B, cold, doing, having, run_of, step
from tests.kit import noise


@scenario("make a store")
def make_a_store(_: Path) -> Scenario:
    return Scenario(lambda _: None, doing("tags"))


@scenario("save")
def save(_: Path) -> Scenario:
    return Scenario(having({"b:1": B}), lambda home: put(home, "a:1", A), {"b:1": B}, {"a:1": A})


@scenario("save with parents")
def save_with_parents(_: Path) -> Scenario:
    parents = [("b:1", "finetune"), ("hf://org/base@rev", "dataset")]
    return Scenario(having({"b:1": B}), lambda home: put(home, "a:1", A, parents=parents), {"b:1": B}, {"a:1": A})


@scenario("save a copy")
def save_a_copy(ground: Path) -> Scenario:
    files = {"w.bin": noise(LARGE, 3), "sub/x": b"x"}
    outside = write(ground / "outside", files)
    return Scenario(having({"b:1": B}), doing("save", "o:1", outside), {"b:1": B}, {"o:1": files})


@scenario("save what is known")
def save_what_is_known(_: Path) -> Scenario:
    return Scenario(having({"a:1": A}), lambda home: put(home, "a:2", A), {"a:1": A}, {"a:2": A})


@scenario("save a delta")
def save_a_delta(_: Path) -> Scenario:
    return Scenario(cold, lambda home: put(home, "m:3", step(3), materialize=False), run_of(3), {"m:3": step(3)})


@scenario("save relaxed")
def save_relaxed(_: Path) -> Scenario:
    return Scenario(having({"b:1": B}), lambda home: put(home, "a:1", A, durability="relaxed"), {"b:1": B}, {"a:1": A})


@scenario("save in the background")
def save_in_the_background(_: Path) -> Scenario:
    """Two versions, of which one is handed over before the other; as soon as a draft is kept, it is whole."""

    def save(home: Path) -> None:
        with open_store(home) as store:
            futures = []
            try:
                for tag, files in new.items():
                    with store.create(tag, background=True, materialize=tag != "m:3") as draft:
                        write(Path(draft.path), files)
                    futures.append(draft.future)
            finally:
                errors = [future.exception() for future in futures]
            for error in errors:
                if error is not None:
                    raise error

    def go_on(home: Path) -> None:
        with open_store(home) as store:
            for kept in store.drafts():
                if store.exists(str(kept.tag)):
                    store.remove_draft(kept)
                else:
                    files = new[str(kept.tag)]
                    assert {name: Path(kept.path, name).read_bytes() for name in files} == files
                    store.save_draft(kept)
            for tag, files in new.items():
                if not store.exists(tag):
                    put(home, tag, files)

    new = {"m:3": step(3), "a:1": A}
    return Scenario(cold, save, run_of(3), new, again=go_on)
