// How parameters lie in their groups' buffers.
#include "src/model/parameter_store.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "dist/grad/norm_block.h"
#include "kernels/common/error.h"

namespace qat {
namespace {

struct Store {
  explicit Store(std::int64_t bucket_elems = dist::kBucketElems) {
    table = store.add("table", {7, 3}, GroupKind::kTied, /*trainable=*/true, /*decay=*/true);
    first = store.add("first", {2, 3}, GroupKind::kBase, /*trainable=*/true, /*decay=*/true);
    frozen = store.add("frozen", {4}, GroupKind::kBase, /*trainable=*/false, /*decay=*/false);
    adapter = store.add("adapter", {5}, GroupKind::kShared, /*trainable=*/true, /*decay=*/false);
    second = store.add("second", {50, 100}, GroupKind::kBase, /*trainable=*/true, /*decay=*/true);
    store.allocate(/*pad_to=*/3 * kNormBlock, at::kCPU, bucket_elems);
  }
  const FlatGroup& group_of(int id) const {
    return store.groups().at(static_cast<std::size_t>(store.info(id).group_index));
  }
  const dist::FlatLayout::Tensor& place(int id) const {
    return group_of(id).layout.tensors().at(static_cast<std::size_t>(store.info(id).layout_index));
  }
  ParameterStore store;
  int table = 0, first = 0, frozen = 0, adapter = 0, second = 0;
};

TEST(ParameterStore, EachGroupHasAFlatBufferOfItsTrainableParameters) {
  Store s;
  ASSERT_EQ(s.store.groups().size(), 3U);
  EXPECT_EQ(s.group_of(s.table).ids, std::vector<int>{s.table});
  EXPECT_EQ(s.group_of(s.first).ids, (std::vector<int>{s.first, s.second}));
  EXPECT_EQ(s.group_of(s.adapter).ids, std::vector<int>{s.adapter});
  EXPECT_EQ(s.group_of(s.first).key, GroupKey(GroupKind::kBase));
  EXPECT_EQ(s.place(s.first).offset, 0);
  EXPECT_EQ(s.place(s.second).offset, kNormBlock);
  EXPECT_EQ(s.group_of(s.first).layout.elems(), 3 * kNormBlock);
  EXPECT_EQ(s.store.info(s.frozen).group_index, -1);
  EXPECT_EQ(s.store.trainable_elems(), 21 + 6 + 5 + 5000);
  EXPECT_EQ(s.store.frozen_elems(), 4);
  EXPECT_EQ(s.store.info(s.second).trainable_index, 3);
  EXPECT_EQ(s.store.trainable_tensors()[3].const_data_ptr(), s.store.tensor(s.second).const_data_ptr());
}

TEST(ParameterStore, TensorsAreViewsOfTheirGroupsValuesWithZerosBetween) {
  Store s;
  s.store.set_values(s.first, std::vector<float>{1, 2, 3, 4, 5, 6});
  s.store.set_values(s.second, std::vector<float>(5000, 7.0F));
  const at::Tensor expected = at::zeros({3 * kNormBlock});
  expected.narrow(0, 0, 6).copy_(at::arange(1, 7, at::kFloat));
  expected.narrow(0, kNormBlock, 5000).fill_(7.0);
  EXPECT_TRUE(at::equal(s.group_of(s.first).values, expected));
  EXPECT_EQ(s.store.host_values(s.first), (std::vector<float>{1, 2, 3, 4, 5, 6}));
}

TEST(ParameterStore, VectorsComeAfterMatricesInBucketsThatAreNeverEncoded) {
  ParameterStore store;
  const int bias = store.add("bias", {5}, GroupKind::kBase, /*trainable=*/true, /*decay=*/false);
  const int matrix = store.add("matrix", {2, 3}, GroupKind::kBase, /*trainable=*/true, /*decay=*/true);
  store.allocate(/*pad_to=*/kNormBlock);
  const FlatGroup& group = store.groups().front();
  EXPECT_EQ(group.ids, (std::vector<int>{matrix, bias}));
  ASSERT_EQ(group.layout.buckets().size(), 2U);
  EXPECT_FALSE(group.layout.buckets()[0].exact);
  EXPECT_TRUE(group.layout.buckets()[1].exact);
  store.set_values(bias, std::vector<float>{1, 2, 3, 4, 5});
  EXPECT_EQ(group.values.narrow(0, kNormBlock, 5).sum().item<float>(), 15.0F);
  EXPECT_EQ(store.host_values(matrix), std::vector<float>(6));
  EXPECT_EQ(store.trainable_tensors()[0].const_data_ptr(), store.tensor(bias).const_data_ptr())
      << "in order of declaration";
}

TEST(ParameterStore, BucketsAreOfWholeParameters) {
  const Store s(/*bucket_elems=*/4);
  EXPECT_EQ(s.group_of(s.first).layout.buckets().size(), 2U);
  EXPECT_EQ(s.place(s.second).bucket, 1);
  EXPECT_EQ(s.place(s.second).offset, 3 * kNormBlock);  // every bucket is a multiple of pad_to
}

TEST(ParameterStore, TheChecksumSeesEveryBitOfEveryParameter) {
  Store s;
  std::int64_t before = s.store.checksum();
  for (const int id : {s.table, s.first, s.frozen, s.adapter, s.second}) {
    const at::NoGradGuard no_grad;
    *(s.store.tensor(id).view(at::kInt).data_ptr<std::int32_t>() + 3) ^= 1;
    EXPECT_NE(s.store.checksum(), before) << s.store.info(id).name;
    before = s.store.checksum();
  }
}

TEST(ParameterStore, ParametersAreDeclaredBeforeTheyAreAllocated) {
  Store s;
  EXPECT_THROW(s.store.add("late", {1}, GroupKind::kBase, true, true), Error);
}

}  // namespace
}  // namespace qat
