"""The report of a night in a notebook."""

from __future__ import annotations

import html as html_module
from dataclasses import dataclass
from pathlib import Path

from star_ctr.conf.files import write_text


@dataclass(frozen=True)
class Report:
    """The report of a night. A notebook shows it as a page.

    Attributes:
        ds: The night.
        html: The page, which needs no other files.
    """

    ds: str
    html: str

    def save(self, file: str | Path) -> Path:
        """Write the page to a file, and return its path."""
        path = Path(file)
        write_text(path, self.html)
        return path

    def __repr__(self) -> str:
        return f"Report of {self.ds}, {len(self.html):,} characters; `save` writes it to a file"

    def _repr_html_(self) -> str:
        # In a frame, so that the styles of the page and those of the notebook do not affect each other.
        page = html_module.escape(self.html, quote=True)
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 900px; border: 0"></iframe>'
