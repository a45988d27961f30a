"""The pieces of a report's HTML: one self-contained page, light and dark, for screens from a phone's width on."""

import html
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tamft.evaluation.figures import shape

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--dim:#59636e;--page:#fff;--card:#f6f8fa;--line:#d1d9e0;--warn:#fff4d6;
--s0:#0072b2;--s1:#c44e00;--s2:#007a59;--s3:#a8447f;--s4:#8a6500;--s5:#3b6fb6;--s6:#6b4ba3;--s7:#555}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--dim:#9aa7b4;--page:#0d1117;--card:#161b22;--line:#30363d;
--warn:#3a2f10;--s0:#56b4e9;--s1:#ff9e5e;--s2:#2fc79b;--s3:#e59fc8;--s4:#e8c04a;--s5:#8db4ec;--s6:#b9a1e6;--s7:#aaa}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:72rem;padding:1.5rem 1rem 4rem;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.25;margin:0 0 .25rem}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
p,li{margin:.4rem 0;max-width:48rem}ul{padding-left:1.2rem;margin:.4rem 0}
.dim,figcaption,small{color:var(--dim)}figcaption,.dim{font-size:.9rem}
.warn{background:var(--warn);border-radius:8px;padding:.7rem 1rem;margin:1rem 0}
.scroll{overflow-x:auto;max-width:100%}.scroll:focus-visible{outline:2px solid var(--s0)}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.95rem;overflow-wrap:normal}
th,td{padding:.4rem .75rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap;
vertical-align:top}thead th{vertical-align:bottom;white-space:normal;min-width:6rem;max-width:14rem;
overflow-wrap:anywhere}
th:first-child{text-align:left;white-space:normal;min-width:16rem;max-width:22rem;
overflow-wrap:anywhere;position:sticky;left:0;background:var(--page)}tbody th{font-weight:400}
td small,th small{display:block;font-size:.8rem;font-weight:400}td.word{color:var(--dim)}td.best{font-weight:700}
tr.mean td,tbody tr.mean th{font-weight:600}tr.line>*{border-top:2px solid var(--ink)}
.key{margin-right:.35em}.whole{overflow-wrap:break-word}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));gap:1rem;
margin-top:1rem;align-items:start}
figure{margin:0;background:var(--card);border-radius:8px;padding:.7rem;min-width:0}
svg{display:block;width:100%;height:auto}svg text{font-family:inherit!important}
dl{display:grid;grid-template-columns:minmax(8rem,16rem) minmax(0,1fr);gap:.3rem 1rem;font-size:.9rem;margin:.5rem 0}
dt{color:var(--dim)}dd{margin:0}summary{cursor:pointer;font-size:.9rem}
@media (max-width:40rem){th,td{padding:.35rem .4rem;font-size:.85rem}th:first-child{min-width:8rem;max-width:8rem}
thead th{min-width:6.5rem;max-width:8rem}
dl{grid-template-columns:minmax(0,1fr)}dt{margin-top:.5rem}}
"""
# No script, nothing fetched: a name that slipped through unescaped could do nothing either.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
SYMBOLS = "●■▲◆"  # the markers of the figures, in their order
DASH = "–"


def text(value: Any) -> str:
    """A value as HTML text; a dash for None."""
    return html.escape(DASH if value is None else str(value))


def key(number: int | None) -> str:
    """What stands for a series in the figures: colour and symbol of its number; None: the baseline's."""
    return f'<span class="key" style="color:{_colour(number)}" aria-hidden="true">{_symbol(number)}</span>'


def words(names: Sequence[str]) -> list[str]:
    """Heads of columns that are broken between words only; a model's name may be broken anywhere."""
    return [f'<span class="whole">{text(name)}</span>' for name in names]


def standalone(drawn: str, series: Mapping[str, int | None]) -> str:
    """A figure of the page as a file of its own: the colours of light pages, on white, what is which below it.

    `series`: the number of each one that is not named in the figure; None: the baseline's.
    """
    colours = dict(re.findall(r"--(\w+):([^;}]+)", STYLE.partition("}")[0]))
    drawn = _with_legend(drawn, series)
    alone = re.sub(r"var\(--(\w+)\)", lambda found: colours[found[1]], drawn)
    return alone.replace("<svg ", '<svg style="background:#fff" ', 1) + "\n"


