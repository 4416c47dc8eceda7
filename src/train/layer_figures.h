// What the linear layers of this rank's stage do, for people: read from the model between steps, changing nothing.
#pragma once

#include <span>
#include <vector>

#include "src/model/gpt2.h"
#include "src/report/event_file.h"
#include "src/report/layer_records.h"

namespace qat {

// At the widths of the step that has just been done, whose groups are held. norms: of each trainable tensor's gradient
// in it (StepRunner::gradient_norms). Waits for the device.
std::vector<LayerFigures> layer_figures(const Gpt2& model, const PrecisionMap& precision,
                                        std::span<const double> norms);

// Histograms of weights/<layer>, and where it is quantized of scales/<layer>/4bit and codes/<layer>/4bit: the weights,
// their scales (of logarithmic codes, steps of the logarithm), and the quantized weights in steps of their scale, which
// for such codes are values.
std::vector<EventSummary::Histogram> layer_histograms(const Gpt2& model, const PrecisionMap& precision);

}  // namespace qat
