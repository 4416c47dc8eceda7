#include "src/report/html_page.h"

#include <fmt/format.h>

namespace qat {
namespace {

// --s and --l: saturation and lightness of every series, whose hue its drawing has.
constexpr std::string_view kStyle = R"(
:root { color-scheme: light dark; --back: #fff; --ink: #1b1f24; --soft: #57606a; --rule: #d5dae0; --card: #f6f8fa;
        --s: 75%; --l: 36%; }
@media (prefers-color-scheme: dark) {
  :root { --back: #0f1318; --ink: #e4e9ee; --soft: #9aa5b1; --rule: #333c46; --card: #171d24; --s: 80%; --l: 64%; }
}
* { box-sizing: border-box; }
body { background: var(--back); color: var(--ink); margin: 2rem auto; padding: 0 1rem; max-width: 1200px;
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", "DejaVu Sans", Arial, sans-serif;
       -webkit-print-color-adjust: exact; print-color-adjust: exact; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2rem 0 .6rem; break-after: avoid; }
h3 { font-size: 1rem; margin: 0 0 .3rem; }
p, figcaption { color: var(--soft); margin: .3rem 0; }
figcaption { font-size: .85rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--rule); padding: .25rem .7rem; text-align: left; vertical-align: top; }
th { font-weight: 600; white-space: nowrap; }
td { overflow-wrap: anywhere; }
td.number, th.number { text-align: right; white-space: nowrap; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .8rem; background: var(--card); border: 1px solid var(--rule); border-radius: 6px;
         break-inside: avoid; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--ink); font-size: 12px; font-family: inherit; }
svg text.label { fill: var(--soft); font-size: 13px; }
.grid { stroke: var(--rule); stroke-width: 1; }
.axis { stroke: var(--soft); stroke-width: 1; fill: none; }
.line { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.dashed { fill: none; stroke-width: 1.5; stroke-dasharray: 6 4; }
.dots { fill: none; stroke-width: 3.4; stroke-linecap: round; opacity: .65; }
.marks { fill: none; stroke-width: 7; stroke-linecap: round; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: .85rem; }
.legend span { display: inline-flex; align-items: center; gap: .35rem; }
.legend i { width: .8rem; height: .8rem; border-radius: 50%; flex: none; }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 6px; padding: .8rem; overflow-x: auto; }
@media print {
  :root { color-scheme: light; --back: #fff; --ink: #000; --soft: #333; --rule: #bbb; --card: #fff; --s: 85%; --l: 33%; }
  body { margin: 0; max-width: none; font-size: 10pt; }
  .plots { grid-template-columns: 1fr 1fr; }
  table { break-inside: avoid; }
  details { display: none; }
}
)";

}  // namespace

std::string html_text(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out.push_back(c);
    }
  }
  return out;
}

std::string html_page(std::string_view title, std::string_view body) {
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n<style>{}</style>\n"
      "</head>\n<body>\n{}</body>\n</html>\n",
      html_text(title), kStyle, body);
}

}  // namespace qat
