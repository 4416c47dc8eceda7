// A plot as SVG text: lines, points and steps over labelled axes. Colours are CSS (html_page.cc has the variables), so
// that one drawing is legible on paper and on a dark screen.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace qat {

struct PlotSeries {
  enum class Style : unsigned char {
    kLine,
    kPoints,
    kSteps,       // a value holds until the next one
    kLinePoints,  // both, with larger points: few values
    kDashed       // a thin dashed line: bounds and thresholds
  };
  std::string name;  // in the legend; empty: not there
  Style style = Style::kLine;
  int hue = 210;                                  // degrees, or kNeutral: the text's colour
  std::vector<std::pair<double, double>> points;  // by rising x; y that is not finite breaks a line

  static constexpr int kNeutral = -1;
};

struct Plot {
  std::string title;
  std::string x_label = "step";
  std::string y_label;
  std::vector<PlotSeries> series;
  bool log_y = false;                                   // decades; values that are not positive are left out
  bool from_zero = false;                               // y begins at 0
  std::vector<std::pair<double, std::string>> x_names;  // in place of numbers along x
  std::string note;                                     // a line below
};

// Points that a line of so many pixels' width can show: of each of `buckets` parts of the x axis the first, the lowest,
// the highest and the last one, in order of x. As they are if there are no more than that.
std::vector<std::pair<double, double>> thinned(const std::vector<std::pair<double, double>>& points,
                                               std::size_t buckets);

// Round values (1, 2 or 5 times a power of ten apart), at most `most` of them, within [low, high].
std::vector<double> round_ticks(double low, double high, int most);
// 1, 2 and 5 times powers of ten within [low, high]; powers alone, or each second one, where that is more than `most`.
std::vector<double> log_ticks(double low, double high, int most);
// A tick's number, short: 0.0003, 1.5, 20k.
std::string tick_text(double value);

// Whether there is anything to draw.
bool has_points(const Plot& plot);

// <figure> with title, legend, drawing and note.
std::string to_figure(const Plot& plot);

}  // namespace qat
