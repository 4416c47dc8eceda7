// How fast gradients are added over ranks, by wire format, beside sums that carry no order (NCCL's own all-reduce and
// reduce-scatter, on a GPU), of as many bytes and of codes.
//
//   mpirun -np 2 build/collectives_bench [--device cuda] [--sizes 1,4,16,64,256,512] [--ranks-per-node 4]
//
// algbw: bytes of fp32 gradients / time. busbw: what each rank moves of them at least, (n - 1) / n, per time. Medians
// of the slowest rank's times. error: |sum - exact| / |exact|, of normal gradients; of the sums without an order, which
// are of integers, the share of elements that are wrong, of codes that code_sum does not give.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dist/comm/mpi_comm.h"
#include "dist/comm/mpi_session.h"
#include "dist/comm/nccl_comm.h"
#include "dist/grad/cuda_flat_memory.h"
#include "dist/grad/grad_reducer.h"
#include "kernels/common/cuda_device.h"
#include "kernels/common/device_stream.h"
#include "kernels/common/philox.h"
#include "kernels/grad/integer_words.h"

namespace qat::bench {
namespace {

using dist::GradWire;
using dist::WireFormat;
using dist::WireSum;

struct Options {
  std::string device = "cpu";
  std::vector<double> sizes = {1, 4, 16, 64, 256, 512};  // MiB of fp32
  int places = 0;
  int repeats = 9;
};

struct Named {
  std::string name;
  GradWire wire;
};

const std::vector<Named>& wires() {
  static const std::vector<Named> all = {{"fp32, tree", {}},
                                         {"bf16", {.format = WireFormat::kBFloat16}},
                                         {"int8 code_sum", {.format = WireFormat::kInt8}},
                                         {"int8 two_phase", {.format = WireFormat::kInt8, .sum = WireSum::kTwoPhase}},
                                         {"int4 code_sum", {.format = WireFormat::kInt4}},
                                         {"int4 two_phase", {.format = WireFormat::kInt4, .sum = WireSum::kTwoPhase}}};
  return all;
}

class Bench {
 public:
  Bench(dist::Communicator& comm, const Options& options) : comm_(comm), options_(options) {
    cuda_ = options.device == "cuda";
    exec_.device = cuda_ ? Device::kCuda : Device::kCpu;
    stream_.emplace(exec_.device);
    exec_.stream = stream_->ref();
    memory_ = cuda_ ? dist::cuda_flat_memory(exec_.stream) : dist::host_flat_memory();
    if (options.places > 0) nodes_ = dist::make_node_groups(comm, options.places);
  }

  void run() {
    say(fmt::format("{} ranks, {}{}; median of {}\n", comm_.size(), comm_.backend(),
                    nodes_ ? fmt::format(", {} nodes of {}", nodes_->nodes(), nodes_->places()) : "",
                    options_.repeats));
    say(fmt::format("{:>8}  {:<34} {:>10} {:>12} {:>12} {:>10} {:>9} {:>10}\n", "MiB", "what", "ms", "algbw GB/s",
                    "busbw GB/s", "MiB sent", "x fp32", "error"));
    for (const double size : options_.sizes) run_size(size);
  }

 private:
  void run_size(double mib) {
    const std::int64_t unit = 4096 * comm_.size();
    const auto wanted = static_cast<std::int64_t>(mib * 1024 * 1024 / 4);
    elems_ = std::max(unit, (wanted + unit - 1) / unit * unit);
    given_ = memory_->allocate(elems_);
    full_ = memory_->allocate(elems_);
    run_any_order();
    fill();
    run_codes_in_any_order(WireFormat::kInt8, "int8 codes");
    run_codes_in_any_order(WireFormat::kInt4, "int4 codes");
    double fp32 = 0.0;
    for (const Named& one : wires()) {
      dist::GradReducer reducer(comm_, elems_,
                                {.exec = exec_,
                                 .wire = one.wire,
                                 .nodes = nodes_ ? &*nodes_ : nullptr,
                                 .staging = std::make_shared<dist::WireStaging>(memory_)});
      const double seconds = median_time([&] { reducer.reduce_scatter(full()); });
      if (one.wire.is_exact()) fp32 = seconds;
      line(one.name, seconds, static_cast<double>(reducer.sent_bytes()), error(reducer), 1.0, fp32);
    }
  }

  // Sums of integers of as many bytes as fp32: whatever the backend does when no order is asked for.
  void run_any_order() {
    const std::int64_t shard = elems_ / comm_.size(), own = shard * comm_.rank();
    std::vector<std::int32_t> values(static_cast<std::size_t>(elems_));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<std::int32_t>(i % kDistinct) * (comm_.rank() + 1);
    to_given(values.data());
    const double all = median_time([&] { comm_.all_reduce(integers(0, elems_), dist::ReduceOp::kSum, stream()); });
    line("any order, all-reduce", all, 0.0, wrong_integers(0, elems_), 2.0);
    const double scattered = median_time(
        [&] { comm_.reduce_scatter(integers(0, elems_), integers(own, shard), dist::ReduceOp::kSum, stream()); });
    line("any order, reduce-scatter", scattered, 0.0, wrong_integers(own, shard));
  }

