#!/usr/bin/env python3
"""Opens a report.html in headless Chromium, on a light and a dark screen and on paper, and checks what it shows.

  apt-get install chromium
  python3 tests/report/render_report.py runs/mine/report.html [--output FOLDER]

Writes light.png, dark.png, narrow.png and print.pdf to the folder (default: beside the report). Checks with the
browser's own layout that every plot has its drawing, that no text is cut off by its plot or runs into another, that
text stands out from what is behind it, that nothing comes from elsewhere and no script is there. Exits with 1 if a
check fails, with 77 if there is no browser.
"""
import argparse
import html
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

failures = []


def check(what, good, figure=""):
    print(f"{'ok  ' if good else 'FAIL'} {what}{': ' if figure else ''}{figure}", flush=True)
    if not good:
        failures.append(what)


# Appended to a copy of the page: measures it, and leaves the figures as text.
MEASURE = """
<pre id="measured"></pre>
<script>
const luminance = colour => {
  const [r, g, b] = colour.match(/[0-9.]+/g).slice(0, 3).map(v => {
    v /= 255; return v <= 0.03928 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4); });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const contrast = (a, b) => { const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
  if (!/, 0\\)$|transparent/.test(c)) return c; } return 'rgb(255,255,255)'; };
const plots = [...document.querySelectorAll('figure')].map(figure => {
  const svg = figure.querySelector('svg'), box = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll('text')];
  const boxes = texts.map(t => [t.textContent, t.getBoundingClientRect()]);
  const outside = boxes.filter(([, b]) => b.left < box.left - 1 || b.right > box.right + 1 || b.top < box.top - 1 ||
                                          b.bottom > box.bottom + 1).map(([t]) => t);
  const overlaps = [];
  boxes.forEach(([t, a], i) => boxes.slice(i + 1).forEach(([u, b]) => {
    if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2) overlaps.push(t + ' / ' + u); }));
  const drawn = [...svg.querySelectorAll('.line, .dots, .dashed, .marks')];
  return { title: figure.querySelector('h3').textContent, width: box.width, height: box.height, series: drawn.length,
           ticks: svg.querySelectorAll('.tick').length, outside, overlaps,
           text_contrast: Math.min(...texts.map(t => contrast(getComputedStyle(t).fill, behind(figure)))),
           line_contrast: Math.min(...drawn.map(d => contrast(getComputedStyle(d).stroke, behind(figure)))) }; });
const words = [...document.querySelectorAll('h1, h2, h3, td, th, p, figcaption, .legend span')];
document.getElementById('measured').textContent = JSON.stringify({ plots,
  scripts: document.querySelectorAll('script').length - 1, page: document.documentElement.scrollWidth,
  window: window.innerWidth, back: behind(document.body),
  text_contrast: Math.min(...words.map(w => contrast(getComputedStyle(w).color, behind(w)))) });
</script>
"""


def chromium(program, *arguments):
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run([program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                               f"--user-data-dir={profile}", *arguments], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        sys.exit(f"{program} {' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def dark(flag):
    return ["--blink-settings=preferredColorScheme=0", "--force-dark-mode"] if flag else []


def measure(program, page, width, is_dark):
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "copy.html"
        copy.write_text(page.read_text().replace("</body>", MEASURE + "</body>"))
        dom = chromium(program, *dark(is_dark), f"--window-size={width},1000", "--dump-dom", copy.as_uri())
    return json.loads(html.unescape(re.search(r'<pre id="measured">(.*?)</pre>', dom, re.S).group(1)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path)
    arguments = parser.parse_args()
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        print("no browser: apt-get install chromium")
        sys.exit(77)
    page = arguments.report.resolve()
    out = (arguments.output or page.parent).resolve()
    out.mkdir(parents=True, exist_ok=True)
    text = page.read_text()
    check("nothing from elsewhere", not re.search(r'(src|href)\s*=|url\(|@import|https?:', text))
    for name, width, is_dark in (("light", 1280, False), ("dark", 1280, True), ("narrow", 420, False)):
        found = measure(program, page, width, is_dark)
        check(f"{name}: no script", found["scripts"] == 0)
        check(f"{name}: nothing is wider than the window", found["page"] <= found["window"] + 1,
              f"{found['page']} of {found['window']}")
        check(f"{name}: text stands out", found["text_contrast"] >= 4.5, f"contrast {found['text_contrast']:.1f}")
        if name != "narrow":
            shade = sum(map(int, re.findall(r"\d+", found["back"])[:3]))
            check(f"{name}: the background is {name}", (shade < 150) == is_dark, found["back"])
        check(f"{name}: there are plots", len(found["plots"]) >= 4, f"{len(found['plots'])}")
        for plot in found["plots"]:
            what = f"{name}: {plot['title']}"
            check(f"{what}: drawn, with ticks", plot["series"] > 0 and plot["ticks"] >= 4 and plot["width"] > 200 and
                  plot["height"] > 90, f"{plot['series']} series, {plot['ticks']} ticks")
            check(f"{what}: no text is cut off or covered", not plot["outside"] and not plot["overlaps"],
                  ", ".join(plot["outside"] + plot["overlaps"]))
            check(f"{what}: legible", plot["text_contrast"] >= 4.5 and plot["line_contrast"] >= 2.0,
                  f"text {plot['text_contrast']:.1f}, lines {plot['line_contrast']:.1f}")
        chromium(program, *dark(is_dark), f"--window-size={width},{2600 if width > 600 else 5200}",
                 f"--screenshot={out / (name + '.png')}", page.as_uri())
    chromium(program, "--no-pdf-header-footer", f"--print-to-pdf={out / 'print.pdf'}", page.as_uri())
    check("print.pdf is there", (out / "print.pdf").stat().st_size > 10000)
    print(f"pictures: {out}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
