// The configuration's sections, and keys and sections by their paths.
#include "src/config/field_table.h"

namespace qat {

const std::vector<Section>& config_sections() {
  static const std::vector<Section> sections = {
      {"run", "where a run writes, its seed, and what it resumes from"},
      {"model", "sizes and switches of the network"},
      {"lora", "adapters W x + (alpha / rank) B A x, off at 32 bits"},
      {"quant", "what is quantized, how, and with which ranges"},
      {"quant.weight", "quantizer of the weights"},
      {"quant.activation", "quantizer of the inputs of linear layers"},
      {"precision", "which width a step uses"},
      {"lr", "learning rate over the run"},
      {"range_test", "the precision range test, before the first step or by `qat_dist prt`"},
      {"data", "where tokens come from, or questions; relative paths are relative to the working folder"},
      {"optim", "AdamW and gradient clipping"},
      {"train", "the training loop"},
      {"distill", "what passes learn from teachers, beside the targets"},
      {"eval", "held-out perplexity, or how well questions are answered"},
      {"checkpoint", "checkpoints during a run; there is always one at its end"},
      {"parallel", "how the ranks are used"},
      {"comm", "how gradients travel between data-parallel ranks"},
      {"compute", "where, and in which arithmetic, the work runs that is not on integer codes"},
      {"watchdog", "ranks that hang, die or are slow"},
      {"report", "what a run writes for those who watch it"}};
  return sections;
}

const Field<RunConfig>* find_field(std::string_view path) {
  for (const auto& field : run_fields()) {
    if (field.path == path) return &field;
  }
  return nullptr;
}

const Section* find_section(std::string_view path) {
  for (const Section& section : config_sections()) {
    if (section.path == path) return &section;
  }
  return nullptr;
}

}  // namespace qat
