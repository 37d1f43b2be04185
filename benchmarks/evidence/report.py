"""Numbers and plots of docs/results.md, out of the CSVs of benchmarks/science.py.

    python -m benchmarks.evidence.report                        what build/science has, into docs/results.md
    python -m benchmarks.evidence.report --quick                the quick headline's table, to the terminal

The prose is written by hand. Between `<!-- NAME -->` and `<!-- end -->` stands what this script writes.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.evidence import plots, tables
from benchmarks.evidence.statistics import Row, read, runs

HEADLINE = (("h", "H"), ("base", "base accuracy"), ("novel", "novel accuracy"), ("few", "rarest third of base"))
TABLES: Mapping[str, tuple[str, Callable[[Sequence[Row]], list[str]]]] = {
    "headline": ("headline", lambda found: tables.by_tau(found, HEADLINE)),
    "headline-by-method": ("headline", lambda found: tables.by_column(found, "method", "h")),
    "headline-by-set": ("headline", lambda found: tables.by_column(found, "dataset", "h")),
    "headline-levels": ("headline", lambda found: tables.levels(found, "h")),
    "geometry": ("headline", tables.geometry),
    "sweep": ("sweep", tables.sweep),
    "rates": ("rates", tables.sweep),
    "few-shot": ("few-shot", tables.shots_curve),
    "imbalance": ("imbalance", tables.all_classes_by_tau),
    "cross-dataset": ("cross-dataset", tables.carried_over),
    "defaults": ("defaults", tables.defaults),
}
PLOTS: Mapping[str, tuple[str, Callable[[Sequence[Row], Path], None]]] = {
    "headline.png": ("headline", plots.difference_plot),
    "geometry.png": ("headline", plots.geometry_plot),
    "few-shot.png": ("few-shot", plots.curve_plot),
}


def cost(found: Sequence[Row]) -> str:
    """How much was computed."""
    minutes = sum(one["seconds"] for one in found) / 60
    return f"{len(found)} tunings, {minutes:.0f} minutes of tuning on one core."


def fill(text: str, name: str, lines: Sequence[str]) -> str:
    """Put lines between the marks of `name`; text without the marks stays as it is."""
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda match: match[1] + "\n".join(lines) + "\n" + match[2], text)


def main() -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/science"))
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        found = runs(read(options.folder / "headline-quick.csv"))
        print("\n".join([cost(found), "", *tables.by_tau(found, HEADLINE)]))
        return
    known = {path.stem: runs(read(path)) for path in sorted(options.folder.glob("*.csv"))}
    text = options.page.read_text()
    for name, (plan, make) in TABLES.items():
        if plan in known:
            told = [cost(known[plan]), ""] if name == plan else []
            text = fill(text, name, ["", *told, *make(known[plan]), ""])
    options.page.write_text(text)
    for name, (plan, draw) in PLOTS.items():
        if plan in known:
            draw(known[plan], options.page.parent / "images" / "results" / name)
            print(f"drew {name}")


if __name__ == "__main__":
    main()
