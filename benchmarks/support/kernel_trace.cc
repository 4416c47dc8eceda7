#include "benchmarks/support/kernel_trace.h"

#include <cuda_runtime_api.h>
#include <cupti.h>
#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <stdexcept>
#include <utility>

namespace qat::bench {
namespace {

struct Record {
  std::string name;
  std::uint64_t start, end;
};
std::mutex mutex;  // CUPTI calls back from a thread of its own
std::vector<Record> records;

void check(CUptiResult result, const char* call) {
  if (result == CUPTI_SUCCESS) return;
  const char* text = "";
  cuptiGetResultString(result, &text);
  throw std::runtime_error(std::string(call) + ": " + text);
}

std::string readable(const char* mangled) {
  int status = 0;
  char* text = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  std::string name = status == 0 ? text : mangled;
  std::free(text);
  return name;
}

void CUPTIAPI give_buffer(std::uint8_t** buffer, std::size_t* size, std::size_t* max_records) {
  *size = std::size_t{8} << 20;
  *buffer = static_cast<std::uint8_t*>(std::aligned_alloc(64, *size));
  *max_records = 0;
}

void CUPTIAPI take_buffer(CUcontext, std::uint32_t, std::uint8_t* buffer, std::size_t, std::size_t valid) {
  const std::lock_guard lock(mutex);
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      const auto* kernel = reinterpret_cast<const CUpti_ActivityKernel9*>(record);
      records.push_back({kernel->name, kernel->start, kernel->end});
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      const auto* copy = reinterpret_cast<const CUpti_ActivityMemcpy5*>(record);
      records.push_back({"[copy]", copy->start, copy->end});
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
      const auto* set = reinterpret_cast<const CUpti_ActivityMemset4*>(record);
      records.push_back({"[memset]", set->start, set->end});
    }
  }
  std::free(buffer);
}

constexpr CUpti_ActivityKind kKinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY,
                                         CUPTI_ACTIVITY_KIND_MEMSET};

}  // namespace

KernelTrace::KernelTrace() {
  records.clear();
  check(cuptiActivityRegisterCallbacks(give_buffer, take_buffer), "cuptiActivityRegisterCallbacks");
  for (const CUpti_ActivityKind kind : kKinds) check(cuptiActivityEnable(kind), "cuptiActivityEnable");
}

void KernelTrace::restart() {
  cudaDeviceSynchronize();
  check(cuptiActivityFlushAll(1), "cuptiActivityFlushAll");
  const std::lock_guard lock(mutex);
  records.clear();
}

std::vector<KernelTime> KernelTrace::stop(double& busy_ms, double& span_ms) {
  cudaDeviceSynchronize();
  for (const CUpti_ActivityKind kind : kKinds) check(cuptiActivityDisable(kind), "cuptiActivityDisable");
  check(cuptiActivityFlushAll(1), "cuptiActivityFlushAll");
  const std::lock_guard lock(mutex);
  std::sort(records.begin(), records.end(), [](const Record& a, const Record& b) { return a.start < b.start; });
  std::map<std::string, KernelTime> by_name;
  std::uint64_t busy = 0, until = 0;
  for (const Record& one : records) {
    KernelTime& time = by_name[one.name];
    ++time.calls;
    time.milliseconds += static_cast<double>(one.end - one.start) * 1e-6;
    if (until != 0 && one.start > until) time.idle_before += static_cast<double>(one.start - until) * 1e-6;
    busy += one.end > std::max(until, one.start) ? one.end - std::max(until, one.start) : 0;
    until = std::max(until, one.end);
  }
  busy_ms = static_cast<double>(busy) * 1e-6;
  span_ms = records.empty() ? 0.0 : static_cast<double>(until - records.front().start) * 1e-6;
  std::vector<KernelTime> times;
  for (const auto& [name, time] : by_name) {
    times.push_back(time);
    times.back().name = readable(name.c_str());
  }
  std::sort(times.begin(), times.end(), [](const auto& a, const auto& b) { return a.milliseconds > b.milliseconds; });
  return times;
}

}  // namespace qat::bench
