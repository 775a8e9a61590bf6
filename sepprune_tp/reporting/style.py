"""The style of the page: one column on a phone, light or dark as the reader's system is."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --quiet: #505a66; --line: #c9d0d9;
  --soft: #f1f4f8; --first: #0b5cad; --second: #a8430a; }
@media (prefers-color-scheme: dark) { :root { --page: #14171c; --ink: #e7eaef; --quiet: #abb4c0;
  --line: #424b57; --soft: #1f242c; --first: #74b9ff; --second: #ffab66; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { margin: .5rem 0; max-width: 45rem; }
a { color: var(--first); }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; list-style: none; padding: 0; }
nav a { display: inline-block; padding: .2rem 0; }
.quiet, figcaption, caption { color: var(--quiet); font-size: .875rem; }
.scroll { overflow-x: auto; }
.scroll:focus-visible { outline: 2px solid var(--first); }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .4rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; }
th:first-child, .wide th, .wide td, .words th, .words td {
  text-align: left; }
thead th { background: var(--soft); vertical-align: bottom; }
tbody th { font-weight: 600; }
.wide, .words { width: 100%; }
.wide td { min-width: 7rem; }
.wide th:first-child { min-width: 6.5rem; max-width: 18rem; overflow-wrap: anywhere;
  font-weight: 400; }
.words th { vertical-align: top; font-weight: 400; color: var(--quiet); width: 30%; }
.words td { overflow-wrap: anywhere; }
.bar { display: block; width: var(--of); height: .7rem; margin: .3rem 0 .1rem;
  border: 1px solid var(--quiet); border-radius: 2px; overflow: hidden; }
.bar::before { content: ""; display: block; height: 100%; width: var(--kept);
  background: var(--first); }
figure { margin: 1rem 0; }
svg { display: block; width: 100%; max-width: 34rem; height: auto; }
svg text { fill: var(--ink); font: 14px system-ui, sans-serif; }
svg .axis { stroke: var(--quiet); }
svg .grid { stroke: var(--line); stroke-width: .6; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .first { stroke: var(--first); }
svg .second { stroke: var(--second); stroke-dasharray: 6 4; }
svg .faint { stroke: var(--quiet); stroke-width: .8; opacity: .6; }
svg .dot { fill: var(--first); stroke: var(--page); }
.key { display: inline-block; width: 1.6em; vertical-align: middle; margin-right: .4em;
  border-top: 3px solid var(--first); }
.key.second { border-top: 3px dashed var(--second); }
.key.faint { border-top: 1px solid var(--quiet); }
.legend { display: flex; flex-wrap: wrap; gap: 0 1.25rem; }
.clips { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); }
.clips figure { margin: 0; padding: .6rem; background: var(--soft); border-radius: 6px; }
.clips img { display: block; width: 100%; height: 7rem; border-radius: 3px; }
.clips audio { display: block; width: 100%; margin-top: .4rem; }
.clips strong { color: var(--ink); display: block; }
@media (max-width: 32rem) { th, td { padding: .3rem; } table { font-size: .8rem; } }
@media (min-width: 48rem) { .wide td { width: 14rem; } }
@media print { nav, audio { display: none; } }
""".strip()
