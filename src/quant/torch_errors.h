// Which failures are a lack of memory, whoever reports them: operator new, LibTorch's allocators on CPU and GPU, cuBLAS
// and cuDNN through LibTorch, the kernels' own calls, the system.
#pragma once

#include <cstdint>
#include <exception>
#include <optional>
#include <string>

namespace qat {

bool is_out_of_memory(const std::exception& error);

// What the failing library said, without LibTorch's stack of C++ frames.
std::string words_of(const std::exception& error);

// The bytes that a failed allocation asked for, if its message says so ("you tried to allocate 4096 bytes", "Tried to
// allocate 20.00 MiB").
std::optional<std::int64_t> bytes_asked(const std::exception& error);

}  // namespace qat
