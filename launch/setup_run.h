// From a command line to the parts of a run: the steps that training and evaluation share.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "launch/failure.h"
#include "launch/world.h"
#include "src/config/loader.h"
#include "src/data/token_source.h"
#include "src/model/gpt2.h"

namespace qat::launch {

// Runs `body` on every rank; what any of them throws is thrown on all, as one AgreedError. `body` returns a hash of
// what must be the same everywhere (0: nothing) and makes no collective call. `what` names it: "configuration".
void on_every_rank(World& world, std::string_view what, const std::function<std::uint64_t()>& body,
                   const RunStatus& status);

// The configuration of this rank, checked and equal on all ranks (exit 2 naming the ranks otherwise).
struct AgreedConfig {
  LoadResult loaded;
  std::string json;  // effective, as kept in checkpoints
  std::uint64_t hash = 0;
};
AgreedConfig load_agreed_config(World& world, const std::optional<std::string>& file,
                                const std::vector<std::string>& sets);
// The same from text that rank 0 has (a checkpoint's configuration).
AgreedConfig agree_on_config_text(World& world, const std::string& text, const std::string& source,
                                  const std::vector<std::string>& sets);

// That of a checkpoint, which rank 0 has, with changes, for work on whatever ranks are here: how the run was split over
// its own is no matter. Every rank has a whole model.
AgreedConfig agree_on_stored_config(World& world, const std::string& config_json, std::vector<std::string> sets);

// Tokens of a split on every rank, with every id below the model's vocabulary; what is wrong is thrown on all ranks.
TokenSource open_agreed_tokens(World& world, const std::vector<std::string>& patterns, Split split, int vocab_size,
                               const std::string& named_by = {});

}  // namespace qat::launch
