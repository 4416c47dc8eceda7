#include "launch/asked_map.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <set>

#include "launch/refuse.h"
#include "launch/stored_model.h"
#include "launch/terminal.h"
#include "src/bitmap/bitmap.h"

namespace qat::launch {
EvaluatedAt asked_map(const AskedWidths& asked, const RunConfig& config) {
  const bool named = !asked.config_name.empty();
  if (asked.bits || (named && !asked.bitmap.empty()))
    refuse("--bits, --bitmap and --config-name each say the widths of all layers: give one of them");
  if (named && !is_named_configuration(asked.config_name))
    refuse(fmt::format("--config-name is \"{}\": must be one of {}; other maps of widths are --bitmap's",
                       asked.config_name, named_configurations()));
  const std::string option = named ? "--config-name" : "--bitmap";
  const std::string& text = named ? asked.config_name : asked.bitmap;
  try {
    const BitmapText map = parse_bitmap(text);
    (void)expand(map, config.model.bitmap_shape());
    for (const int bits : weight_widths(map)) require_slots(config, bits, option);
  } catch (const Error& error) {
    const std::string what = error.what();
    if (what.starts_with(option)) throw;
    refuse(fmt::format("{} is \"{}\": {}", option, text, what));
  }
  return EvaluatedAt(text);
}

EvaluatedAt asked_precision(const AskedWidths& asked, const RunConfig& config) {
  if (!asked.bitmap.empty() || !asked.config_name.empty()) return asked_map(asked, config);
  const int bits = asked.bits.value_or(BitWidth::kFull);
  require_slots(config, bits, "--bits");
  return {bits};
}

void warn_of_untrained(const Gpt2& model, const QuantConfig& quant, const EvaluatedAt& at) {
  const std::vector<int> trained = quantized_weight_widths(quant);
  const PrecisionMap precision = evaluation_precision(model, quant, at);
  std::set<int> others;
  for (std::int64_t layer = 0; layer < precision.size(); ++layer)
    if (const BitWidth weight = precision.at(layer).weight; !weight.is_full()) others.insert(weight.bits());
  for (const int bits : trained) others.erase(bits);
  if (!others.empty())
    warn(fmt::format("{}: weights of {} bits were not trained; the widths of the run are {}", describe(at),
                     fmt::join(others, ", "), fmt::join(trained, ", ")));
}

}  // namespace qat::launch
