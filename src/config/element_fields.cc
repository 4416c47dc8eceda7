#include "src/config/element_fields.h"

#include "src/config/field_rules.h"

namespace qat {

using rules::any;
using rules::between;
using rules::code_width;
using rules::from;
using rules::key;
using rules::kMostOfAny;
using rules::optional_key;
using rules::width;
using rules::width_or_zero;

namespace {

// At 32 bits nothing is quantized, and there are no adapters.
Rule quantized_width() {
  Rule rule = width();
  std::erase(rule.widths, BitWidth::kFull);
  return rule;
}

}  // namespace

template <>
const ElementTable<LayerOverride>& element_table() {
  using O = LayerOverride;
  static const ElementTable<O> table{
      .fields = {key("layers", at(&O::layers), any(), "",
                     "glob over layer names: h.0.attn.c_attn, h.*.mlp.c_proj, lm_head; * matches any characters, ? "
                     "one, [0-3] one of a set"),
                 key("weight_bits", at(&O::weight_bits), width_or_zero(), "bits", "0: as scheduled",
                     {"bits", "w_bits"}),
                 key("activation_bits", at(&O::activation_bits), width_or_zero(), "bits", "0: as scheduled",
                     {"a_bits"}),
                 key("gradient_bits", at(&O::gradient_bits), code_width(/*zero=*/true), "bits", "0: as scheduled",
                     {"grad_bits"})},
      .required = {"layers"},
      .example = R"({"layers": "h.0.*", "weight_bits": 8})",
      .changes = "weight_bits, activation_bits or gradient_bits"};
  return table;
}

bool changes_something(const LayerOverride& element) {
  return element.weight_bits != 0 || element.activation_bits != 0 || element.gradient_bits != 0;
}

template <>
const ElementTable<WidthAdapter>& element_table() {
  using A = WidthAdapter;
  static const ElementTable<A> table{
      .fields = {key("bits", at(&A::bits), quantized_width(), "bits", "the weight width"),
                 key("rank", at(&A::rank), between(0, 65536), "", "null: by lora.rank_rule; 0: no adapters", {"r"}),
                 key("alpha", at(&A::alpha), between(1e-6, kMostOfAny), "", "null: by lora.rank_rule", {"lora_alpha"}),
                 key("quantize", at(&A::quantize), any(), "", "null: as lora.quantize"),
                 optional_key("input", at(&A::input), "empty: as lora.input")},
      .required = {"bits"},
      .example = R"({"bits": 2, "rank": 64, "alpha": 128})",
      .changes = "rank, alpha, quantize or input"};
  return table;
}

bool changes_something(const WidthAdapter& element) {
  return element.rank || element.alpha || element.quantize || element.input;
}

template <>
const ElementTable<WidthMethod>& element_table() {
  using M = WidthMethod;
  static const ElementTable<M> table{
      .fields = {key("bits", at(&M::bits), quantized_width(), "bits", "the width of what is quantized"),
                 key("method", at(&M::method), any(), "", "the quantizer at this width",
                     {"quantizer_type", "quantizer"})},
      .required = {"bits", "method"},
      .example = R"({"bits": 8, "method": "log"})",
      .changes = ""};
  return table;
}

template <>
const ElementTable<WidthFactor>& element_table() {
  using W = WidthFactor;
  static const ElementTable<W> table{.fields = {key("bits", at(&W::bits), width(), "bits", "the weight width"),
                                                key("factor", at(&W::factor), between(0, 1000), "",
                                                    "times the scheduled learning rate", {"scale", "lr_scale"})},
                                     .required = {"bits", "factor"},
                                     .example = R"({"bits": 2, "factor": 0.5})",
                                     .changes = ""};
  return table;
}

template <>
const ElementTable<LrMilestone>& element_table() {
  using M = LrMilestone;
  static const ElementTable<M> table{
      .fields = {key("step", at(&M::step), from(0), "steps", "the first step with this factor"),
                 key("factor", at(&M::factor), between(0, 1000), "", "times lr.peak", {"gamma", "scale"})},
      .required = {"step", "factor"},
      .example = R"({"step": 32000, "factor": 0.1})",
      .changes = ""};
  return table;
}

}  // namespace qat
