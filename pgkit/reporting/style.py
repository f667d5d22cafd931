"""How the page looks: light and dark, wide and narrow."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --page: #f6f6f3; --card: #fff; --ink: #1c2127; --soft: #59626d; --line: #dfe2e6;
  --link: #0b57a4; --c0: #1f6fb4; --c1: #c8501b; --c2: #1c8a5a; --c3: #a3359b; --c4: #9a7000; --c5: #6b4fc4;
  --c6: #0b8591; --c7: #c22f57; --c8: #66717f; }
@media (prefers-color-scheme: dark) { :root { --page: #121519; --card: #1a1e24; --ink: #e7eaee; --soft: #a7b0bb;
  --line: #333a43; --link: #8dbbff; --c0: #6fb1ee; --c1: #f08a58; --c2: #55c795; --c3: #df85d8; --c4: #e0b64a;
  --c5: #ac97f5; --c6: #4fc7d3; --c7: #f27d9c; --c8: #a7b1be; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
main, header, footer { max-width: 1180px; margin: 0 auto; padding: 0 16px; }
header { padding-top: 28px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 1.2rem; margin: 0 0 8px; }
h3 { font-size: 1rem; margin: 0 0 6px; }
p { margin: 0 0 12px; max-width: 72ch; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; border-radius: 3px; }
.skip { position: absolute; left: -999px; }
.skip:focus { left: 8px; top: 8px; background: var(--card); padding: 8px 12px; z-index: 1; }
nav ul { list-style: none; padding: 0; margin: 12px 0 20px; display: flex; flex-wrap: wrap; gap: 6px 16px; }
nav a { display: inline-block; padding: 4px 0; }
.soft, figcaption, footer { color: var(--soft); font-size: .875rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px; }
main { display: grid; grid-template-columns: minmax(0, 1fr); gap: 18px; padding-bottom: 18px; }
@media (min-width: 900px) { main.solo { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .wide, #missing { grid-column: 1 / -1; } }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 22px; }
.columns > * { min-width: 0; }
figure { margin: 0 0 14px; max-width: 560px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); gap: 8px 26px; }
.plot { display: block; width: 100%; height: auto; max-width: 100%; }
.swatch { width: 24px; height: 12px; margin-right: 5px; vertical-align: middle; }
.legend { list-style: none; margin: 4px 0; padding: 0; display: flex; flex-wrap: wrap; gap: 2px 14px;
  font-size: .875rem; }
text { font: 11.5px system-ui, sans-serif; fill: var(--soft); }
text.row { font-size: 12.5px; fill: var(--ink); paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
text.chosen { font-weight: 700; fill: var(--ink); }
.middle { text-anchor: middle; }
.end { text-anchor: end; }
.grid { stroke: var(--line); }
.level { stroke: var(--ink); stroke-dasharray: 4 3; opacity: .75; }
.line { stroke: var(--c); fill: none; stroke-width: 1.6; }
.mark { fill: var(--c); stroke: var(--c); }
.mark.stack { stroke: var(--card); stroke-width: .5; }
.mark.hollow { fill: var(--card); stroke-width: 1.8; }
.whisker { stroke: var(--c); stroke-width: 2.5; stroke-linecap: round; }
.band { fill: var(--c); opacity: .18; }
.unresolved { fill: var(--c8); opacity: .22; }
.scroll { overflow-x: auto; }
.scroll + .scroll { margin-top: 14px; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
td.text { min-width: 12ch; }
td.text:last-child { min-width: 34ch; }
caption { text-align: left; color: var(--soft); padding-bottom: 4px; }
th, td { text-align: left; padding: 4px 14px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap; }
tbody th { font-weight: 500; white-space: nowrap; }
details { margin: 6px 0; }
summary { cursor: pointer; padding: 4px 0; color: var(--link); }
@media (max-width: 560px) { section { padding: 14px; } text { font-size: 13.5px; } text.row { font-size: 14px; } }
@media print { body { background: none; } section { break-inside: avoid; } }
""" + "\n".join(f".s{k} {{ --c: var(--c{k}); }}" for k in range(9))
