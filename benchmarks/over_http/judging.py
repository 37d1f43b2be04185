"""A figure beside what was asked for."""

from __future__ import annotations


def judge(what: str, found: float, wanted: float, how: str, form: str) -> None:
    """Print whether a figure is `at most` or `at least` what was wanted."""
    good = found <= wanted if how == "at most" else found >= wanted
    print(f"{'PASS' if good else 'FAIL'}: {what}: {form.format(found)}, wanted {how} {wanted:g}")
