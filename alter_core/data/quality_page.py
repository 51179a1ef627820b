"""The quality report as one HTML page: no scripts, no network, every text escaped."""

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alter_core.data.quality import QualityReport

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1c1c1c;background:#fff}
table{border-collapse:collapse;margin:.5rem 0 1.5rem;width:100%}
td,th{border-bottom:1px solid #ddd;padding:.3rem .6rem;text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums} code{font-size:.9em;overflow-wrap:anywhere}
.ok{color:#176b2c}.warn{color:#8a5a00}.block{color:#a11212;font-weight:600} small{color:#555}
.bar{display:inline-block;height:.7em;background:#4a6fa5;vertical-align:baseline}
ul{margin:.2rem 0;padding-left:1.2rem}
"""
_WORDS = {"ok": "passes", "warn": "passes with warnings", "block": "is blocked"}


def quality_page(report: "QualityReport") -> str:
    """The whole page."""
    parts = [
        f"<h1>Data of {escape(report.domain)}</h1>",
        f'<p>Digest <code>{escape(report.digest)}</code>. It <span class="{report.outcome}">'
        f"{_WORDS[report.outcome]}</span>.</p>",
        _wrong(report),
        _counts(report),
    ]
    parts += [_task(report, name) for name in report.tasks]
    title = escape(f"Data of {report.domain}")
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _wrong(report: "QualityReport") -> str:
    items = [*report.wrong("block"), *report.wrong("warn")]
    if not items:
        return "<p>Every check passed.</p>"
    rows = []
    for item in items:
        places = "".join(f"<li><code>{escape(row)}</code></li>" for row in item.rows)
        what = f"{escape(item.text)}<br><small>{escape(item.remedy)}</small>" + (f"<ul>{places}</ul>" if places else "")
        rows.append(
            f'<tr><td class="{item.outcome}">{item.outcome}</td><td>{escape(item.task)}</td>'
            f"<td>{escape(item.check)}</td><td>{what}</td></tr>"
        )
    return (
        f"<h2>What to look at</h2><table><tr><th></th><th>Task</th><th>Check</th><th></th></tr>{''.join(rows)}</table>"
    )


def _counts(report: "QualityReport") -> str:
    columns = ("read", "duplicates", "leakage", "contradictions")
    head = "".join(f'<th class="n">{name}</th>' for name in (*columns, "train", "validation", "test"))
    rows = []
    for name, task in report.tasks.items():
        cells = [task[c] for c in columns] + list(task["rows"].values())
        numbers = "".join(f'<td class="n">{value:,}</td>' for value in cells)
        rows.append(f"<tr><td>{escape(name)}</td><td>{escape(task['type'])}</td>{numbers}</tr>")
    return f"<h2>Rows</h2><table><tr><th>Task</th><th>Type</th>{head}</tr>{''.join(rows)}</table>"


def _task(report: "QualityReport", name: str) -> str:
    task, profile = report.tasks[name], report.profile[name]
    parts = [f"<h2>{escape(name)}</h2>"]
    if task["licence"]:
        parts.append(f"<p>Licence: {escape(task['licence'])}</p>")
    for role, source in task["sources"].items():
        said = ", ".join(f"{key}: {value}" for key, value in source.items())
        parts.append(f"<p>{escape(role)}: <code>{escape(said)}</code></p>")
    parts += [_labels(task), _lengths(profile)]
    if name in report.drift:
        cells = "".join(
            f'<tr><td>{escape(what)}</td><td class="n">{value:.2f}</td></tr>'
            for what, value in report.drift[name].items()
        )
        parts.append(
            f"<h3>Distance from the champion's training rows (0 alike, 1 nothing in common)</h3><table>{cells}</table>"
        )
    passed = [item.check for item in report.items if item.task == name and item.outcome == "ok"]
    parts.append(f"<p><small>Passed: {escape(', '.join(passed)) or 'none'}.</small></p>")
    return "".join(parts)


def _labels(task: dict[str, Any]) -> str:
    counts = task["label_counts"]["train"]
    if not counts:
        return ""
    total, most = sum(counts.values()), max(counts.values())
    rows = "".join(
        f'<tr><td>{escape(label)}</td><td class="n">{count:,}</td><td class="n">{count / total:.1%}</td>'
        f'<td><span class="bar" style="width:{12 * count / most:.1f}rem"></span></td></tr>'
        for label, count in sorted(counts.items(), key=lambda item: -item[1])
    )
    return f"<h3>Labels of the training rows</h3><table>{rows}</table>"


def _lengths(profile: dict[str, Any]) -> str:
    rows = ""
    for name in ("input_tokens", "target_tokens"):
        if profile.get(name):
            cells = "".join(f'<td class="n">{value:,}</td>' for value in profile[name].values())
            rows += f"<tr><td>{name.replace('_', ' ')}</td>{cells}</tr>"
    if not rows:
        return ""
    head = "".join(f'<th class="n">{float(q):.0%}</th>' for q in profile["input_tokens"])
    return f"<h3>Lengths: shares of training rows up to</h3><table><tr><th></th>{head}</tr>{rows}</table>"
