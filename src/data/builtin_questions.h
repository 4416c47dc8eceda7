// Made-up questions on made-up texts, so that a model that answers questions can be trained without any file:
//
//   "The colour is green. The month is May. The metal is zinc. The animal is a cat."
//   What is the month?   "May"          What is the tool?   (no answer)
//
// A text says four of eight things, in any order; of its four questions one in four, on average, asks for something
// that it does not say. The two splits have texts and questions of their own, which are the same on every machine.
#pragma once

#include "src/data/squad_file.h"
#include "src/data/token_source.h"

namespace qat {

SquadData builtin_questions(Split split);

}  // namespace qat
