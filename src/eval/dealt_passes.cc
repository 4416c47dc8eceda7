#include "src/eval/dealt_passes.h"

#include <algorithm>

#include "dist/comm/agree.h"
#include "kernels/common/error.h"
#include "src/quant/torch_parallel.h"

namespace qat {

std::optional<std::vector<double>> run_dealt_passes(const EvaluationJob& job, std::size_t passes, std::size_t numbers,
                                                    std::string_view what, const ScorePass& score) {
  dist::Communicator& comm = job.comm;
  // Equal counts on every rank; a rank beyond the last pass contributes zeros that nobody reads.
  const std::size_t ranks = static_cast<std::size_t>(comm.size()), me = static_cast<std::size_t>(comm.rank());
  const std::size_t share = (passes + ranks - 1) / ranks;
  std::vector<double> mine(share * numbers), all(share * numbers * ranks);
  job.model.parameters().gather(job.model.groups_used(job.precision), comm);
  WeightCache cache;
  const ForwardContext context{.precision = &job.precision, .weight_cache = &cache, .ranges = job.ranges};
  // Rounds of passes, as many on every rank, with a question after each; they keep the rank with most threads busy.
  std::vector<std::int64_t> most_threads = {job.threads};
  comm.all_reduce(view(std::span(most_threads)), dist::ReduceOp::kMax);
  dist::Pace pace;
  std::optional<Error> unreadable;  // the other ranks wait for this one in what follows, and then all throw
  job.poll.start();
  for (std::size_t begin = 0; begin < share;) {
    const auto count = std::min<std::size_t>(share - begin, static_cast<std::size_t>(most_threads[0] * pace.units()));
    try {
      run_torch_parallel(static_cast<std::int64_t>(count), job.threads, [&](std::int64_t i) {
        const std::size_t turn = begin + static_cast<std::size_t>(i), pass = turn * ranks + me;
        if (pass < passes) score(pass, context, std::span(mine).subspan(turn * numbers, numbers));
        comm.beat();
      });
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kData) throw;
      if (!unreadable) unreadable = error;
    }
    begin += count;
    if (begin < share && job.poll.ask(pace, pace.units()) != 0) return std::nullopt;
  }
  dist::on_every_rank(comm, what, [&] {
    if (unreadable) throw Error(*unreadable);
  });
  comm.all_gather(view(std::span<const double>(mine)), view(std::span(all)));
  std::vector<double> in_order;
  in_order.reserve(passes * numbers);
  for (std::size_t pass = 0; pass < passes; ++pass) {
    const auto found = all.begin() + static_cast<std::ptrdiff_t>(((pass % ranks) * share + pass / ranks) * numbers);
    in_order.insert(in_order.end(), found, found + static_cast<std::ptrdiff_t>(numbers));
  }
  return in_order;
}

}  // namespace qat
