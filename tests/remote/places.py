"""A store, its remote behind a proxy, and what must be true of it whatever has happened."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import casstore
from casstore.remote import keys
from casstore.remote.address import RemoteAddress
from casstore.remote.backend import Backend
from casstore.remote.bucket import Bucket
from casstore.remote.collect import mark
from casstore.remote.transfers import workers
from casstore.remotes import Remote
from tests.kit import checkpoint, contents, plant, private_key


@dataclass
class Places:
    """A store, its remote behind the proxy, and the same remote without one."""

    store: casstore.Store
    there: Remote
    behind: RemoteAddress
    backend: Backend
    files: Path
    saved: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def save(self, number: int, files: dict[str, bytes] | None = None) -> str:
        """Save a version of bert, signed: a step of a run, or these files."""
        tag = f"bert:v{number}"
        self.saved[tag] = checkpoint(number, size=3000) if files is None else files
        self.store.save(tag, plant(self.files / tag, self.saved[tag]))
        self.store.sign(tag, private_key(self.files / "key.pem"), hash="blake3")
        return tag

    def check_whole(self, tags: set[str], other: Path) -> None:
        """Exactly these versions are there, each once, whole and signed, and after a gc nothing else."""
        assert {str(ref.tag) for ref in self.there.list()} == tags
        assert self.there.status().different == []
        report = self.there.verify(deep=True)
        assert (report.damage, report.versions) == ((), len(tags))
        self.there.gc()
        with workers(4) as pool:
            seen = mark(Bucket.open(self.backend), pool)
        left = {entry.key for entry in self.backend.list("") if entry.key.startswith((keys.PUSHES, keys.PROBE))}
        assert (seen.unneeded_packs, seen.unneeded_segments, seen.dead_signatures) == (frozenset(), [], [])
        assert left == {keys.push_end(push_id) for push_id, end in seen.ends.items() if not end.is_sealed}
        with (
            casstore.Store(other) as store,
            store.add_remote("origin", self.behind.url, endpoint=self.behind.endpoint) as there,
        ):
            for pulled in there.pull():
                tag = str(pulled.model.tag)
                assert contents(pulled.model) == self.saved[tag]
                assert (store.signatures(tag), pulled.notes) == (self.store.signatures(tag), ())
