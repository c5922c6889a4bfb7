"""The catalog's tables, as numbered migrations. PRAGMA user_version says how many have been applied."""

from __future__ import annotations

from pathlib import Path

import apsw

from casstore.errors import SQLiteTooOld, StoreError, StoreTooNew, StoreUnwritable

# Older ones can corrupt a WAL database that several connections write to (the WAL-reset bug).
MINIMUM_SQLITE = (3, 51, 3)
APPLICATION_ID = 0x63617373  # "cass"
# A version in the trash keeps its row under no name: see `trash`. Each query that names no name leaves these out.
IS_HERE = "name != ''"
SIDE_FILES = ("-wal", "-shm")  # what SQLite keeps beside a database, by their endings
SIDE_FILES_BYTES = 64 << 10  # -shm takes 32 KiB, and -wal some pages

_FIRST = """
CREATE TABLE store(                      -- what holds for the store as a whole
  key TEXT PRIMARY KEY, value ANY NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE setting(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE container(                  -- a pack or a loose file under objects/
  id INTEGER PRIMARY KEY,
  file_id TEXT NOT NULL,                 -- the random part of its name
  digest BLOB,                           -- of a loose file: its blob; of a pack: NULL
  executable INTEGER NOT NULL DEFAULT 0,
  size INTEGER NOT NULL,
  state INTEGER NOT NULL,                -- 1 live, 2 dead: condemned, to be unlinked
  synced INTEGER NOT NULL,               -- 1: fsynced; 0: trusted only in the boot of boot_id
  boot_id TEXT,
  inode INTEGER, mtime_ns INTEGER        -- of a loose file, to recognise it by stat
) STRICT;
CREATE INDEX container_by_digest ON container(digest, executable) WHERE digest IS NOT NULL;
CREATE UNIQUE INDEX container_by_file_id ON container(file_id);
CREATE INDEX container_by_inode ON container(inode) WHERE inode IS NOT NULL;

CREATE TABLE chunk(                      -- the one home of each chunk
  digest BLOB PRIMARY KEY,
  container INTEGER NOT NULL REFERENCES container(id),
  offset INTEGER NOT NULL,               -- of the raw bytes in a loose file, of the record in a pack
  length INTEGER NOT NULL,               -- of the same
  raw_bytes INTEGER NOT NULL,
  encoding INTEGER NOT NULL,
  base BLOB                              -- of a delta: the chunk that it is against
) STRICT, WITHOUT ROWID;
CREATE INDEX chunk_by_container ON chunk(container);

CREATE TABLE blob(                       -- the recipes of blobs of more than one chunk
  digest BLOB PRIMARY KEY, size INTEGER NOT NULL, recipe BLOB NOT NULL
) STRICT;

CREATE TABLE version(
  id INTEGER PRIMARY KEY AUTOINCREMENT,  -- in the order of commits
  name TEXT NOT NULL,
  version TEXT NOT NULL,
  manifest_id TEXT NOT NULL,
  digest BLOB NOT NULL,                  -- of the files section
  size INTEGER NOT NULL,
  file_count INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  ordered_at INTEGER NOT NULL,           -- the place among the name's versions: its largest is the latest
  description TEXT NOT NULL,             -- canonical JSON, as in the manifest
  directories TEXT NOT NULL,             -- JSON list of empty directories
  base_name TEXT, base_version TEXT, base_digest BLOB,
  casstore_version TEXT NOT NULL,
  opened_at INTEGER,
  UNIQUE(name, version)
) STRICT;
CREATE INDEX version_by_order ON version(name, ordered_at DESC, id DESC);

CREATE TABLE file(
  version_id INTEGER NOT NULL REFERENCES version(id) ON DELETE CASCADE,
  path TEXT NOT NULL,
  executable INTEGER NOT NULL,
  size INTEGER NOT NULL,
  digest BLOB NOT NULL,
  PRIMARY KEY(version_id, path)
) STRICT, WITHOUT ROWID;

CREATE TABLE label(
  version_id INTEGER NOT NULL REFERENCES version(id) ON DELETE CASCADE,
  key TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY(version_id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX label_by_value ON label(key, value);

CREATE TABLE metadata(                   -- every scalar in a version's metadata, by its dotted path
  version_id INTEGER NOT NULL REFERENCES version(id) ON DELETE CASCADE,
  path TEXT NOT NULL,
  value ANY
) STRICT;
CREATE INDEX metadata_by_value ON metadata(path, value);
CREATE INDEX metadata_by_version ON metadata(version_id);

CREATE TABLE directory(                  -- a materialized version: what stands under models/
  version_id INTEGER PRIMARY KEY REFERENCES version(id) ON DELETE CASCADE,
  inode INTEGER NOT NULL,
  boot_id TEXT NOT NULL,
  entries BLOB NOT NULL                  -- msgpack: [[path, inode, size, mtime_ns], ...]
) STRICT;

CREATE TABLE tombstone(                  -- a deleted version whose manifest or directory may still stand
  manifest_id TEXT PRIMARY KEY, name TEXT NOT NULL, version TEXT NOT NULL,
  inode INTEGER                          -- of the directory
) STRICT, WITHOUT ROWID;

CREATE TABLE fingerprint(                -- files outside the store whose content is known
  device INTEGER NOT NULL,
  inode INTEGER NOT NULL,
  size INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL,
  ctime_ns INTEGER NOT NULL,
  digest BLOB NOT NULL,
  recorded_at INTEGER NOT NULL,
  PRIMARY KEY(device, inode)
) STRICT, WITHOUT ROWID;

INSERT INTO store VALUES ('gc_epoch', 0);
"""

