// Pieces of weights that travel as codes: what comes out of them encodes as the weights do.
#include "kernels/quant/row_pieces.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/quant/encode.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

struct Shape {
  std::int64_t rows, cols;
};

struct Encoded {
  std::vector<std::int8_t> codes;
  std::vector<float> scales;
};
Encoded encoded(std::vector<float>& x, const Shape& shape, int bits) {
  Encoded out{std::vector<std::int8_t>(x.size()), std::vector<float>(static_cast<std::size_t>(shape.rows))};
  encode_rows({}, ConstFloatMatrix(Matrix<const float>{x.data(), shape.rows, shape.cols}), {.width = BitWidth(bits)},
              {{out.codes.data(), shape.rows, shape.cols}, {}}, out.scales);
  return out;
}

// What each of two ranks has of a matrix of which the first owns `cut` elements, after both have exchanged codes.
std::vector<std::vector<float>> exchanged(const std::vector<float>& x, const Shape& shape, int bits, std::int64_t cut) {
  const auto elems = static_cast<std::int64_t>(x.size());
  const CodeBytes bytes = bits <= 4 ? CodeBytes::kHalf : CodeBytes::kOne;
  std::vector<std::vector<float>> values = {x, x};
  const auto piece = [&](int of, std::int64_t begin, std::int64_t end) {
    return RowPiece{.values = values[static_cast<std::size_t>(of)].data() + begin,
                    .first = begin,
                    .elems = end - begin,
                    .cols = shape.cols,
                    .code = begin,
                    .bits = bits};
  };
  const std::vector<RowPiece> own = {piece(0, 0, cut), piece(1, cut, elems)};
  std::vector<float> amax(static_cast<std::size_t>(shape.rows)), mine(amax.size());
  for (const RowPiece& part : own) {
    row_piece_amax({}, {&part, 1}, mine);
    for (std::size_t r = 0; r < amax.size(); ++r)
      amax[r] = std::isnan(mine[r]) || mine[r] > amax[r] ? mine[r] : amax[r];
  }
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(bytes_of_codes(elems, bytes)));
  for (const RowPiece& part : own) encode_row_pieces({}, {&part, 1}, amax, bytes, codes);
  const std::vector<RowPiece> others = {piece(0, cut, elems), piece(1, 0, cut)};
  for (const RowPiece& part : others) decode_row_pieces({}, {&part, 1}, amax, bytes, codes);
  return values;
}

TEST(RowPieces, WhatIsDecodedEncodesToTheSameCodesAndScales) {
  for (const Shape shape : {Shape{1, 1}, Shape{3, 5}, Shape{7, 64}, Shape{40, 129}})
    for (int bits = 2; bits <= 8; ++bits)
      for (const std::int64_t twelfths : {0, 4, 6, 12}) {
        SCOPED_TRACE(std::to_string(bits) + " bits, " + std::to_string(shape.rows) + " x " +
                     std::to_string(shape.cols) + ", " + std::to_string(twelfths) + " / 12");
        std::vector<float> x = test::random_grid(shape.rows, shape.cols, 7).values;
        if (shape.rows > 2)  // a row of zeros, one below the floor
          for (std::int64_t c = 0; c < shape.cols; ++c) {
            x[static_cast<std::size_t>(shape.cols + c)] = 0.0F;
            x[static_cast<std::size_t>(2 * shape.cols + c)] *= 1e-6F;
          }
        const std::int64_t cut = shape.rows * shape.cols * twelfths / 24 * 2;
        std::vector<std::vector<float>> ranks = exchanged(x, shape, bits, cut);
        const Encoded want = encoded(x, shape, bits);
        for (std::vector<float>& values : ranks) {
          const Encoded got = encoded(values, shape, bits);
          EXPECT_EQ(got.codes, want.codes);
          EXPECT_EQ(got.scales, want.scales);
        }
        // Own elements stay, others are at most half a step away.
        for (std::int64_t i = 0; i < shape.rows * shape.cols; ++i) {
          const auto at = static_cast<std::size_t>(i);
          EXPECT_EQ(ranks[i < cut ? 0 : 1][at], x[at]);
          const float scale = want.scales[static_cast<std::size_t>(i / shape.cols)];
          EXPECT_LE(std::fabs(ranks[i < cut ? 1 : 0][at] - x[at]), 0.5001F * scale);
        }
      }
}

TEST(RowPieces, ARowThatIsNotFiniteIsNotANumberForOthers) {
  const Shape shape{4, 8};
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> x(32, 0.5F);
    x[9] = bad;
    const std::vector<std::vector<float>> ranks = exchanged(x, shape, 8, /*cut=*/12);
    for (int c = 0; c < 8; ++c) {
      EXPECT_EQ(ranks[1][static_cast<std::size_t>(c)], 0.5F);
      EXPECT_EQ(std::isnan(ranks[1][static_cast<std::size_t>(8 + c)]),
                c < 4 || std::isnan(x[static_cast<std::size_t>(8 + c)]));
    }
    EXPECT_TRUE(std::isnan(ranks[0][12]));
    EXPECT_EQ(ranks[0][16], 0.5F);
  }
}

TEST(RowPieces, TheLargestCodeStandsForTheLargestMagnitude) {
  for (int bits = 3; bits <= 8; ++bits) {
    const auto q_max = static_cast<float>(BitWidth(bits).q_max());
    float largest = 1.0F;  // the first of those that q_max times the scale is not
    while (q_max * (largest / q_max) == largest) largest = std::nextafter(largest, 2.0F);
    const std::vector<std::vector<float>> ranks = exchanged({0.25F, -largest, 0.5F, largest}, {1, 4}, bits, /*cut=*/2);
    EXPECT_EQ(ranks[1][1], -largest) << bits << " bits";
    EXPECT_EQ(ranks[0][3], largest) << bits << " bits";
  }
}

TEST(RowPieces, HalfABytePacksTwo) {
  std::vector<float> x = {7.0F, -7.0F, 0.0F, -1.0F, 3.0F};
  std::vector<float> amax(1);
  std::vector<std::uint8_t> codes(4, 0xAB);
  const RowPiece piece{.values = x.data(), .elems = 5, .cols = 5, .code = 2, .bits = 4};
  row_piece_amax({}, {&piece, 1}, amax);
  encode_row_pieces({}, {&piece, 1}, amax, CodeBytes::kHalf, codes);
  EXPECT_EQ(codes, (std::vector<std::uint8_t>{0xAB, 0x97, 0xF0, 0x03}));
}

TEST(RowPieces, RefusesWhatDoesNotFit) {
  std::vector<float> x(8), amax(2);
  std::vector<std::uint8_t> codes(8);
  RowPiece piece{.values = x.data(), .elems = 8, .cols = 4, .bits = 8};
  EXPECT_THROW(row_piece_amax({}, {&piece, 1}, std::span(amax).first(1)), Error);
  EXPECT_THROW(encode_row_pieces({}, {&piece, 1}, amax, CodeBytes::kHalf, codes), Error);
  EXPECT_THROW(encode_row_pieces({}, {&piece, 1}, amax, CodeBytes::kOne, std::span(codes).first(7)), Error);
  piece.bits = 4, piece.code = 1;
  EXPECT_THROW(decode_row_pieces({}, {&piece, 1}, amax, CodeBytes::kHalf, codes), Error);
}

}  // namespace
}  // namespace qat::kernels
