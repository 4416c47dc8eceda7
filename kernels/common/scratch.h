// Uninitialized working memory of one kernel call, aligned to a cache line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>

namespace qat::kernels {

template <typename T>
class Scratch {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  explicit Scratch(std::int64_t elems)
      : data_(static_cast<T*>(::operator new(static_cast<std::size_t>(elems) * sizeof(T), kAlign))) {}
  T* get() const noexcept { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlign{64};
  struct Free {
    void operator()(T* data) const noexcept { ::operator delete(data, kAlign); }
  };
  std::unique_ptr<T, Free> data_;
};

}  // namespace qat::kernels