  // The share of elements from `first` on that are not the sum over the ranks.
  double wrong_integers(std::int64_t first, std::int64_t elems) {
    std::vector<std::int32_t> found(static_cast<std::size_t>(elems));
    to_host(found.data(), full_.get() + first, found.size() * sizeof(std::int32_t));
    std::vector<double> wrong(1);
    for (std::size_t i = 0; i < found.size(); ++i) {
      const auto expected = static_cast<std::int64_t>((static_cast<std::size_t>(first) + i) % kDistinct) *
                            comm_.size() * (comm_.size() + 1) / 2;
      wrong[0] += found[i] == expected ? 0.0 : 1.0 / static_cast<double>(elems);
    }
    comm_.all_reduce(view(std::span(wrong)), dist::ReduceOp::kMax);
    return wrong[0];
  }

  // code_sum as one all-reduce: scales agreed on, codes as the narrowest integers that hold any sum of them, added by
  // the backend, and every rank has all. Several of them travel as a word. The program has no use for it, whose ranks
  // update a shard each.
  void run_codes_in_any_order(WireFormat format, const std::string& name) {
    const kernels::WireShape shape{.format = format, .elems = elems_};
    const kernels::WireInteger type = kernels::integer_for_sum(format, comm_.size());
    const std::shared_ptr<float> scales = memory_->allocate(shape.blocks()), sums = memory_->allocate(elems_),
                                 codes = memory_->allocate((shape.part_bytes() + 3) / 4);
    const std::span<float> amax{scales.get(), static_cast<std::size_t>(shape.blocks())};
    const std::span<std::uint8_t> narrow{reinterpret_cast<std::uint8_t*>(codes.get()),
                                         static_cast<std::size_t>(shape.part_bytes())};
    const std::span<std::uint8_t> wide{reinterpret_cast<std::uint8_t*>(sums.get()),
                                       static_cast<std::size_t>(kernels::bytes_of(type, elems_))};
    const int bits = static_cast<int>(8 * kernels::bytes_of(type, 1));
    const std::span<std::int32_t> words{reinterpret_cast<std::int32_t*>(sums.get()), wide.size() / 4};
    const double seconds = median_time([&] {
      kernels::wire_amax(exec_, full(), {}, shape, amax);
      comm_.all_reduce({amax.data(), shape.blocks(), DType::kInt32, exec_.device}, dist::ReduceOp::kMax, stream());
      kernels::wire_encode(exec_, full(), {}, amax, shape, {}, narrow, {});
      kernels::sum_codes(exec_, narrow, kernels::integer_of(format), /*parts=*/1, elems_, wide, type);
      if (bits < 32) kernels::pack_words(exec_, words, bits);
      comm_.all_reduce({words.data(), std::ssize(words), DType::kInt32, exec_.device}, dist::ReduceOp::kSum, stream());
      if (bits < 32) kernels::unpack_words(exec_, words, bits);
      kernels::scale_codes(exec_, wide, type, /*parts=*/1, amax, shape, full());
    });
    line(fmt::format("{} as {} bits, all-reduce", name, bits), seconds, 0.0, unlike_code_sum(format), 2.0);
  }

  // The share of this rank's elements that code_sum does not give.
  double unlike_code_sum(WireFormat format) {
    dist::GradReducer reducer(
        comm_, elems_,
        {.exec = exec_, .wire = {.format = format}, .staging = std::make_shared<dist::WireStaging>(memory_)});
    const std::vector<float> found = shard(reducer);
    memory_->copy(full(), {given_.get(), full().size()});
    reducer.reduce_scatter(full());
    const std::vector<float> expected = shard(reducer);
    std::vector<double> unlike(1);
    for (std::size_t i = 0; i < found.size(); ++i)
      unlike[0] += found[i] == expected[i] ? 0.0 : 1.0 / static_cast<double>(found.size());
    comm_.all_reduce(view(std::span(unlike)), dist::ReduceOp::kMax);
    return unlike[0];
  }

  // Of the slowest rank. Each time on the same values.
  double median_time(const std::function<void()>& call) {
    std::vector<double> times;
    for (int i = 0; i < options_.repeats + 2; ++i) {
      memory_->copy(full(), {given_.get(), full().size()});
      wait();
      comm_.barrier();
      const auto begin = std::chrono::steady_clock::now();
      call();
      wait();
      std::vector<double> seconds = {std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count()};
      comm_.all_reduce(view(std::span(seconds)), dist::ReduceOp::kMax);
      if (i >= 2) times.push_back(seconds[0]);
    }
    std::nth_element(times.begin(), times.begin() + std::ssize(times) / 2, times.end());
    return times[times.size() / 2];
  }

