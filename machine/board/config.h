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
  Bridge,    // type 1 header; BridgeConfig says of which kind
  Ohci,      // USB host controller, its heartbeat alone
  Ioat,      // Intel's copy engine, register-compatible
  Nvme,      // a disk: NVMe controller with one namespace in memory
  Vmd,       // volume management device: functions of a segment of its own, whose DMA carries its requester id
};

enum class BridgeKind : u8 {
  RootPort,
  UpstreamPort,    // of a PCI Express switch
  DownstreamPort,  // of a switch, on the bus below its upstream port
  PcieToPci,       // to a conventional bus: what is behind it masters as (secondary bus, 0)
  PciToPci,        // between conventional buses, or from the root complex: what is behind it masters as the bridge
};

struct EduConfig {
  u64 dma_mask = 0x0FFF'FFFF;     // 28 bits, as QEMU's default
  u64 transfer_ns = 100'000'000;  // from the command to the moment when the data moves
  bool operator==(const EduConfig&) const = default;
};

struct StreamerConfig {
  unsigned rings = 4;     // 1..16
  unsigned vectors = 16;  // MSI-X, 1..64
  u64 memory = 0;         // bytes of BAR 4, which is memory: power of two, 4 KiB to 16 MiB; 0: it has none
  bool operator==(const StreamerConfig&) const = default;
};

struct IoatConfig {
  unsigned transfer_log2 = 12;           // 12..31: the largest copy of one descriptor
  u64 bytes_per_second = 4'000'000'000;  // that it copies
  bool operator==(const IoatConfig&) const = default;
};

struct NvmeConfig {
  u64 disk_bytes = u64{64} << 20;  // multiple of 4 KiB
  unsigned queues = 8;             // pairs for I/O, 1..63; MSI-X vectors are one more
  u64 command_ns = 10'000;         // that the disk is busy with each command
  u64 contents = 0;                // of blocks that were never written: 0 zeros, else a pattern that follows from it
  bool operator==(const NvmeConfig&) const = default;
};

struct BridgeConfig {
  BridgeKind kind = BridgeKind::RootPort;
  u8 secondary = 1;  // bus number as firmware set it; the subordinate one follows from what is below
  // Ports: Access Control Services, off until software turns them on. Without, what is below the port reaches its
  // neighbours past the IOMMU.
  bool acs = true;
  // PcieToPci: writes keep the requester id of the function (PCI-X), only reads carry the bridge's.
  bool keeps_ids = false;
  bool operator==(const BridgeConfig&) const = default;
};

struct VmdConfig {
  u16 segment = 0x8000;        // its functions' in this configuration; each kernel numbers it as it likes
  unsigned buses = 32;         // 2..256, power of two: 1 MiB of configuration space each, in its BAR 0
  u64 window = u64{16} << 20;  // of its functions' registers, in its BAR 2
  bool operator==(const VmdConfig&) const = default;
};

struct DeviceConfig {
  DeviceKind kind = DeviceKind::Streamer;
  Bdf bdf;
  std::string name;  // in reports; empty: kind and BDF
  // Endpoints below a port: functions of one ARI device, up to 256, by their low byte of the BDF. Those from 8 on
  // answer while the port forwards ARI.
  bool ari = false;
  // Endpoints. A function is multi-function when there are others in its slot, conventional when its bus is.
  bool acs = false;  // Access Control Services, for functions of a multi-function device
  bool ats = false;  // Address Translation Services: the capability is there, nothing is cached in the device
  // Endpoints that are function 0 of their slot: virtual functions that software can ask for (SR-IOV), each like the
  // device itself, up to 7.
  unsigned virtual_functions = 0;
  u32 class_code = 0;  // instead of the kind's own; 0: that one
  EduConfig edu;
  StreamerConfig streamer;
  IoatConfig ioat;
  NvmeConfig nvme;
  BridgeConfig bridge;
  VmdConfig vmd;

  bool operator==(const DeviceConfig&) const = default;
};

struct UnitConfig {
  IommuModelConfig model;
  u16 segment = 0;
  bool include_all = true;     // INCLUDE_PCI_ALL: everything of the segment no other unit names; at most one of each
  std::vector<Bdf> endpoints;  // explicit scopes: functions
  std::vector<Bdf> bridges;    // explicit scopes: everything below
  int proximity = -1;          // NUMA domain of an RHSA structure; -1: none

  bool operator==(const UnitConfig&) const = default;
};

// RMRR: RAM that firmware keeps, and that stays identity-mapped for these functions.
struct ReservedConfig {
  u64 base = 0;                // page-aligned, in RAM
  u64 length = 0;              // pages
  std::vector<Bdf> endpoints;  // of one segment
  std::vector<Bdf> bridges;

  bool operator==(const ReservedConfig&) const = default;
};

struct BoardConfig {
  unsigned window_log2 = kDefaultWindowLog2;
  u64 ram_bytes = u64{256} << 20;  // multiple of 2 MiB; 4 MiB at least
  std::vector<UnitConfig> units{UnitConfig{}};
  std::vector<DeviceConfig> devices;
  std::vector<ReservedConfig> reserved;
  // Firmware gives addresses to BARs and turns memory decoding on; bus mastering stays off (but on in bridges).
  bool firmware_assigns_bars = true;

  // Interrupts that come while there is no kernel stay pending in the processors; false: they are lost, which no kernel
  // can make up for.
  bool keep_interrupts = true;

  // Of each segment: what the memory-mapped configuration window (MCFG) ends with.
  u8 last_bus = 0xFF;

  // Stepped mode. Every step advances the clock by 1..2*step_ns - 1 and some devices, by seed.
  u64 seed = 1;
  u64 step_ns = 1000;
  // Threads mode.
  unsigned threads = 2;  // that serve the devices; at most one a device is started

  // Config-space writes kept in the trace, the newest.
  usize trace_limit = 65536;

  bool operator==(const BoardConfig&) const = default;
};

}  // namespace perdure::board
