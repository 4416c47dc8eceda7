// Shared memory by address, and copies that reach it while a kernel does something else (cp.async).
#pragma once

#include <cuda_runtime.h>

namespace qat::kernels {

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}
// Volatile: read when and as often as the caller says, for what should not be kept in registers.
__device__ __forceinline__ uint4 read_shared(unsigned address) {
  uint4 words;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
               : "r"(address));
  return words;
}
__device__ __forceinline__ float4 as_floats(const uint4& words) {
  return {__uint_as_float(words.x), __uint_as_float(words.y), __uint_as_float(words.z), __uint_as_float(words.w)};
}

// 16 bytes, or zeros; 128 bytes around them are fetched into the second-level cache, and none into the first: for what
// a multiprocessor reads once.
__device__ __forceinline__ void copy16(unsigned to, const void* from, bool wanted) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(wanted ? 16 : 0)
               : "memory");
}
// 16 bytes and nothing around them.
__device__ __forceinline__ void copy16(unsigned to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
// The copies since the last call become a group.
__device__ __forceinline__ void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Returns when all but the newest kOpen groups of this thread have arrived. For itself: others need a barrier.
template <int kOpen>
__device__ __forceinline__ void wait_for_own_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kOpen) : "memory");
}
__device__ __forceinline__ void wait_for_all_own_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

}  // namespace qat::kernels
