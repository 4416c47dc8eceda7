#include "kernels/common/trace_range.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#if QAT_HAS_NVTX

// This program listens as a profiler does: NVTX calls this when its first function is used.
#include <nvtx3/nvToolsExt.h>

#include <string>
#include <vector>

namespace {

std::vector<std::string>& heard() {
  static std::vector<std::string> calls;
  return calls;
}

int push(const char* name) {
  heard().push_back(name);
  return 0;
}

int pop() {
  heard().push_back("end");
  return 0;
}

int listen(NvtxGetExportTableFunc_t export_table) {
  const auto* callbacks = static_cast<const NvtxExportTableCallbacks*>(export_table(NVTX_ETID_CALLBACKS));
  NvtxFunctionTable table = nullptr;
  unsigned int size = 0;
  if (callbacks == nullptr || callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE, &table, &size) == 0) return 0;
  *table[NVTX_CBID_CORE_RangePushA] = reinterpret_cast<NvtxFunctionPointer>(push);
  *table[NVTX_CBID_CORE_RangePop] = reinterpret_cast<NvtxFunctionPointer>(pop);
  return 1;
}

const bool listening = [] {
  InitializeInjectionNvtx2_fnptr = &listen;
  return true;
}();

}  // namespace

namespace qat {
namespace {

using ::testing::ElementsAre;

TEST(TraceRange, IsHeardByAProfilerAndNests) {
  ASSERT_TRUE(listening);
  heard().clear();
  {
    const TraceRange outer("step");
    const TraceRange inner("forward");
  }
  EXPECT_THAT(heard(), ElementsAre("step", "forward", "end", "end"));
}

}  // namespace
}  // namespace qat

#else

TEST(TraceRange, DoesNothingWithoutCuda) { const qat::TraceRange range("step"); }

#endif
