// Which text of a corpus is held out, decided from the sizes of its documents and their order alone.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace qat {

enum class HeldOut : std::uint8_t {
  kNothing,
  kTail,   // the last `fraction` of the document
  kWhole,  // all of it
};

// One entry a document; `fraction` is in [0, 1).
//
// Documents are whole where there are many of them: text that continues a training document says little about text
// that the model has never seen. A document is short if it is no longer than what is to be held out of all short
// documents together (and, for fractions over a half, than what is to be trained on): the largest set of the smallest
// documents for which that holds. At a fraction of 0.1, ten equal documents are short, two are not, and a thousand
// notes beside one encyclopedia are.
//
//   Short documents are held out whole. In the order given, a document is taken as soon as the bytes held out so far
//   and u of its own come to `fraction` of the bytes of the short documents up to it. u is drawn for each from [1/4,
//   3/4), by place in the corpus, so that no period in the order (every tenth file an index) decides. The whole is off
//   the wanted share by less than 3/4 of the longest short document; at least one is taken and one is left. Longer
//   documents give their tails. Empty ones give nothing.
//
// The same on every machine: nothing but the order, the sizes and IEEE arithmetic counts.
std::vector<HeldOut> choose_held_out(std::span<const std::int64_t> bytes, double fraction);

}  // namespace qat