  double error(const dist::GradReducer& reducer) {
    const std::vector<float> coded = shard(reducer);
    memory_->copy(full(), {given_.get(), full().size()});
    dist::GradReducer exact(comm_, elems_, {.exec = exec_});
    exact.reduce_scatter(full());
    const std::vector<float> sums = shard(exact);
    std::vector<double> squares(2);
    for (std::size_t i = 0; i < sums.size(); ++i) {
      const double difference = static_cast<double>(coded[i]) - static_cast<double>(sums[i]);
      squares[0] += difference * difference;
      squares[1] += static_cast<double>(sums[i]) * static_cast<double>(sums[i]);
    }
    comm_.all_reduce(view(std::span(squares)), dist::ReduceOp::kSum);
    return std::sqrt(squares[0] / squares[1]);
  }

  std::vector<float> shard(const dist::GradReducer& reducer) {
    const std::span<const float> from = full().subspan(static_cast<std::size_t>(reducer.shard().begin),
                                                       static_cast<std::size_t>(reducer.shard().size()));
    std::vector<float> values(from.begin(), from.begin());
    values.resize(from.size());
    to_host(values.data(), from.data(), from.size_bytes());
    return values;
  }

  void fill() {
    std::vector<float> values(static_cast<std::size_t>(elems_));
    const kernels::RngKey key{.seed = 1, .stream = static_cast<std::uint64_t>(comm_.rank())};
    for (std::int64_t i = 0; i < elems_; ++i) {
      float sum = -6.0F;  // of twelve uniform numbers: normal enough
      for (std::uint64_t draw = 0; draw < 3; ++draw)
        for (const std::uint32_t word : kernels::philox(key, static_cast<std::uint64_t>(i) * 3 + draw).v)
          sum += kernels::uniform01(word);
      values[static_cast<std::size_t>(i)] = sum * 1e-3F;
    }
    to_given(values.data());
  }

  // elems_ numbers of 4 bytes.
  void to_given(const void* values) {
    const std::size_t bytes = static_cast<std::size_t>(elems_) * 4;
    if (cuda_)
      cuda_copy_to_device(given_.get(), values, bytes, stream());
    else
      std::memcpy(given_.get(), values, bytes);
  }
  void to_host(void* values, const void* from, std::size_t bytes) const {
    if (cuda_)
      cuda_copy_to_host(values, from, bytes, stream());
    else
      std::memcpy(values, from, bytes);
  }

  void line(const std::string& name, double seconds, double sent, double error, double times_moved = 1.0,
            double fp32 = 0.0) {
    const double bytes = 4.0 * static_cast<double>(elems_), ranks = comm_.size();
    const double algbw = bytes / seconds * 1e-9;
    say(fmt::format(
        "{:>8.1f}  {:<34} {:>10.3f} {:>12.2f} {:>12.2f} {:>10} {:>9} {:>10}\n", bytes / 1048576.0, name, seconds * 1e3,
        algbw, algbw * times_moved * (ranks - 1) / ranks, sent > 0.0 ? fmt::format("{:.2f}", sent / 1048576.0) : "-",
        fp32 > 0.0 ? fmt::format("{:.2f}", fp32 / seconds) : "-", error < 0.0 ? "-" : fmt::format("{:.2g}", error)));
  }

  void say(const std::string& text) const {
    if (comm_.rank() == 0) fmt::print("{}", text), std::fflush(stdout);
  }
  void wait() {
    if (cuda_) cuda_synchronize(stream());
  }
  StreamRef stream() const { return exec_.stream; }
  std::span<float> full() { return {full_.get(), static_cast<std::size_t>(elems_)}; }
  BufferView integers(std::int64_t first, std::int64_t elems) {
    return {full_.get() + first, elems, DType::kInt32, exec_.device};
  }

  static constexpr std::size_t kDistinct = 97;  // integers

  dist::Communicator& comm_;
  Options options_;
  bool cuda_ = false;
  kernels::Exec exec_{};
  std::optional<DeviceStream> stream_;
  std::shared_ptr<dist::FlatMemory> memory_;
  std::optional<dist::NodeGroups> nodes_;
  std::int64_t elems_ = 0;
  std::shared_ptr<float> given_, full_;
};

int run(dist::MpiSession& session, const Options& options) {
  std::unique_ptr<dist::Communicator> world = dist::make_mpi_world(session);
  if (options.device == "cuda") {
    set_cuda_device(session.local_rank() % std::max(1, cuda_device_count()));
    world = dist::make_nccl_world(std::move(world));
  }
  Bench(*world, options).run();
  return 0;
}

}  // namespace
}  // namespace qat::bench

int main(int argc, char** argv) {
  qat::dist::MpiSession session(&argc, &argv);
  qat::bench::Options options;
  CLI::App app("Sums of gradients over ranks, by wire format");
  app.add_option("--device", options.device, "cpu or cuda")->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("--sizes", options.sizes, "MiB of fp32 gradients")->delimiter(',')->check(CLI::PositiveNumber);
  app.add_option("--ranks-per-node", options.places, "two levels, nodes of so many ranks")->check(CLI::PositiveNumber);
  app.add_option("--repeats", options.repeats, "timed calls")->check(CLI::Range(1, 1000));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return session.rank() == 0 ? app.exit(error) : error.get_exit_code();
  }
  try {
    return qat::bench::run(session, options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank %d: %s\n", session.rank(), error.what());
    session.abort(1);
  }
}
