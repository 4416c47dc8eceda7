// Vector instructions of CPU kernels, chosen at run time, so that one binary runs on any x86-64 (and elsewhere).
//
// A kernel's loops are written once, as plain always-inline C++ over rows; IsaClones compiles them twice, for the
// baseline and for AVX2. Both give the same bits: -ffp-contract=off, no FMA, no reassociation of floating point.
#pragma once

#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__)
#define QAT_X86_SIMD 1
#define QAT_TARGET_AVX2 __attribute__((target("avx2")))
#else
#define QAT_X86_SIMD 0
#define QAT_TARGET_AVX2
#endif
#define QAT_ALWAYS_INLINE inline __attribute__((always_inline))

namespace qat::kernels {

enum class CpuIsa : std::uint8_t { kPortable, kAvx2 };

// The best that this processor runs. Operations take it as an argument below their dispatch, so tests can name one.
CpuIsa best_cpu_isa() noexcept;

// IsaClones<body>::pick(isa) is a pointer to `body` (an always-inline function) compiled for isa.
template <auto kBody>
struct IsaClones;

template <typename Result, typename... Args, Result (*kBody)(Args...)>
struct IsaClones<kBody> {
  static Result portable(Args... args) { return kBody(args...); }
  QAT_TARGET_AVX2 static Result avx2(Args... args) { return kBody(args...); }
  static constexpr auto pick(CpuIsa isa) noexcept -> Result (*)(Args...) {
    return isa == CpuIsa::kAvx2 ? &avx2 : &portable;
  }
};

}  // namespace qat::kernels
