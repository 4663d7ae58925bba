"""Pictures on a page: large ones side by side, or rows of small ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Attributes:
        uri: ``data:`` address.
        caption: Below the picture.
        title: Shown when the pointer rests on it.
    """

    uri: str
    caption: str
    title: str = ""


def picture_rows(pictures: Mapping[str, Sequence[Picture]], *, side: int = 72) -> str:
    """Return HTML with one row of pictures per name; names without a picture are left out."""
    return "".join(
        f'<div style="margin:.2rem 0 .8rem"><div style="font-size:.85rem;font-weight:550">{escape(name)}</div>'
        + "".join(
            f'<span style="display:inline-block;margin-right:.35rem;text-align:center;font-size:.7rem">'
            f'<img src="{escape(p.uri, quote=True)}" alt="{escape(name, quote=True)} {escape(p.caption, quote=True)}" '
            f'title="{escape(p.title, quote=True)}" width="{side}" height="{side}"><br>{escape(p.caption)}</span>'
            for p in row
        )
        + "</div>"
        for name, row in pictures.items()
        if row
    )


def gallery(pictures: Sequence[Picture], width: int) -> str:
    """Return HTML with large pictures side by side, each at most ``width`` rem wide, with its caption."""
    return "".join(
        f'<figure style="display:inline-block;margin:0 .6rem .6rem 0;width:min(100%,{width}rem)">'
        f'<img src="{escape(p.uri, quote=True)}" alt="{escape(p.caption, quote=True)}" style="width:100%">'
        f'<figcaption style="font-size:.8rem;color:var(--muted)">{escape(p.caption)}</figcaption></figure>'
        for p in pictures
    )
