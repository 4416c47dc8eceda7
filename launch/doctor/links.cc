#include <torch/torch.h>

#include <chrono>
#include <span>
#include <vector>

#include "dist/comm/agree.h"
#include "kernels/common/cuda_device.h"
#include "launch/doctor/probe.h"

namespace qat::launch {
namespace {

// Memory of the kind that the world's gradients are in.
class LinkBuffer {
 public:
  LinkBuffer(std::int64_t floats, const ComputeMode& mode)
      : tensor_(torch::ones({floats}, at::TensorOptions().device(mode.device).dtype(at::kFloat))),
        device_(mode.is_cuda() ? Device::kCuda : Device::kCpu) {}

  BufferView all() { return first(tensor_.numel()); }
  BufferView first(std::int64_t floats) { return {tensor_.data_ptr<float>(), floats, DType::kFloat32, device_}; }

 private:
  at::Tensor tensor_;
  Device device_;
};

class LinkClock {
 public:
  LinkClock(dist::Communicator& comm, const ComputeMode& mode) : comm_(comm), cuda_(mode.is_cuda()) {}

  // Seconds of the slowest rank; the best of `rounds`.
  template <typename Body>
  double slowest(int rounds, const Body& body) {
    std::vector<double> best = {1e9};
    for (int round = 0; round < rounds; ++round) {
      std::vector<double> took = {mine(body)};
      comm_.all_reduce(view(std::span(took)), dist::ReduceOp::kMax);
      best[0] = std::min(best[0], took[0]);
    }
    return best[0];
  }

  template <typename Body>
  double mine(const Body& body) {
    if (cuda_) cuda_synchronize();
    comm_.barrier();
    const auto begin = std::chrono::steady_clock::now();
    body();
    if (cuda_) cuda_synchronize();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

 private:
  dist::Communicator& comm_;
  bool cuda_;
};

// As gradients go: a sum that leaves every rank its share, and the shares gathered. Bytes a second that a rank sends.
double exchange_rate(dist::Communicator& group, const ComputeMode& mode, LinkClock& clock) {
  const std::int64_t share = (mode.is_cuda() ? std::int64_t{32} << 20 : std::int64_t{4} << 20) / group.size();
  LinkBuffer whole(share * group.size(), mode), own(share, mode);
  const auto exchange = [&] {
    group.reduce_scatter(whole.all(), own.all(), dist::ReduceOp::kSum);
    group.all_gather(own.all(), whole.all());
  };
  exchange();
  const double seconds = clock.slowest(/*rounds=*/4, exchange);
  return 2.0 * 4.0 * static_cast<double>(share * (group.size() - 1)) / seconds;
}

// Everybody sends to the next rank and receives from the one before, at the same time.
void measure_ring(World& world, const ComputeMode& mode, const std::vector<std::string>& hosts, LinkClock& clock,
                  LinkFacts& facts) {
  dist::Communicator& comm = world.comm();
  const int next = (world.rank() + 1) % world.size(), before = (world.rank() + world.size() - 1) % world.size();
  const std::int64_t floats = mode.is_cuda() ? std::int64_t{16} << 20 : std::int64_t{1} << 20;
  constexpr int kShort = 200;
  LinkBuffer out(floats, mode), in(floats, mode);
  const auto pass_on = [&](std::int64_t count) {
    const dist::SendTo send{.data = out.first(count), .destination = next, .tag = 0};
    const dist::ReceiveFrom receive{.data = in.first(count), .source = before, .tag = 0};
    comm.exchange({&send, 1}, {&receive, 1});
  };
  pass_on(floats);
  double best = 1e9;
  for (int round = 0; round < 4; ++round) best = std::min(best, clock.mine([&] { pass_on(floats); }));
  const double latency = clock.mine([&] {
    for (int i = 0; i < kShort; ++i) pass_on(2);
  }) / kShort;
  const std::vector<double> mine = {4.0 * static_cast<double>(floats) / best, latency};
  std::vector<double> all(static_cast<std::size_t>(2 * world.size()));
  comm.all_gather(view(std::span(mine)), view(std::span(all)));
  for (int rank = 0; rank < world.size(); ++rank) {
    const int to = (rank + 1) % world.size();
    facts.ring.push_back({.from = rank,
                          .to = to,
                          .same_host = hosts[static_cast<std::size_t>(rank)] == hosts[static_cast<std::size_t>(to)],
                          .bytes = all[static_cast<std::size_t>(2 * rank)],
                          .latency_s = all[static_cast<std::size_t>(2 * rank + 1)]});
  }
}

}  // namespace

LinkFacts measure_links(World& world, const ComputeMode& mode) {
  dist::Communicator& comm = world.comm();
  LinkFacts facts{.backend = comm.backend()};
  if (world.size() == 1) return facts;
  const std::vector<std::string> hosts = dist::gather_strings(comm, world.session().host_name());
  LinkClock clock(comm, mode);
  // Groups of a host, numbered by its first rank; and of those who have the same place on every host.
  const auto same = std::find(hosts.begin(), hosts.end(), world.session().host_name());
  const auto node = comm.split(static_cast<int>(same - hosts.begin()), world.rank());
  const auto across = comm.split(world.session().local_rank(), world.rank());
  // What one group measures, all wait for: the slowest counts.
  std::vector<double> least = {node->size() > 1 ? 1.0 : 0.0, across->size() > 1 ? 1.0 : 0.0};
  comm.all_reduce(view(std::span(least)), dist::ReduceOp::kMin);
  if (least[0] > 0.0) facts.node_bytes = exchange_rate(*node, mode, clock);
  if (least[1] > 0.0) facts.network_bytes = exchange_rate(*across, mode, clock);
  std::vector<double> rates = {facts.node_bytes, facts.network_bytes};
  comm.all_reduce(view(std::span(rates)), dist::ReduceOp::kMin);
  facts.node_bytes = rates[0];
  facts.network_bytes = rates[1];
  measure_ring(world, mode, hosts, clock, facts);
  return facts;
}

}  // namespace qat::launch
