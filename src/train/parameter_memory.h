// What a rank's memory holds of a model's parameters while it trains, counted from how they lie.
#pragma once

#include <cstdint>
#include <string>

#include "src/model/gpt2.h"

namespace qat {

// Bytes of one rank, with what lies between the parameters. Gradients are not among them.
struct ParameterMemory {
  std::int64_t base = 0;            // embeddings and linear layers, frozen ones too
  std::int64_t shared = 0;          // adapters and norms that all widths share
  std::int64_t moments = 0;         // AdamW's, of this rank's shards of both
  int widths = 0;                   // that have parameters for themselves
  std::int64_t all_widths = 0;      // what they have, over all ranks
  std::int64_t widths_kept = 0;     // of that, what a rank has all the time: its shards, or everything if it is alone
  std::int64_t widths_moments = 0;  // AdamW's, of its shards
  std::int64_t widths_held = 0;     // beside what it keeps, whole: those of a pass, or of it and the next one, at most
  bool next_too = false;            // the latter

  std::int64_t of_widths() const { return widths_kept + widths_moments + widths_held; }
};

// Passes are at the maps of quant.maps or, where there are none, the widths of quant.widths, so many of them at once,
// and at 32 bits. beside: what the next pass uses comes beside the one before (sends_beside()).
ParameterMemory parameter_memory(const Gpt2& model, const QuantConfig& quant, int ranks,
                                 std::int64_t widths_at_once = 1, bool beside = false);

// A line for the log.
std::string describe(const ParameterMemory& memory);

}  // namespace qat
