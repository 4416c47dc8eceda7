// The model sizes that a name stands for.
#include <array>

#include "src/model/gpt2_config.h"

namespace qat {
namespace {

struct Preset {
  const char* name;
  std::int64_t n_layer, n_head, n_embd, n_positions, vocab_size;
};

// gpt2 ... gpt2-xl: Radford et al. 2019, as published on Hugging Face. The small ones are ours: heads of 32 or 64
// values, and the byte-level vocabulary (256 bytes and the end of text).
constexpr std::array<Preset, 7> kPresets = {{{"nano", 2, 2, 64, 128, 257},
                                             {"micro", 4, 4, 128, 256, 257},
                                             {"mini", 6, 6, 384, 512, 257},
                                             {"gpt2", 12, 12, 768, 1024, 50257},
                                             {"gpt2-medium", 24, 16, 1024, 1024, 50257},
                                             {"gpt2-large", 36, 20, 1280, 1024, 50257},
                                             {"gpt2-xl", 48, 25, 1600, 1024, 50257}}};

}  // namespace

bool apply_gpt2_preset(const std::string& name, Gpt2Config& config) {
  for (const Preset& preset : kPresets) {
    if (name != preset.name) continue;
    config.preset = name;
    config.n_layer = preset.n_layer;
    config.n_head = preset.n_head;
    config.n_embd = preset.n_embd;
    config.n_positions = preset.n_positions;
    config.vocab_size = preset.vocab_size;
    return true;
  }
  return false;
}

std::string gpt2_preset_names() {
  std::string names;
  for (const Preset& preset : kPresets) names += (names.empty() ? "" : ", ") + std::string(preset.name);
  return names;
}

}  // namespace qat