_SECOND = """
-- Deltas: how many links decoding a chunk takes, how many changes lie between it and the start of its chain, and
-- whose elements order it (see storage/delta.py).
ALTER TABLE chunk ADD COLUMN depth INTEGER NOT NULL DEFAULT 0;
ALTER TABLE chunk ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE chunk ADD COLUMN grouping BLOB;
CREATE INDEX chunk_by_base ON chunk(base) WHERE base IS NOT NULL;
CREATE INDEX chunk_by_grouping ON chunk(grouping) WHERE grouping IS NOT NULL;
-- Which versions a loose file serves; smaller files have none (workspace.LINK_FROM_BYTES).
CREATE INDEX file_by_digest ON file(digest) WHERE size >= 65536;

ALTER TABLE version ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;
-- 1: gc is about to take the directory away; it does not count as standing any more.
ALTER TABLE directory ADD COLUMN evicting INTEGER NOT NULL DEFAULT 0;

CREATE TABLE lease(                      -- versions whose directories living processes use
  version_id INTEGER NOT NULL REFERENCES version(id) ON DELETE CASCADE,
  session TEXT NOT NULL,                 -- the session of the process: it lives while its lock is held
  PRIMARY KEY(version_id, session)
) STRICT, WITHOUT ROWID;
"""

_THIRD = """
-- When all that a container holds was last read and found sound, in UTC nanoseconds; NULL: not since this was noted.
ALTER TABLE container ADD COLUMN read_at INTEGER;
-- 1: the directory's name has been synced, so that its absence, in any boot, means that somebody has removed it.
ALTER TABLE directory ADD COLUMN synced INTEGER NOT NULL DEFAULT 0;

CREATE TABLE untrusted(                  -- Python objects that came in an archive which nobody has said may be trusted
  digest BLOB PRIMARY KEY                -- of the pickle, whatever versions it is in
) STRICT, WITHOUT ROWID;

-- Row ids of containers are not given twice: a reader that has an old one must not be led to another file.
INSERT OR REPLACE INTO store SELECT 'last_container', coalesce(max(id), 0) FROM container;
"""

_FOURTH = """
-- What the container is, by its number in storage.container.Kind: 1 a pack, 2 a loose file.
ALTER TABLE container ADD COLUMN kind INTEGER NOT NULL DEFAULT 1;
UPDATE container SET kind = 2 WHERE digest IS NOT NULL;
"""

