#include "launch/failure.h"

#include <fmt/format.h>

#include <cstdio>
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

// memory: null where it was not looked at.
Failure describe(const std::exception& error, int rank, const MemoryOutlook* memory) {
  if (is_out_of_memory(error))
    return {static_cast<int>(ErrorKind::kOutOfMemory), describe_out_of_memory(error, rank, memory)};
  if (const auto* known = dynamic_cast<const Error*>(&error)) return {known->exit_code(), known->what()};
  return {static_cast<int>(ErrorKind::kInternal), error.what()};
}

// The user's to mend before anything ran: the message says all there is to say.
bool is_plain(int exit_code, const RunStatus& status) {
  return !status.has_trained() &&
         (exit_code == static_cast<int>(ErrorKind::kConfig) || exit_code == static_cast<int>(ErrorKind::kData));
}

// status: of a run, null outside one.
void print(const Failure& failure, const RunStatus* status) {
  std::string text = fmt::format("qat_dist: {} (exit {}): {}\n", exit_code_meaning(failure.exit_code),
                                 failure.exit_code, failure.message);
  if (status != nullptr && !is_plain(failure.exit_code, *status))
    text = to_text(status->failure_report(failure.exit_code, failure.message));
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

int end_together(World& world, RunStatus& status, const dist::AgreedError& error) {
  if (world.is_root()) {
    print({error.exit_code(), error.what()}, &status);
    status.finish("failed", error.exit_code(), error.what());
    status.write_report();
  }
  if (error.kind() == ErrorKind::kCommunication) {
    // NCCL may have left a thread behind that never ends: nothing may be destroyed under its feet.
    world.stop_watching();
    status.release_lock();
    world.session().leave(error.exit_code());
  }
  return error.exit_code();
}

}  // namespace

int run_guarded(World& world, RunStatus& status, const std::function<int()>& body) {
  status.attach(world);
  try {
    return body();
  } catch (const dist::AgreedError& error) {
    return end_together(world, status, error);
  } catch (const std::exception& error) {
    if (const auto shared = shared_failure(world, status, error)) return end_together(world, status, *shared);
    const Failure failure = describe(error, world.rank(), status.memory());
    dist::Watchdog* const watchdog = world.size() > 1 ? world.watchdog() : nullptr;
    if (watchdog == nullptr || watchdog->announce_failure(failure.exit_code, failure.message)) {
      print(failure, &status);
      if (world.is_root()) status.finish("failed", failure.exit_code, failure.message);
    }
    if (watchdog != nullptr) watchdog->end_with_failure();
    if (world.size() == 1) status.write_report();
    if (world.size() > 1) world.session().abort(failure.exit_code);
    return failure.exit_code;
  }
}

dist::RankReport report_of(const std::exception& error, const World& world, const RunStatus& status) {
  Failure failure = describe(error, world.rank(), status.memory());
  return {.ok = false, .exit_code = failure.exit_code, .message = std::move(failure.message)};
}

int report_failure(const std::exception& error) {
  const Failure failure = describe(error, /*rank=*/0, /*memory=*/nullptr);
  print(failure, nullptr);
  return failure.exit_code;
}

}  // namespace qat::launch
