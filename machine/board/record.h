// What a streamer writes: 64 bytes that say where they belong, so that any of them can be judged wherever it is found.
// docs/devices.md states the same for programs.
#pragma once
#include <array>
#include <span>

#include "core/base/types.h"

namespace perdure::board {

inline constexpr u64 kRecordMagic = 0x4452'4345'5255'4450;  // "PDURECRD", never a pointer or a table entry of ours
inline constexpr u64 kRecordBytes = 64;

// Who made it.
enum class RecordKind : u8 { Device = 1, Program = 2 };

struct Record {
  u64 magic = kRecordMagic;
  u16 device = 0;  // Device::number()
  u8 ring = 0;
  u8 kind = static_cast<u8>(RecordKind::Device);
  u32 slot = 0;
  u64 sequence = 0;  // counts a ring's records from 1
  u64 time_ns = 0;
  u64 iova = 0;
  u32 generation = 0;  // counts the ring's configurations
  u32 padding = 0;
  u64 filler = 0;    // mix of slot and sequence, so that every word changes with every record
  u64 checksum = 0;  // record_checksum() of the seven words before

  void seal();
  bool valid() const;
  std::array<u64, 8> words() const;
  static Record from(std::span<const u64, 8> words);
};
static_assert(sizeof(Record) == kRecordBytes);

// splitmix64's finaliser.
constexpr u64 mix64(u64 x) {
  x += 0x9E37'79B9'7F4A'7C15;
  x = (x ^ (x >> 30)) * 0xBF58'476D'1CE4'E5B9;
  x = (x ^ (x >> 27)) * 0x94D0'49BB'1331'11EB;
  return x ^ (x >> 31);
}
// h = 0; for each word w: h = mix64(h ^ w).
constexpr u64 record_checksum(std::span<const u64> words) {
  u64 h = 0;
  for (u64 w : words) h = mix64(h ^ w);
  return h;
}

}  // namespace perdure::board
