// Gradients on their way from a pass into the sums of their buckets.
#include "src/train/pass_gradients.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <map>

#include "dist/comm/local_comm.h"
#include "dist/grad/norm_block.h"
#include "kernels/common/error.h"

namespace qat {
namespace {

// Two groups of two buckets each: (first), (second, third); (norm), (adapter).
class PassGradientsTest : public ::testing::Test {
 protected:
  static constexpr std::int64_t kBlock = kNormBlock;

  void SetUp() override {
    const auto add = [&](const char* name, std::vector<std::int64_t> shape, GroupKey group, bool trainable) {
      return store_.add(name, std::move(shape), group, trainable, /*decay=*/true);
    };
    first_ = add("first", {2, kBlock}, GroupKind::kBase, true);
    norm_ = add("norm", {kBlock}, GroupKind::kShared, true);
    second_ = add("second", {2, 3}, GroupKind::kBase, true);
    frozen_ = add("frozen", {4}, GroupKind::kBase, false);
    third_ = add("third", {5}, GroupKind::kBase, true);
    adapter_ = add("adapter", {2, kBlock}, GroupKind::kShared, true);
    store_.allocate(kBlock, at::kCPU, /*bucket_elems=*/2 * kBlock);
    for (const FlatGroup& group : store_.groups()) {
      ASSERT_EQ(group.layout.buckets().size(), 2U);
      syncs_.emplace_back(*comm_, group.layout, dist::host_flat_memory(), dist::GradSyncOptions{});
    }
    start(1);
  }
  void start(std::int64_t passes) {
    for (dist::GradSync& sync : syncs_) sync.start(passes);
  }
  // By trainable index: those that autograd returned.
  std::vector<at::Tensor> returned(const std::map<int, at::Tensor>& gradients) const {
    std::vector<at::Tensor> all(store_.trainable_tensors().size());
    for (const auto& [id, gradient] : gradients)
      all[static_cast<std::size_t>(store_.info(id).trainable_index)] = gradient;
    return all;
  }
  // The sum of the step's passes for one parameter.
  at::Tensor sum_of(int id) {
    const ParameterInfo& info = store_.info(id);
    dist::GradSync& sync = syncs_[static_cast<std::size_t>(info.group_index)];
    const auto& tensor = sync.layout().tensors()[static_cast<std::size_t>(info.layout_index)];
    const std::span<const float> bucket = sync.finish()[static_cast<std::size_t>(tensor.bucket)];
    const std::int64_t begin = sync.layout().buckets()[static_cast<std::size_t>(tensor.bucket)].range.begin;
    return at::from_blob(const_cast<float*>(bucket.data()) + tensor.offset - begin, info.shape, at::kFloat).clone();
  }
  at::Tensor filled(int id, float value) const { return at::full(store_.info(id).shape, value); }

