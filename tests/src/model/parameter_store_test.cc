// Gradients on their way into the flat buffer.
#include "src/model/parameter_store.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace qat {
namespace {

struct Store {
  Store() {
    first = store.add("first", {2, 3}, ParameterGroup::kBase, /*trainable=*/true, /*decay=*/true);
    frozen = store.add("frozen", {4}, ParameterGroup::kBase, /*trainable=*/false, /*decay=*/false);
    second = store.add("second", {5}, ParameterGroup::kShared, /*trainable=*/true, /*decay=*/false);
    store.allocate(/*pad_to=*/8);
    flat.assign(store.trainable_flat().size(), -1.0F);
  }
  ParameterStore store;
  int first = 0, frozen = 0, second = 0;
  std::vector<float> flat;  // a gradient buffer with something old in it
};

TEST(GradientPlaces, AreTheParametersPlacesAndGivenAwayOnce) {
  Store s;
  GradientPlaces places(s.store, s.flat);
  at::Tensor second = places.open(s.second);
  ASSERT_EQ(second.sizes(), at::IntArrayRef({5}));
  second.fill_(7.0F);
  EXPECT_EQ(std::vector<float>(s.flat.begin() + 6, s.flat.begin() + 11), std::vector<float>(5, 7.0F));
  EXPECT_EQ(s.flat[5], -1.0F);
  EXPECT_EQ(s.flat[11], -1.0F);
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
  EXPECT_EQ(s.flat, (std::vector<float>{0, 1, 2, 3, 4, 5, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0}));
  EXPECT_EQ(produced, (std::vector<bool>{true, true}));

  produced.clear();
  s.store.scatter_gradients({first, at::Tensor()}, s.flat, produced);
  EXPECT_EQ(s.flat, (std::vector<float>{0, 1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(produced, (std::vector<bool>{true, false}));
}

TEST(ScatterGradients, TheSumOfTwoGradientsReachesThePlaceThatOneOfThemStandsIn) {
  Store s;
  GradientPlaces places(s.store, s.flat);
  at::Tensor first = places.open(s.first);
  first.fill_(3.0F);
  std::vector<bool> produced;
  s.store.scatter_gradients({first + at::ones({2, 3}), at::zeros({5})}, s.flat, produced);
  EXPECT_EQ(std::vector<float>(s.flat.begin(), s.flat.begin() + 6), std::vector<float>(6, 4.0F));
}

}  // namespace
}  // namespace qat
