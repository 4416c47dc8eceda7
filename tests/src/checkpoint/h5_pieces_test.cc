// Datasets in blocks, in parts, and put together of other files: as HDF5 sees them.
#include <cmath>
#include <limits>
#include <numeric>

#include "src/checkpoint/h5_space.h"
#include "tests/src/checkpoint/checkpoint_fixture.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::checkpoint_error;
using testing::content;
using ::testing::Each;
using ::testing::ElementsAre;
using testing::flip_bit;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class H5Pieces : public testing::ScratchFolder {
 protected:
  static std::vector<float> counted(std::int64_t elems, float first = 0.0F) {
    std::vector<float> values(static_cast<std::size_t>(elems));
    std::iota(values.begin(), values.end(), first);
    return values;
  }
  // Part `first` of a tensor of which element i is i, as a file of its own.
  VirtualPart write_part(std::int64_t first, std::int64_t elems) const {
    const std::string name = std::to_string(first) + ".h5";
    const std::vector<float> values = counted(elems, static_cast<float>(first));
    H5File out = H5File::create(root_ / name);
    out.write_dataset("/x", {elems}, view(values));
    out.close();
    return {name, "/x", first, elems};
  }
};

TEST(Slabs, AreTheElementsInOrderAndAtMostTheRowsAroundWholeRows) {
  for (const Shape& shape : {Shape{7}, Shape{4, 5}, Shape{1, 6}, Shape{6, 1}, Shape{3, 4, 5}, Shape{2, 1, 3, 2}}) {
    const std::int64_t whole = element_count(shape);
    for (std::int64_t first = 0; first < whole; ++first) {
      for (std::int64_t elems = 0; first + elems <= whole; ++elems) {
        const std::vector<Slab> slabs = slabs_of(shape, first, elems);
        EXPECT_LE(slabs.size(), 2 * shape.size() - 1);
        std::int64_t at = first;
        for (const Slab& slab : slabs) {
          const auto range = selected_range(h5_space(shape, slab, "f").get(), shape, "f");
          ASSERT_TRUE(range.has_value());
          EXPECT_EQ(range->first, at);
          EXPECT_EQ(range->elems, slab.elems);
          at += slab.elems;
        }
        EXPECT_EQ(at, first + elems);
      }
    }
  }
  EXPECT_THAT(slabs_of({1000, 768}, 0, 768'000), SizeIs(1));
}

TEST_F(H5Pieces, BlocksAreAskedForInOrderAndAreTheWholeTensor) {
  constexpr std::int64_t kElems = 2'500'001;  // three chunks, the last one shorter
  std::int64_t asked = 0, largest = 0;
  H5File out = H5File::create(root_ / "f.h5");
  out.write_blocks("/g/x", kElems, DType::kFloat32, [&](std::int64_t first, BufferView block) {
    EXPECT_EQ(first, asked);
    const std::vector<float> values = counted(block.elems, static_cast<float>(first));
    std::copy(values.begin(), values.end(), static_cast<float*>(block.data));
    asked += block.elems;
    largest = std::max(largest, static_cast<std::int64_t>(block.bytes()));
  });
  out.close();
  EXPECT_EQ(asked, kElems);
  EXPECT_LE(largest, 4 << 20);
  std::vector<float> found(kElems);
  H5File::open(root_ / "f.h5").read_dataset("/g/x", {kElems}, view(found));
  EXPECT_EQ(found, counted(kElems));
}

TEST_F(H5Pieces, WhatCannotBeGivenEndsTheFile) {
  {
    H5File out = H5File::create(root_ / "f.h5");
    EXPECT_THROW(out.write_blocks("/x", 10, DType::kFloat32,
                                  [](std::int64_t, BufferView) { throw Error(ErrorKind::kCheckpoint, "gone"); }),
                 Error);
    EXPECT_THROW(out.close(), Error);
  }
  EXPECT_THROW((void)H5File::open(root_ / "f.h5"), Error);
}

TEST_F(H5Pieces, AnyRangeOfElementsIsRead) {
  const Shape shape = {5, 3, 4};
  const std::vector<float> values = counted(60);
  H5File out = H5File::create(root_ / "f.h5");
  out.write_dataset("/x", shape, view(values));
  out.close();
  const H5File in = H5File::open(root_ / "f.h5");
  for (std::int64_t first = 0; first <= 60; ++first) {
    for (std::int64_t elems = 0; first + elems <= 60; ++elems) {
      std::vector<float> found(static_cast<std::size_t>(elems));
      in.read_elements("/x", shape, first, view(found));
      ASSERT_EQ(found, counted(elems, static_cast<float>(first))) << first << " " << elems;
    }
  }
  std::vector<float> more(2);
  EXPECT_THROW(in.read_elements("/x", shape, 59, view(more)), Error);
  EXPECT_THROW(in.read_elements("/x", shape, -1, view(more)), Error);
}

TEST_F(H5Pieces, AVirtualTensorIsTheFilesItIsMadeOfAndSaysSo) {
  const Shape shape = {7, 5};
  const std::vector<VirtualPart> parts = {write_part(0, 8), write_part(8, 1), write_part(9, 26)};
  H5File out = H5File::create(root_ / "all.h5");
  out.write_virtual("/model/w", shape, DType::kFloat32, parts);
  out.set_attribute("/model/w", "layout", std::string("[out, in]"));
  out.close();
  // Names in it are relative: the folder may be moved.
  fs::create_directories(root_ / "elsewhere");
  for (const char* name : {"0.h5", "8.h5", "9.h5", "all.h5"}) fs::rename(root_ / name, root_ / "elsewhere" / name);
  const H5File in = H5File::open(root_ / "elsewhere/all.h5");
  EXPECT_EQ(in.dataset_info("/model/w").shape, shape);
  EXPECT_THAT(in.list_datasets(), ElementsAre("/model/w"));
  std::vector<float> found(35);
  in.read_dataset("/model/w", shape, view(found));
  EXPECT_EQ(found, counted(35));
  std::int64_t at = 0;
  for (const VirtualPart& part : in.virtual_parts("/model/w")) {
    EXPECT_EQ(part.first, at);
    EXPECT_EQ(part.file, at < 8 ? "0.h5" : at < 9 ? "8.h5" : "9.h5");
    EXPECT_EQ(part.source_first, at - (at < 8 ? 0 : at < 9 ? 8 : 9));
    at += part.elems;
  }
  EXPECT_EQ(at, 35);
}

TEST_F(H5Pieces, ValuesOfAMissingFileAreNotMistakenForNumbers) {
  const std::vector<VirtualPart> parts = {write_part(0, 4), write_part(4, 4)};
  H5File out = H5File::create(root_ / "all.h5");
  out.write_virtual("/x", {8}, DType::kFloat32, parts);
  out.close();
  fs::remove(root_ / "4.h5");
  std::vector<float> found(8);
  H5File::open(root_ / "all.h5").read_dataset("/x", {8}, view(found));
  for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(std::isnan(found[i]), i >= 4) << i;
}

TEST_F(H5Pieces, AVirtualTensorWithAGapOrAnOverlapIsRefused) {
  const VirtualPart a = write_part(0, 4), b = write_part(4, 4);
  VirtualPart late = b, early = b;
  late.first = 5, late.elems = 3;
  early.first = 3;
  int number = 0;
  const auto refused = [&](const std::vector<VirtualPart>& parts) {
    const fs::path file = root_ / ("all" + std::to_string(number++) + ".h5");
    H5File out = H5File::create(file);
    out.write_virtual("/x", {8}, DType::kFloat32, parts);
    out.close();
    const H5File in = H5File::open(file);
    (void)checkpoint_error([&] { (void)in.dataset_info("/x"); });
    return checkpoint_error([&] { (void)in.virtual_parts("/x"); });
  };
  EXPECT_THAT(refused({a}), HasSubstr("element 4 is in no part"));
  EXPECT_THAT(refused({a, late}), HasSubstr("element 4 is in no part"));
  EXPECT_THAT(refused({a, early}), HasSubstr("element 3 is in no part of it, or in two"));
  EXPECT_THAT(refused({b}), HasSubstr("element 0 is in no part"));
}

TEST_F(H5Pieces, AFlippedBitInAPartIsFoundWhenThatPartIsRead) {
  H5File out = H5File::create(root_ / "f.h5");
  out.write_dataset("/x", {3'000'000}, content(counted(3'000'000)));
  out.close();
  flip_bit(root_ / "f.h5", fs::file_size(root_ / "f.h5") / 2, 3);
  const H5File in = H5File::open(root_ / "f.h5");
  std::vector<float> found(10);
  int failed = 0;
  for (std::int64_t first = 0; first < 3'000'000; first += 250'000) {
    try {
      in.read_elements("/x", {3'000'000}, first, view(found));
      EXPECT_EQ(found, counted(10, static_cast<float>(first)));
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("f.h5/x"));
      ++failed;
    }
  }
  EXPECT_EQ(failed, 4);  // one of three chunks
}

}  // namespace
}  // namespace qat
