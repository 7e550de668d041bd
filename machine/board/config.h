// What a board is built of. Everything has a default that makes a small PC with one IOMMU unit.
#pragma once
#include <string>
#include <vector>

#include "core/base/types.h"
#include "machine/board/bdf.h"
#include "machine/board/iommu/config.h"

namespace perdure::board {

#if defined(__SANITIZE_THREAD__)
inline constexpr bool kThreadSanitizer = true;
#elif defined(__has_feature)
inline constexpr bool kThreadSanitizer = __has_feature(thread_sanitizer);
#else
inline constexpr bool kThreadSanitizer = false;
#endif

// log2 of the bytes of physical address space. ThreadSanitizer's own layout leaves no room for more than 512 GiB in
// one piece; callgrind wants it at 35.
inline constexpr unsigned kDefaultWindowLog2 = kThreadSanitizer ? 39 : 42;

enum class DeviceKind : u8 {
  Edu,       // QEMU's teaching device, register-compatible
  Streamer,  // endless self-describing DMA, docs/devices.md
  Bridge,    // PCI Express root port (type 1 header)
};

struct EduConfig {
  u64 dma_mask = 0x0FFF'FFFF;     // 28 bits, as QEMU's default
  u64 transfer_ns = 100'000'000;  // from the command to the moment when the data moves
};

struct StreamerConfig {
  unsigned rings = 4;     // 1..16
  unsigned vectors = 16;  // MSI-X, 1..64
};

struct BridgeConfig {
  u8 secondary = 1;  // bus numbers as firmware set them
  u8 subordinate = 1;
};

struct DeviceConfig {
  DeviceKind kind = DeviceKind::Streamer;
  Bdf bdf;
  std::string name;  // in reports; empty: kind and BDF
  // Endpoints below a port: functions of one ARI device, up to 256, by their low byte of the BDF. Those from 8 on
  // answer while the port forwards ARI.
  bool ari = false;
  EduConfig edu;
  StreamerConfig streamer;
  BridgeConfig bridge;
};

struct UnitConfig {
  IommuModelConfig model;
  bool include_all = true;     // INCLUDE_PCI_ALL: everything no other unit names; at most one unit, the last
  std::vector<Bdf> endpoints;  // explicit scopes: functions
  std::vector<Bdf> bridges;    // explicit scopes: everything below
};

struct BoardConfig {
  unsigned window_log2 = kDefaultWindowLog2;
  u64 ram_bytes = u64{256} << 20;  // multiple of 2 MiB; 4 MiB at least
  std::vector<UnitConfig> units{UnitConfig{}};
  std::vector<DeviceConfig> devices;
  // Firmware gives addresses to BARs and turns memory decoding on; bus mastering stays off (but on in bridges).
  bool firmware_assigns_bars = true;

  // Interrupts that come while there is no kernel stay pending in the processors; false: they are lost, which no kernel
  // can make up for.
  bool keep_interrupts = true;

  // Stepped mode. Every step advances the clock by 1..2*step_ns - 1 and some devices, by seed.
  u64 seed = 1;
  u64 step_ns = 1000;
  // Threads mode.
  unsigned threads = 2;  // that serve the devices; at most one a device is started

  // Config-space writes kept in the trace, the newest.
  usize trace_limit = 65536;
};

}  // namespace perdure::board
