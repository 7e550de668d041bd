#include "machine/board/results.h"

#include <cstdio>

namespace perdure::board {

std::string Finding::to_string() const {
  static constexpr const char* kNames[] = {"lost", "corrupted", "duplicated", "misdirected"};
  char text[200];
  const int used = std::snprintf(text, sizeof(text), "%s: device %s ring %u slot %u sequence %llu at IOVA 0x%llx",
                                 kNames[static_cast<usize>(kind)], bdf.to_string().c_str(), unsigned{ring}, slot,
                                 static_cast<unsigned long long>(sequence), static_cast<unsigned long long>(iova));
  // Who looks into the slot itself has one place to tell, or none.
  if (expected_phys != found_phys) {
    std::snprintf(text + used, sizeof(text) - static_cast<usize>(used), ": expected at 0x%llx, found at 0x%llx",
                  static_cast<unsigned long long>(expected_phys), static_cast<unsigned long long>(found_phys));
  }
  return text;
}

}  // namespace perdure::board
