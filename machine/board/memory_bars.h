// BARs that are plain memory, shared by the device and the programs that map them: no access of either is seen by the
// other but by its bytes. While a program has such a BAR mapped its bytes are pages of the file that stands for the
// device in the program; before, and after another file was given, they move.
#pragma once
#include <array>
#include <span>
#include <vector>

#include "core/base/result.h"
#include "core/base/types.h"

namespace perdure::board {

// With the device's lock held.
class MemoryBars {
 public:
  MemoryBars() = default;
  ~MemoryBars();
  MemoryBars(const MemoryBars&) = delete;
  MemoryBars& operator=(const MemoryBars&) = delete;

  // While the device is built.
  void add(unsigned bar, u64 bytes) { bars_[bar].bytes.resize(bytes); }
  bool has(unsigned bar) const { return !bars_[bar].bytes.empty(); }

  // Inside the BAR; programs' stores are seen at once, and ours by them. By file calls and not through a mapping: the
  // program may truncate its file at any time.
  u64 read(unsigned bar, u64 offset, unsigned width) const;
  void write(unsigned bar, u64 offset, unsigned width, u64 value);

  // The bytes move into this file, where the BAR is at `offset`; they stay where they are when that fails.
  Result<void> move(unsigned bar, int file, u64 offset);
  // Off: the file ends before the BAR, so that programs' accesses fault. The bytes are kept.
  void set_on(bool on);
  void clear();

  std::vector<std::byte> contents(unsigned bar) const;
  void set_contents(unsigned bar, std::span<const std::byte> bytes);

 private:
  struct Bar {
    std::vector<std::byte> bytes;  // what is in it, while there is no file or it is off
    int file = -1;
    u64 offset = 0;
  };
  bool in_file(const Bar& bar) const { return on_ && bar.file >= 0; }
  static Result<void> put_in_file(const Bar& bar, std::span<const std::byte> bytes);

  std::array<Bar, 6> bars_;
  bool on_ = false;
};

}  // namespace perdure::board
