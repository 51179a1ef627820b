"""The quality report as one HTML page: no scripts, no network, every text escaped."""

import json
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from alter_core.data.dataset import SPLITS
from alter_core.quality.doubtful import LEAST_ROWS
from alter_core.quality.report import QualityReport, TaskReport
from alter_core.whole import write_json, write_text

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:68rem;margin:2rem auto;padding:0 1rem;color:#1c1c1c;background:#fff}
table{border-collapse:collapse;margin:.5rem 0 1rem;width:100%}
td,th{border-bottom:1px solid #ddd;padding:.3rem .6rem;text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr.sum td{border-top:2px solid #999;font-weight:600}
code{font-size:.9em;overflow-wrap:anywhere} p.lead{font-size:1.15rem} section{margin-top:2.5rem}
h2{border-bottom:2px solid #ccc;padding-bottom:.2rem} h2 small{font-weight:400} summary{cursor:pointer;color:#555}
.ok{color:#176b2c}.warn{color:#8a5a00}.block{color:#a11212;font-weight:600} small,.note{color:#555}
.bar{display:inline-block;height:.7em;background:#4a6fa5;vertical-align:baseline}
ul{margin:.2rem 0;padding-left:1.2rem} td.text{white-space:pre-line;overflow-wrap:anywhere}
"""
WORDS = {"ok": "passes", "warn": "passes with warnings", "block": "is blocked"}
DOUBTFUL = "doubtful"
_ROWS, _TEXT = 10, 300  # doubtful rows, and characters of each, that the page shows
_LABELS = 25  # that are shown at once; the others unfold
_LIMITED = {"input": "inputs fit max_input_tokens", "target": "targets fit max_target_tokens"}


def write_report(report: QualityReport, folder: Path) -> Path:
    """Write quality.html, and beside it Great Expectations' own results as JSON and doubtful rows as TASK.jsonl in the
    folder DOUBTFUL; the path of the page."""
    page = folder / "quality.html"
    write_text(page, quality_page(report))
    write_json(folder / "great_expectations.json", report.gx_json)
    for name, found in report.doubtful.items():
        if found.rows:
            lines = (json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in found.rows)
            write_text(folder / DOUBTFUL / f"{name}.jsonl", "".join(lines))
    return page


def quality_page(report: QualityReport) -> str:
    """The whole page."""
    rows = sum(sum(task["rows"].values()) for task in report.tasks.values())
    parts = [
        f"<h1>Data of {escape(report.domain)}</h1>",
        f'<p class="lead">The data <span class="{report.outcome}">{WORDS[report.outcome]}</span>: '
        f"{rows:,} rows of {len(report.tasks)} tasks.</p>",
        f"<p><small>Digest of the rows: <code>{escape(report.digest)}</code></small></p>",
        _wrong(report),
        _counts(report),
    ]
    parts += [_task(report, name) for name in report.tasks]
    title = escape(f"Data of {report.domain}")
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _wrong(report: QualityReport) -> str:
    items = [*report.wrong("block"), *report.wrong("warn")]
    if not items:
        return f"<p>All {len(report.items)} checks passed.</p>"
    rows = []
    for item in items:
        places = "".join(f"<li><code>{escape(row)}</code></li>" for row in item.rows)
        what = f"{escape(item.text)}<br><small>{escape(item.remedy)}</small>" + (f"<ul>{places}</ul>" if places else "")
        rows.append(
            f'<tr><td class="{item.outcome}">{item.outcome}</td><td><a href="#{escape(item.task)}">'
            f"{escape(item.task)}</a></td><td>{escape(item.check)}</td><td>{what}</td></tr>"
        )
    head = "<tr><th></th><th>Task</th><th>Check</th><th>What was found, and what to do</th></tr>"
    passed = f"<p>The other {len(report.items) - len(items)} checks passed.</p>"
    return f"<h2>What to look at</h2><table>{head}{''.join(rows)}</table>{passed}"


def _counts(report: QualityReport) -> str:
    removed = ("duplicates", "leakage", "contradictions")
    head = "".join(f'<th class="n">{name}</th>' for name in (*SPLITS, "read", *removed))
    rows, sums = [], [0] * (len(SPLITS) + 1 + len(removed))
    for name, task in report.tasks.items():
        fewer = task["duplicates"], task["leakage"], task["contradictions"]
        numbers = [*(task["rows"][split] for split in SPLITS), task["read"], *fewer]
        sums = [one + two for one, two in zip(sums, numbers, strict=True)]
        link = f'<a href="#{escape(name)}">{escape(name)}</a><br><small>{escape(task["type"])}</small>'
        licence = escape(task["licence"] or "not stated")
        rows.append(f"<tr><td>{link}</td>{_cells(numbers)}<td>{licence}</td></tr>")
    rows.append(f'<tr class="sum"><td>all</td>{_cells(sums)}<td></td></tr>')
    note = (
        "Read are the rows that the sources gave. Duplicates repeat an input with its target, and one of them stays. "
        "Leakage are rows whose input stands in another split too: it stays in test before validation before train. "
        "Contradictions are inputs with more than one target: label tasks drop them, others keep them."
    )
    table = f"<table><tr><th>Task</th>{head}<th>Licence</th></tr>{''.join(rows)}</table>"
    return f'<h2>Rows</h2>{table}<p class="note"><small>{note}</small></p>'


def _cells(numbers: list[int]) -> str:
    return "".join(f'<td class="n">{number:,}</td>' for number in numbers)


def _task(report: QualityReport, name: str) -> str:
    task = report.tasks[name]
    parts = [f'<h2 id="{escape(name)}">{escape(name)} <small>{escape(task["type"])}</small></h2>']
    if task["description"]:
        parts.append(f"<p>{escape(task['description'])}</p>")
    facts = [f"Licence: {escape(task['licence'] or 'not stated')}"]
    for role, source in task["sources"].items():
        said = ", ".join(f"{key}: {_said(value)}" for key, value in source.items())
        facts.append(f"{'Test rows' if role == 'test' else 'Rows'} from <code>{escape(said)}</code>")
    left_out = {"source &gt; where": task["filtered"], "source &gt; limit": task["over_limit"]}
    facts += [f"{count:,} rows left out by {by}" for by, count in left_out.items() if count]
    parts += [f"<p>{'<br>'.join(facts)}</p>", _samples(task), _labels(task), _lengths(report, name)]
    if name in report.drift:
        cells = "".join(
            f'<tr><td>{escape(what)}</td><td class="n">{value:.2f}</td></tr>'
            for what, value in report.drift[name].items()
        )
        parts.append(
            f"<h3>Distance from the champion's training rows (0 alike, 1 nothing in common)</h3><table>{cells}</table>"
        )
    parts.append(_doubtful(report, name))
    passed = [f"<li>{escape(item.check)}</li>" for item in report.items if (item.task, item.outcome) == (name, "ok")]
    parts.append(f"<details><summary>{len(passed)} checks passed</summary><ul>{''.join(passed)}</ul></details>")
    return f"<section>{''.join(parts)}</section>"


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _samples(task: TaskReport) -> str:
    rows = "".join(
        f'<tr><td class="text">{escape(row["input"])}<br><small>{escape(row["place"])}</small></td>'
        f'<td class="text">{escape(row["target"])}</td></tr>'
        for row in task["samples"]
    )
    return f"<h3>Some training rows</h3><table><tr><th>Input</th><th>Target</th></tr>{rows}</table>" if rows else ""


def _labels(task: TaskReport) -> str:
    train, test = task["label_counts"]["train"], task["label_counts"]["test"]
    if not train:
        return ""
    most = max(train.values())
    order = sorted({**test, **train}, key=lambda label: (-train.get(label, 0), label))
    rows = [
        f"<tr><td>{escape(label)}</td>{_share(train, label)}{_share(test, label)}"
        f'<td><span class="bar" style="width:{12 * train.get(label, 0) / most:.1f}rem"></span></td></tr>'
        for label in order
    ]
    head = '<tr><th>Label</th><th class="n" colspan="2">train</th><th class="n" colspan="2">test</th><th></th></tr>'
    shown = f"<table>{head}{''.join(rows[:_LABELS])}</table>"
    if len(rows) > _LABELS:
        rest = f"<table>{head}{''.join(rows[_LABELS:])}</table>"
        shown += f"<details><summary>{len(rows) - _LABELS} rarer labels</summary>{rest}</details>"
    return f"<h3>{len(order)} labels</h3>{shown}"


def _doubtful(report: QualityReport, name: str) -> str:
    found = report.doubtful.get(name)
    if not found:
        return ""
    title = "<h3>Labels that are probably wrong</h3>"
    if not found.looked_at:
        return f"{title}<p>Not looked at: fewer than {LEAST_ROWS} training rows of labels with enough rows each.</p>"
    rows = "".join(
        f'<tr><td class="text">{escape(row.input[:_TEXT])}<br><small>{escape(row.place)}</small></td>'
        f"<td>{escape(row.label)}<br><small>{row.probability:.1%}</small></td><td>{escape(row.likely)}</td></tr>"
        for row in found.rows[:_ROWS]
    )
    head = "<tr><th>Input</th><th>Label, and how likely</th><th>Likelier</th></tr>"
    where = f"; all are in <code>{DOUBTFUL}/{escape(name)}.jsonl</code>" if found.rows else ""
    return (
        f"{title}<p>{len(found.rows):,} of {found.looked_at:,} training rows, as a bag of words finds that did not "
        f"learn from them{where}. To look at: none is dropped.</p>" + (f"<table>{head}{rows}</table>" if rows else "")
    )


def _share(counts: dict[str, int], label: str) -> str:
    count = counts.get(label, 0)
    return f'<td class="n">{count:,}</td><td class="n">{count / max(sum(counts.values()), 1):.1%}</td>'


def _lengths(report: QualityReport, name: str) -> str:
    profile, limits = report.profile[name], report.tasks[name]["limits"]
    rows = ""
    for part, lengths in (("input", profile.get("input_tokens")), ("target", profile.get("target_tokens"))):
        if not lengths:
            continue
        over = next((i for i in report.items if (i.task, i.check) == (name, _LIMITED[part])), None)
        share = f"{over.unexpected / over.checked:.1%}" if over and over.checked else ""
        rows += f'<tr><td>{part}</td>{_cells(list(lengths.values()))}<td class="n">{limits[part]:,}</td>'
        rows += f'<td class="n">{share}</td></tr>'
    if not rows:
        return ""
    head = "".join(f'<th class="n">{float(q):.0%}</th>' for q in profile["input_tokens"])
    head += '<th class="n">limit</th><th class="n">rows over it</th>'
    return (
        f"<h3>Tokens: as many or fewer in this share of training rows</h3><table><tr><th></th>{head}</tr>{rows}</table>"
    )
