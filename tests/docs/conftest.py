"""Tells at the end how much of each page was run."""

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found = [
        value
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == "page"
    ]
    if not found:
        return
    terminalreporter.section("blocks of the documentation that were run")
    for page, ran, left in sorted(found):
        reasons = "; ".join(f"{count} not run: {reason}" for reason, count in Counter(left).items())
        terminalreporter.write_line(f"{page:<36} {ran:>3}   {reasons}")
    total, kept = sum(ran for _, ran, _ in found), sum(len(left) for *_, left in found)
    terminalreporter.write_line(f"{len(found)} pages, {total} blocks run, {kept} not run")
