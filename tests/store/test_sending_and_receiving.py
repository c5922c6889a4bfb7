"""Chunks go from one store to another without an archive: as a pack's records, chosen here and checked there."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import casstore
from casstore.actions.packs.blob_checks import BlobChecks
from casstore.actions.packs.receiving import Receiving, elements
from casstore.actions.packs.sending import Sending
from casstore.actions.saving.needed import find_lost
from casstore.progress import SILENT
from casstore.storage.pack import PackReader, PackStream, PackWriter, read_entries
from casstore.storage.recipe import Recipe
from tests.kit import checkpoint

STEPS = 3


@pytest.fixture
def source(tmp_path):
    """A store with a run of which each step is packed as deltas against the one before."""
    with casstore.Store(tmp_path / "source") as store:
        for step in range(STEPS):
            with store.create(f"run:{step}", durability="relaxed") as draft:
                for path, data in checkpoint(step).items():
                    Path(draft.path, path).write_bytes(data)
        store.gc(evict_all=True)
        yield store


def files_of(store):
    """Of each version, its files with their recipes."""
    found = []
    for step in range(STEPS):
        listed = store.get(f"run:{step}").files
        recipes = store._workspace.catalog.index.recipes({file.digest for file in listed})
        found.append([(f.path, recipes.get(f.digest) or Recipe.of_one_chunk(f.digest, f.size)) for f in listed])
    return found


def send(store, sink):
    with ThreadPoolExecutor(2) as pool:
        sending = Sending(store._workspace, sink, pool, SILENT)
        before: list[tuple[str, Recipe]] = []
        for files in files_of(store):
            sending.add(files, before)
            before = files


def sent(store):
    """The bytes of a pack that holds the run."""
    buffer = io.BytesIO()
    stream = PackStream(buffer.write)
    send(store, stream)
    stream.end()
    return buffer.getvalue()


def receive(store, data, recipes):
    stream = io.BytesIO(data)
    workspace = store._workspace
    with workspace.session() as session:
        blobs = BlobChecks(workspace, {recipe.blob: recipe for recipe in recipes}, "the other store")
        receiving = Receiving(workspace, session, False, "the other store", find_lost, blobs)
        try:
            coming = PackReader(stream.read, lambda size: stream.seek(size, io.SEEK_CUR))
            wanted = elements(recipes)
            here = receiving.rely_on(wanted.keys(), wanted.keys())
            lacking = {digest: wanted[digest] for digest in wanted.keys() - here}
            receiving.take_all(coming, lacking, set(wanted))
        except BaseException:
            receiving.salvage()
            raise
        blobs.finish(SILENT)


@pytest.fixture
def recipes(source):
    return list({recipe.blob: recipe for files in files_of(source) for _, recipe in files}.values())


def test_what_is_sent_arrives_as_deltas_and_is_read(source, store, recipes, sql, check_catalog):
    data = sent(source)
    receive(store, data, recipes)
    check_catalog()
    for recipe in recipes:
        assert store._workspace.objects.is_sound(recipe)
    assert sql("SELECT count(*) FROM chunk WHERE base IS NOT NULL") != [(0,)]
    assert len(data) < 0.7 * sum(recipe.size for recipe in recipes)


def test_what_has_come_does_not_come_again(source, store, recipes, home):
    data = sent(source)
    receive(store, data, recipes)
    packs = set((home / "objects/packs").iterdir())
    receive(store, data, recipes)
    assert set((home / "objects/packs").iterdir()) == packs


def test_a_pack_in_a_file_takes_what_is_sent_as_well(source, tmp_path, recipes):
    writer = PackWriter(tmp_path / "sent.pack")
    send(source, writer)
    writer.finish(0o444, durable=False)
    chunks = {digest for recipe in recipes for digest in recipe.digests}
    assert {entry.digest for entry in read_entries(tmp_path / "sent.pack")} == chunks


def test_a_wrong_bit_is_refused_and_names_where_it_came_from(source, store, recipes, sql):
    data = bytearray(sent(source))
    data[len(data) // 2] ^= 1
    with pytest.raises(casstore.IntegrityError, match="the other store is damaged"):
        receive(store, bytes(data), recipes)
    for digest, *_ in sql("SELECT digest FROM chunk"):
        assert store._workspace.objects.read_chunk(casstore.Digest(digest))


def test_what_does_not_come_is_missed(source, store, recipes):
    buffer = io.BytesIO()
    stream = PackStream(buffer.write)
    stream.end()
    with pytest.raises(casstore.IntegrityError, match=r"the other store lacks \d+ chunks"):
        receive(store, buffer.getvalue(), recipes)