_FIFTH = """
CREATE TABLE remote_object(              -- documents of remotes that have been read: they never change
  remote TEXT NOT NULL,                  -- the remote's own id
  key TEXT NOT NULL,
  body BLOB NOT NULL,
  read_at INTEGER NOT NULL,              -- UTC nanoseconds
  PRIMARY KEY(remote, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE remote_push(                -- pushes that this machine has begun, and not heard the end of
  id TEXT PRIMARY KEY,
  remote TEXT NOT NULL,
  content BLOB NOT NULL                  -- the digest of what it pushes
) STRICT, WITHOUT ROWID;

CREATE TABLE remote_pack(                -- what such a push has written, or was about to
  push TEXT NOT NULL REFERENCES remote_push(id) ON DELETE CASCADE,
  key TEXT NOT NULL,
  size INTEGER NOT NULL,
  digest BLOB NOT NULL,
  entries BLOB NOT NULL,                 -- msgpack: its index, see docs/format.md
  PRIMARY KEY(push, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE elsewhere(                  -- versions whose bytes were given up here, since a remote has them
  name TEXT NOT NULL,
  version TEXT NOT NULL,
  remote TEXT NOT NULL,                  -- what this store calls it
  digest BLOB NOT NULL,
  size INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  PRIMARY KEY(name, version)
) STRICT, WITHOUT ROWID;
"""

_SIXTH = """
CREATE TABLE alias(                      -- name@alias: what it means now
  name TEXT NOT NULL,
  alias TEXT NOT NULL,
  version_id INTEGER NOT NULL REFERENCES version(id),
  move INTEGER NOT NULL,                 -- the number of its last row in alias_move
  protected INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY(name, alias)
) STRICT, WITHOUT ROWID;
CREATE INDEX alias_by_version ON alias(version_id);

CREATE TABLE alias_move(                 -- what aliases/<name>.log says: each row is what an alias was from then on
  name TEXT NOT NULL,
  number INTEGER NOT NULL,               -- 1, 2, ... of each name: the order, whatever clocks said
  alias TEXT NOT NULL,
  action TEXT NOT NULL,                  -- 'set', 'rollback', 'import', 'delete', 'protect' or 'unprotect'
  version TEXT,                          -- NULL: it is deleted
  digest BLOB,                           -- of that version, whose tag another may have got since
  protected INTEGER NOT NULL,
  moved_at INTEGER NOT NULL,             -- UTC nanoseconds
  actor TEXT NOT NULL,
  reason TEXT NOT NULL,
  PRIMARY KEY(name, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE annotation(                 -- what annotations/<name>.log says: labels and metrics given after the save
  version_id INTEGER NOT NULL REFERENCES version(id) ON DELETE CASCADE,
  number INTEGER NOT NULL,               -- grows with each of a name
  kind TEXT NOT NULL,                    -- 'label' or 'metric'
  key TEXT NOT NULL,
  value ANY,                             -- NULL: taken away; of a metric 'nan', 'inf' or '-inf' may stand for a number
  annotated_at INTEGER NOT NULL,         -- UTC nanoseconds
  actor TEXT NOT NULL,
  PRIMARY KEY(version_id, number)
) STRICT, WITHOUT ROWID;

ALTER TABLE version ADD COLUMN annotated TEXT; -- what the annotations make together, in JSON; NULL: there are none

CREATE TABLE parent(                     -- what a version came from
  version_id INTEGER NOT NULL REFERENCES version(id) ON DELETE CASCADE,
  number INTEGER NOT NULL,
  relation TEXT NOT NULL,
  name TEXT, version TEXT, digest BLOB,  -- of a version of a store
  uri TEXT,                              -- of anything else
  PRIMARY KEY(version_id, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX parent_by_tag ON parent(name, version) WHERE name IS NOT NULL;
INSERT INTO parent(version_id, number, relation, name, version, digest)
  SELECT id, 0, 'base', base_name, base_version, base_digest FROM version WHERE base_name IS NOT NULL;

CREATE TABLE event(                      -- what has been done to the store, the newest of it
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  happened_at INTEGER NOT NULL,          -- UTC nanoseconds
  actor TEXT NOT NULL,
  kind TEXT NOT NULL,
  tag TEXT,                              -- or name@alias; NULL: the store as a whole
  details TEXT NOT NULL                  -- JSON
) STRICT;

CREATE TABLE trash(                      -- deleted versions that can be brought back: in `version` they have no name
  number INTEGER PRIMARY KEY AUTOINCREMENT, -- in the order of deletions
  version_id INTEGER NOT NULL UNIQUE REFERENCES version(id) ON DELETE CASCADE,
  name TEXT NOT NULL,
  version TEXT NOT NULL,
  ordered_at INTEGER NOT NULL,           -- the version's own
  deleted_at INTEGER NOT NULL,           -- UTC nanoseconds
  counted_from INTEGER NOT NULL,         -- from when trash_days count: later, if the clock has jumped since
  actor TEXT NOT NULL
) STRICT;
CREATE INDEX trash_by_tag ON trash(name, version);
CREATE INDEX trash_by_order ON trash(name, ordered_at);

-- Searches: all that is asked of a value is in an index, by value and, for sets that are merged, by version; and
-- `version_in_brief` is a narrow copy of what versions are searched by (see catalog/condition.py).
DROP INDEX metadata_by_value;
CREATE INDEX metadata_by_value ON metadata(path, value, version_id);
CREATE INDEX metadata_by_path ON metadata(path, version_id, value);
CREATE INDEX label_by_key ON label(key, version_id, value);
CREATE INDEX version_by_time ON version(ordered_at DESC, id DESC);
CREATE INDEX version_by_creation ON version(created_at DESC, ordered_at DESC, id DESC);
CREATE INDEX version_by_size ON version(size DESC, ordered_at DESC, id DESC);
CREATE INDEX version_in_brief ON version(
  id, name, version, ordered_at, size, file_count, created_at, opened_at, pinned, digest, base_name, base_version
);

CREATE TABLE policy(                     -- what `forget` keeps of the names that a pattern matches
  pattern TEXT PRIMARY KEY,
  rules TEXT NOT NULL                    -- JSON
) STRICT, WITHOUT ROWID;
"""

