// A flat stream of little-endian integers with a tag in front and a checksum behind: how a machine's state is kept in
// a file.
#pragma once
#include <concepts>
#include <cstddef>
#include <span>
#include <type_traits>
#include <vector>

#include "core/base/types.h"

namespace perdure::board {

class SnapshotWriter {
 public:
  explicit SnapshotWriter(u32 tag) { put(tag); }

  template <class T>
    requires std::integral<T>
  void put(T value) {
    auto v = static_cast<u64>(value);
    for (usize i = 0; i < sizeof(T); ++i, v >>= 8) bytes_.push_back(static_cast<std::byte>(v & 0xFF));
  }
  std::vector<std::byte> finish() {
    u64 sum = checksum(bytes_);
    put(sum);
    return std::move(bytes_);
  }
  // FNV-1a.
  static u64 checksum(std::span<const std::byte> bytes) {
    u64 sum = 0xCBF2'9CE4'8422'2325;
    for (std::byte b : bytes) sum = (sum ^ static_cast<u64>(b)) * 0x100'0000'01B3;
    return sum;
  }

 private:
  std::vector<std::byte> bytes_;
};

// Reads 0 once something is wrong; ask complete() at the end and use nothing before.
class SnapshotReader {
 public:
  SnapshotReader(std::span<const std::byte> bytes, u32 tag) : bytes_(bytes) {
    if (bytes.size() < sizeof(u32) + sizeof(u64)) return;
    at_ = bytes.size() - sizeof(u64);
    good_ = true;
    const u64 sum = get_raw<u64>();
    at_ = 0;
    end_ = bytes.size() - sizeof(u64);
    good_ = sum == SnapshotWriter::checksum(bytes.first(end_)) && get_raw<u32>() == tag;
  }

  template <class T>
    requires std::integral<T>
  T get() {
    if (good_ && end_ - at_ < sizeof(T)) good_ = false;
    return good_ ? get_raw<T>() : T{};
  }
  bool good() const { return good_; }
  bool complete() const { return good_ && at_ == end_; }

 private:
  template <class T>
  T get_raw() {
    u64 v = 0;
    for (usize i = 0; i < sizeof(T); ++i) v |= static_cast<u64>(bytes_[at_ + i]) << (8 * i);
    at_ += sizeof(T);
    return static_cast<T>(v);
  }

  std::span<const std::byte> bytes_;
  usize at_ = 0;
  usize end_ = 0;
  bool good_ = false;
};

}  // namespace perdure::board
