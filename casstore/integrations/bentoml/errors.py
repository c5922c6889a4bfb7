"""casstore's errors as BentoML's, so that what catches those goes on catching them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bentoml.exceptions import BentoMLException, InvalidArgument, NotFound

from casstore import CasstoreError, InvalidMetadata, InvalidSource, InvalidTag, TagNotFound


@contextlib.contextmanager
def as_bentoml() -> Iterator[None]:
    """Raise BentoML's NotFound, InvalidArgument or BentoMLException, with casstore's words."""
    try:
        yield
    except TagNotFound as error:
        raise NotFound(str(error)) from error
    except (InvalidTag, InvalidMetadata, InvalidSource) as error:
        raise InvalidArgument(str(error)) from error
    except CasstoreError as error:
        raise BentoMLException(str(error)) from error