_SEVENTH = """
CREATE TABLE sha256(                     -- of contents, as others know them; what is missing is computed
  digest BLOB PRIMARY KEY,               -- the blob's
  sha256 BLOB NOT NULL
) STRICT, WITHOUT ROWID;
"""

MIGRATIONS = (_FIRST, _SECOND, _THIRD, _FOURTH, _FIFTH, _SIXTH, _SEVENTH)
# By the number of migrations that a catalog has had: the views that make it readable where it cannot be migrated. Each
# hides the table of its name from this connection.
_NO_REMOTES = (
    "CREATE TEMP VIEW remote_object AS SELECT '' AS remote, '' AS key, x'' AS body, 0 AS read_at WHERE 0;"
    "CREATE TEMP VIEW remote_push AS SELECT '' AS id, '' AS remote, x'' AS content WHERE 0;"
    "CREATE TEMP VIEW remote_pack AS SELECT '' AS push, '' AS key, 0 AS size, x'' AS digest, x'' AS entries WHERE 0;"
    "CREATE TEMP VIEW elsewhere AS SELECT '' AS name, '' AS version, '' AS remote, x'' AS digest, 0 AS size,"
    " 0 AS created_at WHERE 0;"
)
_NO_REGISTRY = (
    "CREATE TEMP VIEW version AS SELECT *, NULL AS annotated FROM main.version;"
    "CREATE TEMP VIEW alias AS SELECT '' AS name, '' AS alias, 0 AS version_id, 0 AS move, 0 AS protected WHERE 0;"
    "CREATE TEMP VIEW alias_move AS SELECT '' AS name, 0 AS number, '' AS alias, '' AS action, '' AS version,"
    " x'' AS digest, 0 AS protected, 0 AS moved_at, '' AS actor, '' AS reason WHERE 0;"
    "CREATE TEMP VIEW annotation AS SELECT 0 AS version_id, 0 AS number, '' AS kind, '' AS key, '' AS value,"
    " 0 AS annotated_at, '' AS actor WHERE 0;"
    "CREATE TEMP VIEW parent AS SELECT id AS version_id, 0 AS number, 'base' AS relation, base_name AS name,"
    " base_version AS version, base_digest AS digest, NULL AS uri FROM main.version WHERE base_name IS NOT NULL;"
    "CREATE TEMP VIEW event AS SELECT 0 AS number, 0 AS happened_at, '' AS actor, '' AS kind, '' AS tag,"
    " '' AS details WHERE 0;"
    "CREATE TEMP VIEW trash AS SELECT 0 AS number, 0 AS version_id, '' AS name, '' AS version, 0 AS ordered_at,"
    " 0 AS deleted_at, 0 AS counted_from, '' AS actor WHERE 0;"
    "CREATE TEMP VIEW policy AS SELECT '' AS pattern, '' AS rules WHERE 0;"
)
_NO_SHA256 = "CREATE TEMP VIEW sha256 AS SELECT x'' AS digest, x'' AS sha256 WHERE 0;"
_AS_NEWEST = {
    3: (
        "CREATE TEMP VIEW container AS SELECT *, iif(digest IS NULL, 1, 2) AS kind FROM main.container;"
        f"{_NO_REMOTES}{_NO_REGISTRY}{_NO_SHA256}"
    ),
    4: f"{_NO_REMOTES}{_NO_REGISTRY}{_NO_SHA256}",
    5: f"{_NO_REGISTRY}{_NO_SHA256}",
    6: _NO_SHA256,
}


