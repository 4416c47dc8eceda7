// The options --bits, --bitmap and --config-name of commands that work at one precision.
#pragma once

#include <optional>
#include <string>

#include "src/config/run_config.h"
#include "src/eval/width_eval.h"

namespace qat::launch {

struct AskedWidths {
  std::optional<int> bits;
  std::string bitmap, config_name;
};

// What --bitmap or --config-name, of which one is given, name. Throws Error(kConfig), naming the option, for what is no
// map of this model's layers, for widths without the adapters or norms that they need, and where another option says
// the widths, too.
EvaluatedAt asked_map(const AskedWidths& asked, const RunConfig& config);

// What any of the three names; without any, 32 bits.
EvaluatedAt asked_precision(const AskedWidths& asked, const RunConfig& config);

// Warns if weights have widths at this precision that nothing was trained at: they may do badly for that reason alone.
void warn_of_untrained(const Gpt2& model, const QuantConfig& quant, const EvaluatedAt& at);

}  // namespace qat::launch
