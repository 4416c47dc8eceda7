#include "launch/failure.h"

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <utility>

#include "dist/comm/agree.h"
#include "dist/comm/mpi_comm.h"
#include "kernels/common/error.h"
#include "src/quant/torch_errors.h"
#include "src/report/failure_text.h"

namespace qat::launch {
namespace {

struct Failure {
  int exit_code;
  std::string message;
};

Failure describe(const std::exception& error, int rank, const RunStatus& status) {
  if (const auto* agreed = dynamic_cast<const dist::AgreedError*>(&error)) return {agreed->exit_code(), agreed->what()};
  if (is_out_of_memory(error))
    return {static_cast<int>(ErrorKind::kOutOfMemory), describe_out_of_memory(error, rank, status.memory.get())};
  if (const auto* known = dynamic_cast<const Error*>(&error)) return {known->exit_code(), known->what()};
  return {static_cast<int>(ErrorKind::kInternal), error.what()};
}

// The user's to mend before anything ran: the message says all there is to say.
bool is_plain(int exit_code, const RunStatus& status) {
  return !status.last_step &&
         (exit_code == static_cast<int>(ErrorKind::kConfig) || exit_code == static_cast<int>(ErrorKind::kData));
}

void print(const Failure& failure, const World* world, const RunStatus& status) {
  std::string text = fmt::format("qat_dist: {} (exit {}): {}\n", exit_code_meaning(failure.exit_code),
                                 failure.exit_code, failure.message);
  if (world != nullptr && !is_plain(failure.exit_code, status)) {
    FailureReport report{.exit_code = failure.exit_code,
                         .what = failure.message,
                         .rank = world->rank(),
                         .host = world->session().host_name(),
                         .last_step = status.last_step,
                         .checkpoint = status.last_checkpoint};
    if (!status.last_checkpoint.empty())
      report.next_command = "start the same command again to go on from the checkpoint";
    if (!status.run_dir.empty())
      report.log_file =
          (std::filesystem::path(status.run_dir) / "logs" / fmt::format("rank_{:03}.log", world->rank())).string();
    text = to_text(report);
  }
  std::fflush(stdout);
  std::fputs(text.c_str(), stderr);
  std::fflush(stderr);
}

// What stops every rank is one failure, however each came to it. Nobody else can be asked when communication is broken.
std::optional<dist::AgreedError> shared_failure(World& world, const RunStatus& status, const std::exception& error) {
  constexpr double kPatienceSeconds = 3.0;  // for ranks that meet the same failure a little later
  const dist::RankReport report = report_of(error, world, status);
  if (world.size() == 1 || report.exit_code == static_cast<int>(ErrorKind::kCommunication)) return std::nullopt;
  if (!world.session().all_arrive(kPatienceSeconds)) return std::nullopt;
  try {
    const std::unique_ptr<dist::Communicator> everyone = dist::make_mpi_world(world.session());
    dist::agree(*everyone, report, "failure");
  } catch (const dist::AgreedError& shared) {
    return shared;
  }
  return std::nullopt;
}

int end_together(World& world, const RunStatus& status, const dist::AgreedError& error) {
  if (world.is_root()) print(describe(error, world.rank(), status), &world, status);
  // NCCL may have left a thread behind that never ends: nothing may be destroyed under its feet.
  if (error.kind() == ErrorKind::kCommunication) world.session().leave(error.exit_code());
  return error.exit_code();
}

}  // namespace

int run_guarded(World& world, const RunStatus& status, const std::function<int()>& body) {
  try {
    return body();
  } catch (const dist::AgreedError& error) {
    return end_together(world, status, error);
  } catch (const std::exception& error) {
    if (const auto shared = shared_failure(world, status, error)) return end_together(world, status, *shared);
    const Failure failure = describe(error, world.rank(), status);
    print(failure, &world, status);
    if (world.size() > 1) world.session().abort(failure.exit_code);
    return failure.exit_code;
  }
}

dist::RankReport report_of(const std::exception& error, const World& world, const RunStatus& status) {
  Failure failure = describe(error, world.rank(), status);
  return {.ok = false, .exit_code = failure.exit_code, .message = std::move(failure.message)};
}

int report_failure(const std::exception& error) {
  const Failure failure = describe(error, /*rank=*/0, {});
  print(failure, nullptr, {});
  return failure.exit_code;
}

}  // namespace qat::launch
