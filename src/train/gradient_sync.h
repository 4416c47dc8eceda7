// The gradients of all groups of a model over the data-parallel ranks: sums of passes, their exchange, what codes did
// not carry, and the updated values back.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dist/comm/communicator.h"
#include "dist/grad/error_feedback.h"
#include "dist/grad/grad_exchange.h"
#include "dist/grad/grad_sync.h"
#include "dist/grid/process_grid.h"
#include "src/model/gpt2.h"
#include "src/optim/sharded_adamw.h"
#include "src/train/comm_config.h"
#include "src/train/train_config.h"
#include "src/train/work_timer.h"

namespace qat {

// What the exchanges of a step have cost this rank.
struct WireReport {
  std::int64_t sent_bytes = 0, fp32_bytes = 0;  // of gradients: sent; what fp32 would have sent
  std::int64_t weight_bytes = 0;                // sent of updated values, those of the update before this one's
  double seconds = 0.0;                         // between the last gradient and the last sum
  double weight_seconds = 0.0;                  // that computing waited for those values
  std::int64_t early_buckets = 0;               // exchanged while backward ran

  void add(const WireReport& other);
};

// Where a model's gradients, and what is kept of them, lie.
std::shared_ptr<dist::FlatMemory> flat_memory_of(const Gpt2& model);

struct GradientSyncOptions {
  CommConfig comm;
  Accumulate accumulate = Accumulate::kTree;
  std::uint64_t seed = 1;
  int places = 0;      // ranks of a node, where there are several nodes; 0: one level
  bool early = false;  // exchange buckets early on a CPU, too: nothing is gained but a test of their order
};

class GradientSync {
 public:
  // Collective. model and comm outlive this; on a GPU sums are made on the stream that is LibTorch's current one now.
  GradientSync(const Gpt2& model, dist::Communicator& comm, const GradientSyncOptions& options);

  GradientSync(const GradientSync&) = delete;

  // So many micro-batches of this rank in each pass from now on.
  void set_micro_batches(std::int64_t local);

  // One for each group of the model.
  std::span<dist::GradSync> syncs() { return syncs_; }

  // An update of a step begins, with so many passes of each group; those with none rest.
  void start(std::uint64_t step, std::uint64_t update, std::span<const std::int64_t> passes);
  void give_up();
  // Not where the exchange is measured: that is done after the pass.
  void allow_early() {
    if (!measure_) exchange_->allow_early();
  }

  // Collective: by group and bucket, this rank's shards of the sums; nothing for groups that rest.
  std::vector<dist::BucketShards> finish();
  // After finish(): the same, to be changed where they lie.
  std::vector<ShardValues> own_sums();
  // The update counts: what codes did not carry is kept for the next.
  void commit();
  // Of the last finish(); on a GPU, once something has waited for what followed it.
  WireReport report() const;
  // Collective, once, after the first finish() of a run whose wire is not exact: how far the coded sums are from the
  // exact ones, relative to these; measured if the next finish() was told to.
  void measure_next() { measure_ = true; }
  std::optional<double> take_error();

  // Where messages go that do not wait for the computing that follows; nothing: there is no such place.
  std::optional<StreamRef> beside() const { return stream_ ? std::optional(stream_->ref()) : std::nullopt; }

  bool keeps_feedback() const { return !feedback_.empty(); }
  // By group; empty where nothing is kept.
  std::span<dist::ErrorFeedback> feedback() { return feedback_; }
  std::shared_ptr<dist::FlatMemory> feedback_memory() const { return flat_memory_of(model_); }
  // "int8 codes in blocks of 256 (code_sum), error feedback; 2 nodes of 4 ranks": for the log.
  std::string describe() const;

 private:
  const Gpt2& model_;
  dist::Communicator& comm_;
  GradientSyncOptions options_;
  std::shared_ptr<dist::FlatMemory> memory_;
  std::optional<dist::NodeGroups> nodes_;
  std::optional<DeviceStream> stream_;  // of overlapped exchanges
  std::shared_ptr<dist::WireStaging> staging_;
  std::vector<dist::ErrorFeedback> feedback_;
  std::vector<dist::GradSync> syncs_;
  std::optional<dist::GradExchange> exchange_;
  WireReport report_;
  WorkTimer exposed_;
  bool measure_ = false;
  std::optional<dist::WireError> error_;
};

// Ranks of a node, for ranks on these hosts in order: 0 where they are all on one, or where the nodes do not have
// equally many neighbours each (`why` says so then).
int places_of(std::span<const std::string> hosts, std::string& why);
// The same of this stage's ranks on a grid whose ranks are on these hosts (empty: on one), as comm.ranks_per_node has
// it otherwise.
int exchange_places(const CommConfig& comm, const dist::Grid& grid, std::span<const std::string> hosts,
                    std::string& why);

}  // namespace qat
