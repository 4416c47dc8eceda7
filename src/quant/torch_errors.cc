#include "src/quant/torch_errors.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <new>
#include <string_view>
#include <system_error>

#include "kernels/common/error.h"

namespace qat {
namespace {

// LibTorch has a type for its GPU allocator's failures alone; the others are plain errors known by their words: the CPU
// allocator (c10/core/impl/alloc_cpu.cpp), any CUDA call, cuBLAS, cuDNN 8 and 9, oneDNN.
constexpr std::array<std::string_view, 8> kWords = {"DefaultCPUAllocator: can't allocate memory",
                                                    "DefaultCPUAllocator: not enough memory",
                                                    "CUDA error: out of memory",
                                                    "CUDA out of memory",
                                                    "STATUS_ALLOC_FAILED",
                                                    "ALLOCATION_FAILED",
                                                    "could not create a memory object",
                                                    "cudaErrorMemoryAllocation"};

constexpr std::string_view kAsked = "ried to allocate ";  // "you tried" and "Tried"

}  // namespace

bool is_out_of_memory(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return true;
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr) return true;
  if (const auto* own = dynamic_cast<const Error*>(&error)) return own->kind() == ErrorKind::kOutOfMemory;
  if (const auto* system = dynamic_cast<const std::system_error*>(&error))
    return system->code() == std::errc::not_enough_memory;
  if (dynamic_cast<const c10::Error*>(&error) == nullptr) return false;
  const std::string words = words_of(error);
  return std::any_of(kWords.begin(), kWords.end(),
                     [&](std::string_view part) { return words.find(part) != std::string::npos; });
}

std::string words_of(const std::exception& error) {
  const auto* torch = dynamic_cast<const c10::Error*>(&error);
  return torch == nullptr ? error.what() : torch->what_without_backtrace();
}

std::optional<std::int64_t> bytes_asked(const std::exception& error) {
  const std::string words = words_of(error);
  const std::size_t at = words.find(kAsked);
  if (at == std::string::npos) return std::nullopt;
  const char* const begin = words.data() + at + kAsked.size();
  double number = 0.0;
  const auto [end, failure] = std::from_chars(begin, words.data() + words.size(), number);
  if (failure != std::errc() || *end != ' ') return std::nullopt;
  const std::string_view unit(end + 1);
  constexpr std::array<std::string_view, 4> kUnits = {"bytes", "KiB", "MiB", "GiB"};
  for (std::size_t i = 0; i < kUnits.size(); ++i)
    if (unit.starts_with(kUnits[i])) return std::llround(std::ldexp(number, static_cast<int>(10 * i)));
  return std::nullopt;
}

}  // namespace qat
