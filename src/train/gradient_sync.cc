#include "src/train/gradient_sync.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "dist/grad/cuda_flat_memory.h"
#include "dist/grad/recycling_memory.h"
#include "src/base/rng.h"
#include "src/quant/torch_view.h"
#include "src/train/wire_of.h"

namespace qat {
namespace {

kernels::Exec exec_of(const Gpt2& model) { return exec_for(model.parameters().tensor(0)); }

// A running sum's leaves come and go, and so do the sums of single widths' groups.
std::shared_ptr<dist::FlatMemory> gradient_memory(const Gpt2& model, Accumulate accumulate) {
  const std::vector<FlatGroup>& groups = model.parameters().groups();
  const bool widths = std::any_of(groups.begin(), groups.end(),
                                  [](const FlatGroup& group) { return group.key.kind == GroupKind::kWidth; });
  const std::shared_ptr<dist::FlatMemory> memory = flat_memory_of(model);
  return widths || accumulate == Accumulate::kRunning ? dist::recycling_memory(memory) : memory;
}

// When a forward pass uses each bucket's first tensor: parameters are declared in that order.
std::vector<std::vector<std::int64_t>> first_use(const ParameterStore& store) {
  std::vector<std::vector<std::int64_t>> uses;
  for (const FlatGroup& group : store.groups()) {
    std::vector<std::int64_t>& of = uses.emplace_back();
    for (const dist::FlatLayout::Bucket& bucket : group.layout.buckets())
      of.push_back(*std::min_element(group.ids.begin() + bucket.first_tensor,
                                     group.ids.begin() + bucket.first_tensor + bucket.tensors));
  }
  return uses;
}

}  // namespace

void WireReport::add(const WireReport& other) {
  sent_bytes += other.sent_bytes;
  fp32_bytes += other.fp32_bytes;
  weight_bytes += other.weight_bytes;
  seconds += other.seconds;
  weight_seconds += other.weight_seconds;
  early_buckets += other.early_buckets;
}

std::shared_ptr<dist::FlatMemory> flat_memory_of(const Gpt2& model) {
  return model.mode().is_cuda() ? dist::cuda_flat_memory(exec_of(model).stream) : dist::host_flat_memory();
}

GradientSync::GradientSync(const Gpt2& model, dist::Communicator& comm, const GradientSyncOptions& options)
    : model_(model),
      comm_(comm),
      options_(options),
      memory_(gradient_memory(model, options.accumulate)),
      exposed_(model.mode().device) {
  const kernels::Exec exec = exec_of(model);
  if (options.places > 0 && options.places < comm.size()) nodes_ = dist::make_node_groups(comm, options.places);
  if (options.comm.overlap && exec.device == Device::kCuda && comm.size() > 1)
    stream_.emplace(exec.device, DeviceStream::Priority::kHigh);
  staging_ = std::make_shared<dist::WireStaging>(flat_memory_of(model));
  if (!options.comm.error_feedback || wire_of(options.comm).is_exact()) return;
  for (const FlatGroup& group : model.parameters().groups())
    feedback_.emplace_back(group.layout, comm.rank(), comm.size(), flat_memory_of(model));
}

void GradientSync::set_micro_batches(std::int64_t local) {
  exchange_.reset();
  syncs_.clear();
  kernels::Exec exec = exec_of(model_);
  const StreamRef compute = exec.stream;
  if (stream_) exec.stream = stream_->ref();
  const std::vector<FlatGroup>& groups = model_.parameters().groups();
  syncs_.reserve(groups.size());
  for (std::size_t g = 0; g < groups.size(); ++g)
    syncs_.emplace_back(
        comm_, groups[g].layout, memory_,
        dist::GradSyncOptions{
            .order = options_.accumulate == Accumulate::kRunning ? dist::SumOrder::kRunning : dist::SumOrder::kTree,
            .group = dist::odd_part(local),
            .reducer = {.exec = exec,
                        .wire = wire_of(options_.comm),
                        .nodes = nodes_ ? &*nodes_ : nullptr,
                        .staging = staging_},
            .feedback = feedback_.empty() ? nullptr : &feedback_[g]});
  exchange_.emplace(syncs_, dist::exchange_order(first_use(model_.parameters())), exec.device, compute, exec.stream,
                    stream_.has_value() || options_.early);
}

void GradientSync::start(std::uint64_t step, std::uint64_t update, std::span<const std::int64_t> passes) {
  for (std::size_t g = 0; g < syncs_.size(); ++g) {
    if (passes[g] == 0)
      syncs_[g].rest();
    else
      syncs_[g].start(passes[g], rng_key(options_.seed, RngPurpose::kSync, step, pass_of(0, update), g));
  }
  exchange_->start();
}

void GradientSync::give_up() {
  for (dist::GradSync& sync : syncs_)
    if (!sync.rests()) sync.give_up();
}

std::vector<dist::BucketShards> GradientSync::finish() {
  exposed_.start();
  if (measure_) error_.emplace();
  exchange_->finish(measure_ ? &*error_ : nullptr);
  measure_ = false;
  std::vector<dist::BucketShards> shards;
  report_ = {.early_buckets = exchange_->launched_early()};
  for (dist::GradSync& sync : syncs_) {
    shards.push_back(sync.rests() ? dist::BucketShards() : sync.finish());
    if (sync.rests()) continue;
    report_.sent_bytes += sync.sent_bytes();
    report_.fp32_bytes += sync.fp32_bytes();
  }
  exposed_.stop();
  return shards;
}

WireReport GradientSync::report() const {
  WireReport report = report_;
  report.seconds = exposed_.seconds();
  return report;
}

std::vector<ShardValues> GradientSync::own_sums() {
  std::vector<ShardValues> sums;
  for (dist::GradSync& sync : syncs_) sums.push_back(sync.rests() ? ShardValues() : sync.own_sums());
  return sums;
}

void GradientSync::commit() {
  for (dist::GradSync& sync : syncs_)
    if (!sync.rests()) sync.commit_feedback();
}

std::optional<double> GradientSync::take_error() {
  if (!error_) return std::nullopt;
  std::vector<double> sums = {error_->squares, error_->error_squares};
  error_.reset();
  comm_.all_reduce(view(std::span(sums)), dist::ReduceOp::kSum);
  return sums[0] == 0.0 ? std::sqrt(sums[1]) : std::sqrt(sums[1] / sums[0]);
}

std::string GradientSync::describe() const {
  const dist::GradWire wire = wire_of(options_.comm);
  std::string text = wire.is_exact() ? enum_name(WireFormatName::kFp32) : enum_name(options_.comm.wire);
  if (kernels::has_codes(wire.format))
    text += fmt::format(" codes in blocks of {} ({}{})", wire.block, enum_name(options_.comm.sum),
                        wire.stochastic ? ", stochastic rounding" : "");
  if (!wire.is_exact()) text += feedback_.empty() ? ", no error feedback" : ", error feedback";
  if (nodes_) text += fmt::format("; {} nodes of {} ranks", nodes_->nodes(), nodes_->places());
  if (stream_) text += "; exchanged while backward runs";
  return text;
}

int places_of(std::span<const std::string> hosts, std::string& why) {
  std::vector<std::pair<std::string, int>> runs;
  for (const std::string& host : hosts) {
    if (runs.empty() || runs.back().first != host) runs.emplace_back(host, 0);
    ++runs.back().second;
  }
  if (runs.size() < 2) return 0;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j)
      if (runs[i].first == runs[j].first) {
        why = fmt::format("the ranks on {} are not neighbours", runs[i].first);
        return 0;
      }
    if (runs[i].second != runs[0].second) {
      why = fmt::format("{} has {} ranks and {} has {}", runs[0].first, runs[0].second, runs[i].first, runs[i].second);
      return 0;
    }
  }
  return runs[0].second;
}

int exchange_places(const CommConfig& comm, const dist::Grid& grid, std::span<const std::string> hosts,
                    std::string& why) {
  if (comm.ranks_per_node > 0) return comm.ranks_per_node / grid.stages();
  std::vector<std::string> own;  // of this stage's ranks
  for (int replica = 0; replica < grid.data_size() && !hosts.empty(); ++replica)
    own.push_back(hosts[static_cast<std::size_t>(grid.rank_of(replica, grid.stage()))]);
  return places_of(own, why);
}

}  // namespace qat
