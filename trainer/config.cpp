#include "trainer/config.hpp"

#include "kernels/check.hpp"

namespace pipemark {

int ModelConfig::vocabulary_padded() const {
  constexpr int kMultiple = 128;  // GPU matrix tiles; a byte-level vocabulary needs none
  return vocabulary > 1024 ? (vocabulary + kMultiple - 1) / kMultiple * kMultiple : vocabulary;
}

}  // namespace pipemark
