#include "dist/grad/exchange_flat_memory.h"

#include <utility>

namespace qat::dist {
namespace {

class ExchangeFlatMemory final : public FlatMemory {
 public:
  ExchangeFlatMemory(Communicator& comm, std::shared_ptr<FlatMemory> memory)
      : comm_(comm), memory_(std::move(memory)) {}

  std::shared_ptr<float> allocate(std::int64_t elems) override {
    std::shared_ptr<void> data = comm_.exchange_memory(elems * static_cast<std::int64_t>(sizeof(float)));
    return data == nullptr ? memory_->allocate(elems) : std::static_pointer_cast<float>(std::move(data));
  }
  void zero(std::span<float> values) override { memory_->zero(values); }
  void add(std::span<float> a, std::span<const float> b) override { memory_->add(a, b); }
  void copy(std::span<float> a, std::span<const float> b) override { memory_->copy(a, b); }
  void wait() override { memory_->wait(); }

 private:
  Communicator& comm_;
  std::shared_ptr<FlatMemory> memory_;
};

}  // namespace

std::shared_ptr<FlatMemory> exchange_flat_memory(Communicator& comm, std::shared_ptr<FlatMemory> memory) {
  return std::make_shared<ExchangeFlatMemory>(comm, std::move(memory));
}

}  // namespace qat::dist
