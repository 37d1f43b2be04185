"""What a report's page may be made of; anything else in it is a fault."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "img"}
_HTML = """html head title style body a header h1 h2 h3 p nav main section div dl dt dd b small ul li figure figcaption
table caption thead tbody tr th td details summary pre strong span bdi"""
_ATTRIBUTES = """lang charset http-equiv content name rel href class id aria-labelledby aria-label tabindex role scope
src alt viewbox width height x y x1 y1 x2 y2 cx cy r rx points transform text-anchor fill-opacity"""
HTML, ATTRIBUTES = set(_HTML.split()), set(_ATTRIBUTES.split())
SVG = {"svg", "title", "desc", "g", "line", "polyline", "circle", "rect", "text"}


class Page(HTMLParser):
    """Reads a page and fails at the first thing that does not belong there."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[str] = []
        self.tags: dict[str, int] = {}
        self.words: dict[str, list[str]] = {}
        self.drawings: list[set[str]] = []
        self.tables: list[set[str]] = []
        self.feed(html)
        self.close()
        assert self.open == [], f"left open: {self.open}"
        assert len(self.ids) == len(set(self.ids))
        assert all(link == "data:," or (link[0] == "#" and link[1:] in self.ids) for link in self.links), self.links
        assert all(image.startswith(("data:image/webp;base64,", "data:image/png;base64,")) for image in self.images)
        assert all({"title", "desc"} <= inside for inside in self.drawings), "a drawing without words"
        assert all({"caption", "thead", "th"} <= inside for inside in self.tables), "a table without a caption"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in HTML | SVG | VOID, tag
        assert (tag in SVG - {"title"}) <= ("svg" in [*self.open, tag]), tag
        for name, value in attrs:
            assert name in ATTRIBUTES, (tag, name)
            self._take(tag, name, value or "")
        self.tags[tag] = self.tags.get(tag, 0) + 1
        if tag == "svg":
            self.drawings.append(set())
        if tag == "table":
            self.tables.append(set())
        if "svg" in self.open:
            self.drawings[-1].add(tag)
        if "table" in self.open:
            self.tables[-1].add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def _take(self, tag: str, name: str, value: str) -> None:
        if name == "id":
            self.ids.append(value)
        elif name == "href":
            self.links.append(value)
        elif name == "src":
            assert tag == "img"
            self.images.append(value)
        elif name == "scope":
            assert value in ("col", "row")

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> is out of order"

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.setdefault(self.open[-1] if self.open else "", []).append(data.strip())

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data[:80]}")

    def text(self, *tags: str) -> list[str]:
        """Everything written in elements of these names."""
        return [word for tag in tags or self.words for word in self.words.get(tag, [])]
