#include "src/eval/dealt_passes.h"

#include <algorithm>
#include <mutex>

#include "dist/comm/agree.h"
#include "kernels/common/error.h"
#include "src/quant/torch_parallel.h"

namespace qat {

std::optional<std::vector<double>> run_dealt_passes(const EvaluationJob& job, std::size_t passes, std::size_t numbers,
                                                    std::string_view what, const ScorePass& score) {
  dist::Communicator& world = job.grid.world();
  // Equal counts on every replica; one beyond the last pass contributes zeros that nobody reads.
  const auto replicas = static_cast<std::size_t>(job.grid.data_size()),
             me = static_cast<std::size_t>(job.grid.data_rank());
  const std::size_t share = (passes + replicas - 1) / replicas;
  std::vector<double> mine(share * numbers), all(mine.size() * static_cast<std::size_t>(world.size()));
  job.model.parameters().gather(job.model.groups_used(job.precision), job.grid.data());
  WeightCache cache;
  const ForwardContext context{.precision = &job.precision, .weight_cache = &cache, .ranges = job.ranges};
  // Rounds of passes, as many on every rank, with a question after each; they keep the rank with most threads busy.
  std::vector<std::int64_t> most_threads = {job.threads};
  world.all_reduce(view(std::span(most_threads)), dist::ReduceOp::kMax);
  dist::Pace pace;
  std::mutex reading;               // guards what follows
  std::optional<Error> unreadable;  // the other ranks wait for this one in what follows, and then all throw
  job.poll.start();
  for (std::size_t begin = 0; begin < share;) {
    const auto count = std::min<std::size_t>(share - begin, static_cast<std::size_t>(most_threads[0] * pace.units()));
    const auto one = [&](std::int64_t i) {
      const std::size_t turn = begin + static_cast<std::size_t>(i), pass = turn * replicas + me;
      try {
        if (pass < passes) score(pass, context, std::span(mine).subspan(turn * numbers, numbers));
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::kData) throw;
        const std::lock_guard lock(reading);
        if (!unreadable) unreadable = error;
      }
      world.beat();
    };
    // A stage waits for others, and must not hold up the first pass of another thread meanwhile.
    if (job.grid.stages() > 1)
      for (std::size_t i = 0; i < count; ++i) one(static_cast<std::int64_t>(i));
    else
      run_torch_parallel(static_cast<std::int64_t>(count), job.threads, one);
    begin += count;
    if (begin < share && job.poll.ask(pace, pace.units()) != 0) return std::nullopt;
  }
  dist::on_every_rank(world, what, [&] {
    if (unreadable) throw Error(*unreadable);
  });
  world.all_gather(view(std::span<const double>(mine)), view(std::span(all)));
  std::vector<double> in_order;
  in_order.reserve(passes * numbers);
  for (std::size_t pass = 0; pass < passes; ++pass) {
    const auto rank =
        static_cast<std::size_t>(job.grid.rank_of(static_cast<int>(pass % replicas), job.grid.last_stage()));
    const auto found = all.begin() + static_cast<std::ptrdiff_t>((rank * share + pass / replicas) * numbers);
    in_order.insert(in_order.end(), found, found + static_cast<std::ptrdiff_t>(numbers));
  }
  return in_order;
}

}  // namespace qat
