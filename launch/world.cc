#include "launch/world.h"

#include <ATen/Parallel.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <span>
#include <vector>

#include "dist/comm/agree.h"
#include "dist/comm/device_assignment.h"
#include "dist/comm/mpi_comm.h"
#include "dist/comm/nccl_comm.h"
#include "dist/watch/watched_comm.h"
#include "kernels/common/cuda_device.h"
#include "kernels/common/error.h"

namespace qat::launch {
namespace {

int environment_int(const char* name) {
  const char* text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets it
  return text == nullptr ? 0 : std::atoi(text);
}

}  // namespace

World::World(int* argc, char*** argv) : session_(argc, argv), comm_(dist::make_mpi_world(session_)) {}

World::~World() { board_.enter(dist::Section::kShutDown); }

void World::watch(const dist::WatchdogOptions& options) {
  watchdog_ = std::make_unique<dist::Watchdog>(*comm_, board_, options);
  comm_ = dist::make_watched_comm(std::move(comm_), board_);
}

int World::use_threads(int requested) const {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  const int allowed = sched_getaffinity(0, sizeof(mask), &mask) == 0 ? CPU_COUNT(&mask) : 1;
  const int share = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)) / session_.local_size();
  const int threads = std::max(1, std::min(allowed, requested > 0 ? requested : share));
  at::set_num_threads(1);
  at::set_num_interop_threads(1);
  return threads;
}

ComputeMode World::use_device(const ComputeConfig& config) {
  // All ranks must go the same way, whatever each of them sees.
  std::vector<std::int32_t> fewest = {config.device == DeviceChoice::kCpu ? 0 : cuda_device_count()};
  comm_->all_reduce(view(std::span(fewest)), dist::ReduceOp::kMin);
  const bool cuda = config.device == DeviceChoice::kCuda || (config.device == DeviceChoice::kAuto && fewest[0] > 0);
  if (cuda && fewest[0] == 0)
    throw dist::AgreedError(ErrorKind::kConfig,
                            "compute.device is \"cuda\", but a rank sees no GPU (no driver, no device, or a program "
                            "built without CUDA): use compute.device \"cpu\", or start it where there are GPUs");
  const int index = cuda ? dist::assign_local_devices(*comm_) : 0;
  ComputeMode mode;
  dist::RankReport report;
  try {
    mode = make_compute_mode(cuda, config.dtype, config.attention, index);
  } catch (const Error& error) {
    report = {.ok = false, .exit_code = error.exit_code(), .message = error.what()};
  }
  dist::agree(*comm_, report, "compute device");
  if (cuda) comm_ = dist::make_nccl_world(std::move(comm_));
  if (cuda && watchdog_) comm_ = dist::make_watched_comm(std::move(comm_), board_);
  return mode;
}

std::int64_t World::job_restarts() { return environment_int("SLURM_RESTART_COUNT"); }

std::string World::job_id() {
  const char* text = std::getenv("SLURM_JOB_ID");  // NOLINT(concurrency-mt-unsafe): nobody sets it
  return text == nullptr ? "" : text;
}

}  // namespace qat::launch
