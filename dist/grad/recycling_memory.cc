#include "dist/grad/recycling_memory.h"

#include <map>
#include <utility>

namespace qat::dist {
namespace {

class RecyclingMemory final : public FlatMemory {
 public:
  explicit RecyclingMemory(std::shared_ptr<FlatMemory> memory) : memory_(std::move(memory)) {}

  std::shared_ptr<float> allocate(std::int64_t elems) override {
    const auto found = spare_->lower_bound(elems);
    if (found == spare_->end()) return returning(memory_->allocate(elems), elems);
    const std::int64_t capacity = found->first;
    std::shared_ptr<float> data = std::move(found->second);
    spare_->erase(found);
    memory_->zero({data.get(), static_cast<std::size_t>(elems)});
    return returning(std::move(data), capacity);
  }
  void zero(std::span<float> values) override { memory_->zero(values); }
  void add(std::span<float> a, std::span<const float> b) override { memory_->add(a, b); }
  void copy(std::span<float> a, std::span<const float> b) override { memory_->copy(a, b); }
  void wait() override { memory_->wait(); }

 private:
  using Spare = std::multimap<std::int64_t, std::shared_ptr<float>>;  // by elements

  // `data`, which goes back to the spare ones with its last owner.
  std::shared_ptr<float> returning(std::shared_ptr<float> data, std::int64_t capacity) const {
    float* const address = data.get();
    return {address, [spare = spare_, data = std::move(data), capacity](float*) { spare->emplace(capacity, data); }};
  }

  std::shared_ptr<FlatMemory> memory_;
  std::shared_ptr<Spare> spare_ = std::make_shared<Spare>();
};

}  // namespace

std::shared_ptr<FlatMemory> recycling_memory(std::shared_ptr<FlatMemory> memory) {
  return std::make_shared<RecyclingMemory>(std::move(memory));
}

}  // namespace qat::dist
