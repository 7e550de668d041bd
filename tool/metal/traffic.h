// What the host has ready for the guest's devices: frames on the wire and blocks on the disk, each of which says what
// it must be, so that the guest's drivers can tell what came through and what did not (docs/metal.md).
#pragma once
#include <expected>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "core/base/types.h"
#include "machine/host/descriptor.h"

namespace perdure::tool::metal {

// Frame number `sequence` of a run.
std::vector<unsigned char> frame(u64 sequence, u32 seed);
// Word `index` (of 64) of a block of 512 bytes.
u64 disk_word(u64 block, unsigned index);

inline constexpr u64 kDiskBytes = u64{4} << 20;
std::expected<void, std::string> write_disk(const std::filesystem::path& to);

// Sends frames for as long as it lives, none left out: each behind its length, as QEMU's stream network wants them, at
// this pace, or at the guest's when that is slower.
class Feeder {
 public:
  Feeder(host::Descriptor wire, u32 seed, u32 frames_a_second);
  ~Feeder();
  Feeder(const Feeder&) = delete;
  Feeder& operator=(const Feeder&) = delete;

 private:
  void run(u32 seed, u32 frames_a_second);
  bool send_all(const std::vector<unsigned char>& bytes);

  host::Descriptor wire_;
  host::Descriptor stop_;
  std::thread thread_;
};

}  // namespace perdure::tool::metal
