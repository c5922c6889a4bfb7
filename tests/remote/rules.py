"""The rules that keep the remote protocol safe. Each can be left out of the model, and something must then go wrong."""

from __future__ import annotations

from enum import Enum


class Rule(Enum):
    """What an implementation must do."""

    # A push and its epoch.
    SECOND_LOOK = "a push reads the epoch again after its `open` exists"
    LOOK_BEFORE_ACKNOWLEDGING = "a push drops what an epoch condemns before it acknowledges that epoch"
    AVOID_CONDEMNED = "a push relies on no pack that the epoch it acknowledged condemns"
    SEAL = "a push creates its `end` before its refs"
    RANDOM_NAMES = "packs and segments are named by the push, never by their content"
    NEXT_GENERATION = "a tag is pushed again only when its highest generation has a tombstone"
    TAKEN_IS_FINAL = "a key that another push has taken is not replaced by the next number"
    # gc.
    PACKS_FIRST = "gc lists packs and segments before it lists pushes"
    PUBLISH = "gc publishes what it is to delete in a new epoch"
    FENCE = "gc waits for, or revokes, every open push that has not acknowledged the new epoch"
    MARK_AGAIN = "gc marks again after the fence"
    CONDEMNED_FOR_EVER = "what is condemned stays so while it exists"
    ROLL_FORWARD = "gc creates the refs of sealed pushes before it marks"
    ROLL_ALL_FORWARD = "rolling forward creates every ref of a sealed push"
    TOMBSTONES_STAY = "no ref and no tombstone is ever removed"
    LATEST_EPOCH = "gc goes on only if its epoch is the highest after it was created"
    # Segments.
    SEGMENTS_OF_OPEN_PUSHES = "gc deletes no segment of a push that is open"
    SEGMENTS_ROLLED_FORWARD = "gc deletes segments of sealed pushes only after all their refs exist"
    NEWEST_SEGMENT = "of several refs to one generation the one repacked last says where its chunks are"
    LOOK_AGAIN = "who finds a segment or pack missing lists the refs again"
    # Records of pushes.
    KEEP_REVOKED = "an `end` that says revoked is never removed"
    PURGE_ROLLED_FORWARD = "records of a sealed push are removed only after all its refs exist"
    LOOK_AT_OWN_REFS = "a push that finds itself revoked looks whether its refs exist before it starts over"
    # A push that is resumed.
    SEAL_IN_JOURNAL = "a push notes what it seals before it does, and when resumed does nothing but that"
    RELY_AFRESH = "a resumed push decides again, after it has read the epoch, on what it relies"
    ALL_CONDEMNED = "a push relies on nothing that any epoch condemned which it has acknowledged, not the newest alone"
    ALL_EPOCHS = "who relies on a pack of a push of its own that was revoked knows of every epoch since that began"
    NEW_NUMBERS = "a resumed push gives no number again to a pack or segment of other content"
    # Answers that are lost.
    READ_BACK = "a create whose answer is lost is read back and compared"
    UNKNOWN_IS_NO_FAILURE = "a create of unknown outcome is never reported as a failure"
    OPEN_IS_CERTAIN = "a push goes on only once its `open` is known to exist"
    SEAL_IS_CERTAIN = "a push creates its refs only once its `end` is known to say sealed"
    EPOCH_IS_CERTAIN = "gc goes on only once its epoch is known to exist"
    FENCE_IS_CERTAIN = "gc goes on only once every `end` that it created is known to exist"
    # Aliases.
    NAMED_MOVER = "the body of an alias names the move that made it"
    COMPARE_AGAIN = "a mover that comes too late looks at the alias again"


ALL = frozenset(Rule)