def _with_legend(drawn: str, series: Mapping[str, int | None]) -> str:
    """The figure with a taller box, and two names in each line below."""
    width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn)[0])
    named = [
        f'<text x="{8 + i % 2 * width / 2:g}" y="{height + 9 + i // 2 * 13:g}" style="font:9px sans-serif">'
        f'<tspan style="fill:{_colour(number)}">{_symbol(number)}</tspan> {text(name)}</text>'
        for i, (name, number) in enumerate(series.items())
    ]
    taller = f'viewBox="0 0 {width:g} {height + (len(named) + 1) // 2 * 13 + 3 * bool(named):g}"'
    drawn = re.sub(r'viewBox="[^"]*"', taller, drawn, count=1)
    return f"{drawn.rpartition('</svg>')[0]}{''.join(named)}</svg>"


def _colour(number: int | None) -> str:
    return "var(--ink);opacity:.45" if number is None else f"var(--s{number % 8})"


def _symbol(number: int | None) -> str:
    return "■" if number is None else SYMBOLS[shape(number)]


def table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], classes: Mapping[int, str] | None = None
) -> str:
    """A table in a box of its own that scrolls, its caption above; its cells are HTML already.

    A cell that begins with "<td" is taken as it is. `classes`: of rows, by their number.
    """
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = []
    for number, (first, *rest) in enumerate(rows):
        cells = [cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in rest]
        name = (classes or {}).get(number)
        opening = f'<tr class="{name}">' if name else "<tr>"
        body.append(f'{opening}<th scope="row">{first}</th>{"".join(cells)}</tr>')
    return (
        f'<p class="dim">{text(caption)}</p><div class="scroll" role="region" aria-label="{text(caption)}" '
        f'tabindex="0"><table><thead><tr>{top}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    )


def figure(drawn: str, caption: str) -> str:
    """A figure; `drawn` is SVG, `caption` HTML."""
    return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"


def plots(figures: Sequence[str]) -> str:
    return f'<div class="plots">{"".join(figures)}</div>' if figures else ""


def warning(lines: Sequence[str]) -> str:
    """A coloured box of plain text lines; nothing for no lines."""
    return f'<p class="warn">{"<br>".join(map(text, lines))}</p>' if lines else ""


def facts(pairs: Sequence[tuple[str, Any]], *, folded: str = "") -> str:
    """A list of names and values; `folded`: the line that opens it, for a long one."""
    made = "<dl>" + "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in pairs) + "</dl>"
    return f"<details><summary>{text(folded)}</summary>{made}</details>" if folded else made


def shared_facts(
    readers: Mapping[str, Callable[[Any], Any]], things: Mapping[str, Any], all_of: str
) -> list[tuple[str, Any]]:
    """Facts about several things by their labels: one line where all agree, one for each where they do not."""
    pairs: list[tuple[str, Any]] = []
    for name, read in readers.items():
        values = {label: read(thing) for label, thing in things.items()}
        if len(set(map(str, values.values()))) == 1:
            pairs.append((name if len(values) == 1 else f"{name} ({all_of})", next(iter(values.values()))))
        else:
            pairs += [(f"{name}, {label}", value) for label, value in values.items()]
    return pairs


def written() -> tuple[str, str]:
    return "written", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def page(title: str, below: str, sections: Mapping[str, str], notice: Sequence[str] = ()) -> str:
    """The whole page. `sections`: HTML by heading, empty ones are left out; title, below and notice are plain text."""
    parts = [f"<section><h2>{text(head)}</h2>{body}</section>" for head, body in sections.items() if body]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>tamft: {text(title)}</title>
<style>{STYLE}</style></head><body><main>
<h1>{text(title)}</h1>
<p class="dim">{text(below)}</p>
{warning(notice)}
{"".join(parts)}
</main></body></html>
"""