  std::unique_ptr<dist::Communicator> comm_ = dist::make_single_comm();
  ParameterStore store_;
  std::vector<dist::GradSync> syncs_;
  std::vector<bool> produced_;
  int first_ = 0, norm_ = 0, second_ = 0, frozen_ = 0, third_ = 0, adapter_ = 0;
};

TEST_F(PassGradientsTest, APlaceIsGivenAwayOnceAndNoneForAFrozenParameter) {
  PassGradients gradients(store_, syncs_, {true, true});
  EXPECT_FALSE(gradients.opened(third_).defined());
  const at::Tensor third = gradients.open(third_), second = gradients.open(second_);
  ASSERT_EQ(third.sizes(), at::IntArrayRef({5}));
  EXPECT_EQ(third.data_ptr<float>(), second.data_ptr<float>() + kBlock);  // neighbours in one leaf
  EXPECT_FALSE(gradients.open(third_).defined());
  EXPECT_EQ(gradients.opened(third_).const_data_ptr(), third.const_data_ptr());
  EXPECT_FALSE(gradients.open(frozen_).defined());
}

TEST_F(PassGradientsTest, GradientsFromAutogradAreTakenWhenThePassIsOver) {
  PassGradients gradients(store_, syncs_, {true, true});
  const at::Tensor in_place = gradients.open(second_);
  in_place.fill_(3.0F);
  gradients.finish(returned({{second_, in_place}, {first_, filled(first_, 2.0F)}, {norm_, filled(norm_, 5.0F)}}),
                   produced_);
  EXPECT_EQ(produced_, (std::vector<bool>{true, true, true, false, false}));
  EXPECT_TRUE(at::equal(sum_of(second_), filled(second_, 3.0F)));
  EXPECT_TRUE(at::equal(sum_of(first_), filled(first_, 2.0F)));
  EXPECT_TRUE(at::equal(sum_of(norm_), filled(norm_, 5.0F)));
}

// Whatever stood in its place: in the first pass nothing, in the second the last step's gradient.
TEST_F(PassGradientsTest, AParameterWithoutAGradientCommitsZeros) {
  for (int step = 0; step < 2; ++step) {
    start(1);
    PassGradients gradients(store_, syncs_, {true, true});
    gradients.open(third_).fill_(9.0F);  // and then not used after all
    gradients.finish(returned({{second_, filled(second_, 3.0F)}}), produced_);
    for (const int id : {first_, third_, norm_, adapter_}) EXPECT_TRUE(at::equal(sum_of(id), filled(id, 0.0F))) << id;
    start(1);
    PassGradients all(store_, syncs_, {true, true});
    std::map<int, at::Tensor> ones;
    for (const int id : {first_, second_, third_, norm_, adapter_}) ones[id] = filled(id, 1.0F);
    all.finish(returned(ones), produced_);
    EXPECT_TRUE(at::equal(sum_of(adapter_), filled(adapter_, 1.0F)));
  }
}

// In backward, with the last gradient of the bucket: not before, and not at the end of the pass only.
TEST_F(PassGradientsTest, ABucketIsCommittedWithItsLastWrittenGradient) {
  std::vector<int> seen;
  PassGradients gradients(store_, syncs_, {true, true}, [&](int id, const at::Tensor& gradient) {
    seen.push_back(id);
    EXPECT_EQ(gradient.sizes(), store_.tensor(id).sizes());
  });
  gradients.open(third_).fill_(1.0F);
  gradients.open(second_).fill_(2.0F);
  gradients.written(third_);
  EXPECT_TRUE(seen.empty());
  gradients.written(second_);
  EXPECT_EQ(seen, (std::vector<int>{second_, third_}));
  EXPECT_FALSE(gradients.opened(second_).defined()) << "its place is no longer the pass's";
  EXPECT_THROW((void)syncs_[0].leaf(1), Error) << "committed";
  EXPECT_THROW(gradients.written(second_), Error);
  EXPECT_THROW(gradients.written(first_), Error) << "no place was asked for";
  gradients.finish(returned({{norm_, filled(norm_, 5.0F)}}), produced_);
  EXPECT_EQ(seen, (std::vector<int>{second_, third_, first_, norm_, adapter_}));
  EXPECT_EQ(produced_, (std::vector<bool>{false, true, true, true, false}));
  EXPECT_TRUE(at::equal(sum_of(third_), filled(third_, 1.0F)));
  EXPECT_TRUE(at::equal(sum_of(second_), filled(second_, 2.0F)));
}

TEST_F(PassGradientsTest, TheSumOfTwoGradientsReachesThePlaceThatOneOfThemStandsIn) {
  PassGradients gradients(store_, syncs_, {true, true});
  const at::Tensor second = gradients.open(second_);
  second.fill_(3.0F);
  gradients.finish(returned({{second_, second + 1.0F}}), produced_);
  EXPECT_TRUE(at::equal(sum_of(second_), filled(second_, 4.0F)));
}

TEST_F(PassGradientsTest, AGradientThatWasCompleteDoesNotComeBackFromElsewhere) {
  PassGradients gradients(store_, syncs_, {true, true});
  const at::Tensor first = gradients.open(first_);
  first.fill_(3.0F);
  gradients.written(first_);
  EXPECT_THROW(gradients.finish(returned({{first_, first + 1.0F}}), produced_), Error);
  EXPECT_NO_THROW(gradients.finish(returned({{first_, first}}), produced_));
}

TEST_F(PassGradientsTest, PassesAddUpWhoeverCommitsTheirBuckets) {
  start(3);
  for (int pass = 0; pass < 3; ++pass) {
    PassGradients gradients(store_, syncs_, {true, true});
    std::map<int, at::Tensor> rest;
    for (const int id : {first_, second_, third_, norm_, adapter_}) {
      const auto value = static_cast<float>(10 * pass + id);
      if ((id + pass) % 2 == 0) {
        gradients.open(id).fill_(value);
        gradients.written(id);
      } else {
        rest[id] = filled(id, value);
      }
    }
    gradients.finish(returned(rest), produced_);
  }
  for (const int id : {first_, second_, third_, norm_, adapter_})
    EXPECT_TRUE(at::equal(sum_of(id), filled(id, static_cast<float>(30 + 3 * id)))) << id;
}

TEST_F(PassGradientsTest, NoPassHasAGradientBufferBeforeItsFirstGradient) {
  class Counting final : public dist::FlatMemory {
   public:
    std::shared_ptr<float> allocate(std::int64_t elems) override { return ++allocations, host_->allocate(elems); }
    void zero(std::span<float> values) override { host_->zero(values); }
    void add(std::span<float> a, std::span<const float> b) override { host_->add(a, b); }
    void copy(std::span<float> a, std::span<const float> b) override { host_->copy(a, b); }
    int allocations = 0;

   private:
    std::shared_ptr<dist::FlatMemory> host_ = dist::host_flat_memory();
  };
  const auto memory = std::make_shared<Counting>();
  syncs_.clear();
  for (const FlatGroup& group : store_.groups())
    syncs_.emplace_back(*comm_, group.layout, memory, dist::GradSyncOptions{});
  start(1);
  PassGradients gradients(store_, syncs_, {true, true});
  EXPECT_EQ(memory->allocations, 0);
  (void)gradients.open(third_);
  EXPECT_EQ(memory->allocations, 1);  // its bucket's
  (void)gradients.open(second_);
  EXPECT_EQ(memory->allocations, 1);
}

}  // namespace
}  // namespace qat
