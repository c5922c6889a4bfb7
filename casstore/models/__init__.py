"""`from casstore import models` in place of `from bentoml import models`: the same calls, kept in a casstore store.

BentoML need not be installed. The store is the one at `$CASSTORE_HOME` unless `_model_store=` names another.
docs/bentoml.md says call by call what differs from BentoML, and why.
"""

from casstore.models.bento_model import Model
from casstore.models.calls import create, delete, export_model, get, import_model, list, pull, push
from casstore.models.info import ModelContext, ModelInfo, ModelOptions, ModelSignature

__all__ = [
    "Model",
    "ModelContext",
    "ModelInfo",
    "ModelOptions",
    "ModelSignature",
    "create",
    "delete",
    "export_model",
    "get",
    "import_model",
    "list",
    "pull",
    "push",
]