def check_sqlite() -> None:
    """Raise SQLiteTooOld when the SQLite that apsw brings has the WAL-reset bug."""
    version = tuple(int(part) for part in apsw.sqlite_lib_version().split(".")[:3])
    if version < MINIMUM_SQLITE:
        raise SQLiteTooOld(
            f"apsw brings SQLite {apsw.sqlite_lib_version()}, which can corrupt a catalog that several processes "
            f"write to; casstore needs {'.'.join(map(str, MINIMUM_SQLITE))} or newer: pip install --upgrade apsw"
        )


def check_is_catalog(connection: apsw.Connection, path: Path) -> None:
    """Raise StoreError if another program has made this SQLite file. An empty file is accepted."""
    with connection:  # in one transaction: between two, another process may make the catalog
        if connection.execute("PRAGMA application_id").get == APPLICATION_ID:
            return
        table = connection.execute("SELECT name FROM sqlite_schema ORDER BY rowid LIMIT 1").fetchone()
    if table is None:
        return
    raise StoreError(
        f"{path} is an SQLite file of another program, with {table[0]!r} in it, not a catalog of casstore; choose "
        "another store with --home or CASSTORE_HOME, or move it away. If it stands in the place of a lost catalog, "
        "`casstore repair --rebuild-catalog` puts it into quarantine/ and makes one from the files beside it"
    )


def migrate(connection: apsw.Connection) -> None:
    """Bring the catalog to the newest schema, each migration and its number in one transaction.

    Raises StoreTooNew if it has had migrations that this release does not know.
    """
    while (applied := _applied(connection)) != len(MIGRATIONS):
        if applied > len(MIGRATIONS):
            raise StoreTooNew(
                f"this store has format {applied}, and this casstore knows formats up to {len(MIGRATIONS)}; "
                "upgrade casstore: pip install --upgrade casstore"
            )
        connection.execute("BEGIN IMMEDIATE")
        try:
            if _applied(connection) == applied:  # no other process was faster
                connection.execute(MIGRATIONS[applied])
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {applied + 1}")
            connection.execute("COMMIT")
        except BaseException:
            # SQLite has already rolled back after some errors, such as a full disk.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def read_as_newest(connection: apsw.Connection) -> None:
    """Make the catalog appear to a read-only connection in the newest schema.

    Raises StoreUnwritable for a catalog so old that it must be migrated first, StoreTooNew for a newer one.
    """
    applied = _applied(connection)
    if applied in _AS_NEWEST:
        connection.execute(_AS_NEWEST[applied])
        return
    if applied < len(MIGRATIONS):
        raise StoreUnwritable("this read-only store has an older format; open it once as a user who may write to it")
    migrate(connection)


def _applied(connection: apsw.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").get)
