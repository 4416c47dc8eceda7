// What a pass of a run is: its precisions, its tokens, the part of the model that it goes through, and how each layer
// runs in it. What memory and time are counted from.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/config/run_config.h"
#include "src/model/stage_range.h"
#include "src/quant/gemm_path.h"
#include "src/quant/precision_map.h"

namespace qat {

// The part of the model that a rank has: a stage of a pipeline, or everything, which is the default.
struct StagePart {
  std::vector<BlockRange> chunks;   // in order of the model; empty: all blocks
  bool embeds = true;               // token and position embeddings
  bool heads = true;                // last norm, output projection and loss
  std::int64_t in_flight = 1;       // forward passes, each through one chunk, that wait for their backward at most
  std::int64_t waiting_tables = 0;  // of the last stage: micro-batches that have not been backward through the first

  // Of a model of so many blocks, in order.
  std::vector<std::int64_t> blocks(std::int64_t n_layer) const;
  // Whether no other part has some of it.
  bool is_whole() const { return chunks.empty() && embeds && heads; }
};

// What a pass looks at.
struct PassShape {
  const RunConfig& config;
  PrecisionMap precision;      // of every quantized linear layer
  std::int64_t sequences = 1;  // in the pass
  bool cuda = false;
  bool training = true;       // else nothing is kept
  std::int64_t teachers = 0;  // whose logits stand beside the pass's
  StagePart part{};

  std::int64_t tokens() const { return sequences * config.data.sequence_length; }
  std::int64_t float_bytes() const;  // of an activation
  std::vector<std::int64_t> blocks() const { return part.blocks(config.model.n_layer); }
};

// A pass as training at `bits` or evaluation at `bits` runs it (32: unquantized).
PassShape training_pass(const RunConfig& config, bool cuda, int bits);
PassShape evaluation_pass(const RunConfig& config, bool cuda, int bits);

// The same at a map of layers' widths (src/bitmap/bitmap_text.h).
PassShape map_pass(const RunConfig& config, bool cuda, const std::string& map, bool training);

// What follows is of linear layers, by their index in PrecisionMap.
struct LinearShape {
  std::int64_t in = 0, out = 0;
  bool kept_anyway = false;  // its input: attention keeps its own output
};
LinearShape linear_of(const PassShape& pass, std::int64_t index);
GemmPath path_of(const PassShape& pass, std::int64_t index);
// The adapter that this layer has in the pass, if its rank is not 0.
AdapterShape adapter_of(const PassShape& pass, std::int64_t index);
bool backward_on_codes(const PassShape& pass, std::int64_t index);
// Whether an adapter's products are on codes, as AdapterSlot has it; so are those of a layer without one.
bool on_codes(const AdapterShape& adapter);
bool reads_raw(const AdapterShape& adapter);

// Whether a block is fused (src/model/block.h), and whether all of the part are.
bool is_fused(const PassShape& pass, std::int64_t layer);
bool is_fused(const PassShape& pass);

// How the output projection runs, as Gpt2::head and chunked_head have it, and the rows of its weights. none: in another
// part of the model.
enum class HeadKind : std::uint8_t { kNone, kPlain, kCodes, kByOperators, kAnswers };
HeadKind head_of(const PassShape& pass);
std::int64_t head_rows(const PassShape& pass);

}  // namespace qat
