"""docs/how-to/tensors.md: what needs no PyTorch, as its reader types it. The rest is in tests/integrations."""

from __future__ import annotations

from pathlib import Path

import casstore
from tests.pages import ROOT, Reader


def test_the_page_can_be_followed(tmp_path: Path) -> None:
    home = tmp_path / "ann"
    home.mkdir()
    with casstore.Store(home / ".casstore", auto_gc=False) as store:
        store.set_setting("link_mode", "hardlink")
    with Reader(home) as reader:
        reader.read((ROOT / "docs/how-to/tensors.md").read_text(encoding="utf-8"))
