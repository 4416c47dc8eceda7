#include "launch/memory_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <span>

#include "dist/comm/agree.h"
#include "kernels/common/cuda_device.h"
#include "launch/start_blocks.h"
#include "src/quant/torch_errors.h"
#include "src/report/numbers.h"
#include "src/train/tensor_memory.h"

namespace qat::launch {
namespace {

std::string amount(std::int64_t bytes) { return bytes == kNoLimit ? "an unknown amount" : byte_size(bytes); }

// A GPU's memory has run out, not the host's.
bool is_of_gpu(const std::exception& error) {
  const std::string words = words_of(error);
  for (const char* part : {"CUDA", "GPU", "CUBLAS", "CUDNN"})
    if (words.find(part) != std::string::npos) return true;
  return false;
}

}  // namespace

MemoryOutlook::MemoryOutlook(World& world, const RunConfig& config, const RankLayout& layout)
    : config_(config), layout_(layout) {
  const HostMemory host = read_host_memory();
  // LibTorch's kernels are not all in memory yet.
  const std::int64_t program = std::max(host.resident, program_bytes(layout_.cuda));
  Account& memory = accounts_.emplace_back();
  memory.name = "memory";
  memory.question = {
      .needed = [program](const RunConfig& c, const RankLayout& l) { return host_memory_needed(c, l, program); },
      .available = [host](const RankLayout& l) { return share_of(host, l.ranks_here, l.threads).bytes; }};
  memory.share = share_of(host, layout_.ranks_here, layout_.threads);
  if (layout_.cuda) {
    const std::int64_t free = cuda_free_bytes() + kCudaContextBytes;
    Account& gpu = accounts_.emplace_back();
    gpu.name = "GPU memory";
    gpu.question = {.needed = gpu_memory_needed, .available = [free](const RankLayout&) { return free; }};
    gpu.share = {free, "free on its GPU"};
  }
  for (Account& account : accounts_) {
    account.needed = account.question.needed(config_, layout_);
    find_worst(world, account);
  }
}

// The same rank is named everywhere.
void MemoryOutlook::find_worst(World& world, Account& account) const {
  const std::vector<std::int64_t> mine = {account.share.bytes};
  std::vector<std::int64_t> all(static_cast<std::size_t>(world.size()));
  world.comm().all_gather(view(mine), view(all));
  const auto least = std::min_element(all.begin(), all.end());
  const auto rank = static_cast<int>(least - all.begin());
  account.least = *least;
  account.worst = dist::broadcast_string(
      world.comm(), fmt::format("rank {} on {}: {}", world.rank(), world.session().host_name(), account.share.source),
      rank);
}

void MemoryOutlook::report(Logger& log) const {
  std::vector<std::string> lines;
  for (const Account& account : accounts_)
    lines.push_back(fmt::format("{} of a rank: {}; there is {} ({})", account.name, describe(account.needed, 4),
                                amount(account.least), account.worst));
  log.info(start_block("Memory", lines));
  for (const Account& account : accounts_) {
    if (account.fits()) continue;
    log.warning(fmt::format("this run may run out of {}: a rank needs {}, and there is {} ({}). {}", account.name,
                            describe(account.needed, 8), amount(account.least), account.worst, changes(account)));
  }
}

void MemoryOutlook::report_peak(World& world, Logger& log) const {
  std::vector<std::int64_t> most = {read_host_memory().peak_resident};
  if (layout_.cuda) {
    // Of what LibTorch knows nothing of (moments, sums of gradients, libraries' work areas), what there is now.
    const TensorMemory tensors = tensor_memory();
    most.push_back(accounts_.back().share.bytes - cuda_free_bytes() - tensors.now + tensors.most);
  }
  world.comm().all_reduce(view(most), dist::ReduceOp::kMax);
  for (std::size_t i = 0; i < most.size(); ++i)
    log.info(fmt::format("{} at most, on a rank: {} (estimated: {})", accounts_[i].name, amount(most[i]),
                         amount(accounts_[i].needed.total())));
}

std::string MemoryOutlook::changes(const Account& account) const {
  const std::int64_t goal = account.fits() ? account.needed.total() / 4 * 3 : kNoLimit;
  const std::int64_t less = account.share.bytes - account.least;
  MemoryQuestion question = account.question;
  question.available = [&](const RankLayout& layout) {
    // A tenth to spare, since an estimate is none too exact.
    return std::min(goal, (account.question.available(layout) - less) / 10 * 9);
  };
  return describe(changes_that_fit(config_, layout_, question));
}

std::string MemoryOutlook::after_failure(const std::exception& error) const {
  const Account& account = is_of_gpu(error) ? accounts_.back() : accounts_.front();
  return fmt::format("when it began, it had {} ({})\nestimated {} of a rank: {}\n{}", amount(account.share.bytes),
                     account.share.source, account.name, describe(account.needed, 8), changes(account));
}

std::unique_ptr<const MemoryOutlook> look_at_memory(World& world, const RunConfig& config, Purpose purpose, bool cuda,
                                                    int threads, Logger* log, std::span<const StagePart> parts) {
  RankLayout layout{.cuda = cuda,
                    .ranks = world.size() / std::max(1, static_cast<int>(parts.size())),
                    .ranks_here = world.session().local_size(),
                    .threads = threads,
                    .training = purpose != Purpose::kEvaluation,
                    .range_test = purpose == Purpose::kRangeTest};
  std::int64_t most = 0;
  for (const StagePart& part : parts) {
    RankLayout of_stage = layout;
    of_stage.part = part;
    const std::int64_t bytes =
        (cuda ? gpu_memory_needed(config, of_stage) : host_memory_needed(config, of_stage, program_bytes(cuda)))
            .total();
    if (bytes > most) most = bytes, layout.part = part;
  }
  auto outlook = std::make_unique<const MemoryOutlook>(world, config, layout);
  if (log != nullptr) outlook->report(*log);
  return outlook;
}

std::string describe_out_of_memory(const std::exception& error, int rank, const MemoryOutlook* outlook) {
  const std::optional<std::int64_t> asked = bytes_asked(error);
  std::string text = asked ? fmt::format("out of memory: rank {} asked for another {}", rank, byte_size(*asked))
                           : fmt::format("out of memory: rank {} asked for more", rank);
  text += fmt::format("; it had held up to {} of main memory", byte_size(read_host_memory().peak_resident));
  const std::string advice =
      outlook != nullptr
          ? outlook->after_failure(error)
          : "lower train.micro_batch_size (or eval.batch_size, in an evaluation), data.sequence_length or the model's "
            "sizes, or run fewer ranks or threads (parallel.threads_per_rank) on this machine";
  return fmt::format("{}\n{}\nreported as: {}", text, advice, words_of(error));
}

}  // namespace qat::launch
