#include "src/config/width_lists.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "kernels/common/bit_width.h"

namespace qat {
namespace {

using Paths = std::vector<std::string>;

// allowed: rising. what: "a width of the weights".
template <typename T>
void check_widths(const std::string& path, const std::vector<T>& list, const std::vector<int>& allowed,
                  const std::string& what, const Paths& also, std::vector<Finding>& found) {
  std::set<int> seen;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const int bits = list[i].bits;
    std::string rule;
    if (std::find(allowed.begin(), allowed.end(), bits) == allowed.end())
      rule = fmt::format("must be {}: {}", what, fmt::join(allowed, ", "));
    else if (!seen.insert(bits).second)
      rule = "must not be there twice";
    if (!rule.empty())
      found.push_back({path, std::move(rule), also, fmt::format("[{}].bits", i), std::to_string(bits)});
  }
}

}  // namespace

std::vector<Finding> width_list_faults(const RunConfig& config) {
  std::vector<Finding> found;
  const std::vector<int> weights = quantized_weight_widths(config.quant);
  const std::string of_weights = "a width of quantized weights, of quant.widths or quant.overrides";
  if (config.lora.slots == Slots::kShared) {
    if (!config.lora.per_width.empty())
      found.push_back(
          {"lora.per_width", "needs lora.slots = \"per_width\": all widths share one adapter", {"lora.slots"}, "", ""});
    if (config.lora.rank_rule == RankRule::kByWidth)
      found.push_back({"lora.rank_rule",
                       "\"by_width\" needs lora.slots = \"per_width\": all widths share one adapter",
                       {"lora.slots"},
                       "",
                       ""});
  } else {
    check_widths("lora.per_width", config.lora.per_width, weights, of_weights, {"quant.widths"}, found);
  }
  check_widths("quant.weight.by_width", config.quant.weight.by_width, weights, of_weights, {"quant.widths"}, found);
  check_widths("quant.activation.by_width", config.quant.activation.by_width, quantized_activation_widths(config.quant),
               "a width of quantized inputs, of quant.activation_bits, quant.widths or quant.overrides",
               {"quant.widths", "quant.activation_bits"}, found);
  std::vector<int> rates = weights;
  rates.push_back(BitWidth::kFull);
  check_widths("lr.scale_per_width", config.lr.scale_per_width, rates, "a width of quant.widths or quant.overrides",
               {"quant.widths"}, found);
  for (std::size_t i = 0; i < config.lr.scale_per_width.size(); ++i) {
    const double factor = config.lr.scale_per_width[i].factor;
    if (config.lr.peak * factor > std::numeric_limits<float>::max())
      found.push_back({"lr.scale_per_width",
                       "times lr.peak must not exceed what fp32 holds",
                       {"lr.peak"},
                       fmt::format("[{}].factor", i),
                       fmt::format("{}", factor)});
  }
  return found;
}

}  // namespace qat
