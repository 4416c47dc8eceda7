// Gradients on their way into the flat buffer.
#include "src/model/parameter_store.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "dist/grad/norm_block.h"

namespace qat {
namespace {

struct Store {
  Store() {
    first = store.add("first", {2, 3}, ParameterGroup::kBase, /*trainable=*/true, /*decay=*/true);
    frozen = store.add("frozen", {4}, ParameterGroup::kBase, /*trainable=*/false, /*decay=*/false);
    second = store.add("second", {5}, ParameterGroup::kShared, /*trainable=*/true, /*decay=*/false);
    store.allocate(/*pad_to=*/3 * kNormBlock);
    flat.assign(store.trainable_flat().size(), -1.0F);
  }
  std::vector<float> values(std::int64_t begin, std::int64_t elems) const {
    return {flat.begin() + begin, flat.begin() + begin + elems};
  }
  ParameterStore store;
  int first = 0, frozen = 0, second = 0;
  std::vector<float> flat;  // a gradient buffer with something old in it
};

TEST(ParameterStore, EveryTrainableParameterBeginsAtANormBlock) {
  Store s;
  EXPECT_EQ(s.store.info(s.first).offset, 0);
  EXPECT_EQ(s.store.info(s.second).offset, kNormBlock);
  EXPECT_EQ(s.store.trainable_elems(), 11);
  EXPECT_EQ(s.store.trainable_flat().size(), 3U * kNormBlock);
}

TEST(GradientPlaces, AreTheParametersPlacesAndGivenAwayOnce) {
  Store s;
  GradientPlaces places(s.store, s.flat);
  at::Tensor second = places.open(s.second);
  ASSERT_EQ(second.sizes(), at::IntArrayRef({5}));
  second.fill_(7.0F);
  EXPECT_EQ(s.values(kNormBlock, 5), std::vector<float>(5, 7.0F));
  EXPECT_EQ(s.flat[kNormBlock - 1], -1.0F);
  EXPECT_EQ(s.flat[kNormBlock + 5], -1.0F);
  EXPECT_FALSE(places.open(s.second).defined());
  EXPECT_FALSE(places.open(s.frozen).defined());
  EXPECT_EQ(places.open(s.first).sizes(), at::IntArrayRef({2, 3}));
}

TEST(ScatterGradients, KeepsWhatStandsInItsPlaceCopiesTheRestAndZeroesWhatIsMissing) {
  Store s;
  GradientPlaces places(s.store, s.flat);
  at::Tensor first = places.open(s.first);
  first.copy_(at::arange(6, at::kFloat).view({2, 3}));
  std::vector<bool> produced;
  s.store.scatter_gradients({first, at::full({5}, 2.0F)}, s.flat, produced);
  EXPECT_EQ(s.values(0, 7), (std::vector<float>{0, 1, 2, 3, 4, 5, -1}));  // what is no parameter's is left alone
  EXPECT_EQ(s.values(kNormBlock, 6), (std::vector<float>{2, 2, 2, 2, 2, -1}));
  EXPECT_EQ(produced, (std::vector<bool>{true, true}));

  produced.clear();
  s.store.scatter_gradients({first, at::Tensor()}, s.flat, produced);
  EXPECT_EQ(s.values(0, 6), (std::vector<float>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(s.values(kNormBlock, 6), (std::vector<float>{0, 0, 0, 0, 0, -1}));
  EXPECT_EQ(produced, (std::vector<bool>{true, false}));
}

TEST(ScatterGradients, TheSumOfTwoGradientsReachesThePlaceThatOneOfThemStandsIn) {
  Store s;
  GradientPlaces places(s.store, s.flat);
  at::Tensor first = places.open(s.first);
  first.fill_(3.0F);
  std::vector<bool> produced;
  s.store.scatter_gradients({first + at::ones({2, 3}), at::zeros({5})}, s.flat, produced);
  EXPECT_EQ(s.values(0, 6), std::vector<float>(6, 4.0F));
}

}  // namespace
}  // namespace qat
