#include "machine/board/results.h"

#include <cstdio>

namespace perdure::board {

std::string Finding::to_string() const {
  static constexpr const char* kNames[] = {"lost", "corrupted", "duplicated", "misdirected"};
  char text[200];
  std::snprintf(text, sizeof(text),
                "%s: device %s ring %u slot %u sequence %llu at IOVA 0x%llx: expected at 0x%llx, found at 0x%llx",
                kNames[static_cast<usize>(kind)], bdf.to_string().c_str(), unsigned{ring}, slot,
                static_cast<unsigned long long>(sequence), static_cast<unsigned long long>(iova),
                static_cast<unsigned long long>(expected_phys), static_cast<unsigned long long>(found_phys));
  return text;
}

}  // namespace perdure::board
