// The keys of section "report". Internal to src/config.
#include "src/config/field_rules.h"

namespace qat {

using rules::any;
using rules::between;
using rules::key;

void add_report_fields(std::vector<Field<RunConfig>>& f) {
  using R = RunConfig;
  using C = ReportConfig;
  f.push_back(key("report.tensorboard", at(&R::report, &C::tensorboard), any(), "",
                  "write TensorBoard's event files to run.dir/tensorboard",
                  {"use_tensorboard", "tensorboard_log_dir", "tensorboard_dir"}));
  f.push_back(key("report.layers_every", at(&R::report, &C::layers_every), between(0, 1e9), "steps",
                  "steps between records of what single layers do (layers.jsonl): gradient norms, and the shares of "
                  "weights quantized to 0 and cut off; 0: none"));
  f.push_back(key("report.histograms_every", at(&R::report, &C::histograms_every), between(0, 1e9), "steps",
                  "steps between histograms of weights, their scales and codes, for TensorBoard; 0: none",
                  {"histogram_freq", "log_histograms"}));
}

}  // namespace qat
