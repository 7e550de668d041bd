#include "machine/board/record.h"

#include <algorithm>
#include <bit>

namespace perdure::board {

void Record::seal() {
  filler = mix64(sequence ^ (u64{slot} << 40) ^ (u64{ring} << 32) ^ device);
  checksum = record_checksum(std::span<const u64>(words()).first(7));
}

bool Record::valid() const {
  return magic == kRecordMagic && checksum == record_checksum(std::span<const u64>(words()).first(7));
}

std::array<u64, 8> Record::words() const {
  return std::bit_cast<std::array<u64, 8>>(*this);
}

Record Record::from(std::span<const u64, 8> words) {
  std::array<u64, 8> copy;
  std::copy(words.begin(), words.end(), copy.begin());
  return std::bit_cast<Record>(copy);
}

}  // namespace perdure::board
