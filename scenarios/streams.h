// The main scenario: devices stream records through the IOMMU into and out of guest memory, mapped in leaves of all
// sizes, some sharing a domain; a program preserves them, is killed by the jump, comes back in the new kernel, takes
// everything over, replaces the page tables in place, and can do it again.
#pragma once
#include "client/iommufd.h"
#include "client/live_update.h"
#include "client/memfd.h"
#include "client/vfio_device.h"
#include "scenarios/context.h"
#include "scenarios/drivers/streamer.h"
#include "scenarios/interrupt_watch.h"
#include "scenarios/take.h"

namespace perdure::scenarios {

struct StreamsPlan {
  static constexpr u32 kMostDevices = 16;
  static constexpr u32 kMostDomains = 16;
  u32 first_device = 0;  // of the program, in `vfio`
  u32 devices = 4;       // that and the following ones
  u32 domains = 3;
  u32 vfio[kMostDevices] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};  // /dev/vfio/devices/vfioN by device
  u32 domain_of[kMostDevices] = {0, 0, 1, 2};                                       // by device
  u64 memory[kMostDomains] = {};     // bytes by domain, a multiple of 1 GiB, at least 4 GiB
  u64 small_leaves = u64{64} << 20;  // bytes mapped in 4 KiB leaves, by domain
  u64 slots = 2048;                  // of each write ring; three a device
  u64 rate = 20'000;                 // transfers a second and ring
  u64 seed = 1;
  u32 iova_bits = 39;  // what addresses may have; the smallest leaves stand in the last 512 GiB of it
  Take take = Take::Replace;
  u64 irq_every = 0;         // transfers of a ring from one interrupt to the next, each ring to its vector; 0: none
  u64 rest_ns = 50'000'000;  // how long a message may be on its way

  u64 total_memory() const;
};

class Streams {
 public:
  Streams(Context context, const StreamsPlan& plan) : context_(context), plan_(plan) {}

  // In the first kernel (hop 0): memory, mappings, devices streaming. In every later one: retrieve, take over, replace,
  // finish.
  Result<void> begin(u32 hop);
  // Everything into a session; the next thing may be the jump.
  Result<void> preserve();
  // Takes the session back: as if preserve() had not been called.
  void unpreserve();
  // All rings of all devices run, and no transfer since the start was refused. Eio.
  Result<void> verify();

  static constexpr u32 kRings = 5;  // of each device, at most

 private:
  // A stretch of a domain's memory and where devices see it.
  struct Piece {
    u64 offset;
    u64 length;
    u64 iova;
  };
  static constexpr u32 kPieces = 3;  // in leaves of 1 GiB, 2 MiB, 4 KiB
  // With Take::Adopt one more, which leads to other memory after every jump, and the ring that writes there.
  static constexpr u32 kMoving = kPieces + 1;
  static_assert(kMoving < kRings);
  static constexpr u64 kMemoryToken = 0x100, kStateToken = 0x1F0, kIommufdToken = 0x200, kDeviceToken = 0x300,
                       kHwptToken = 0x400;

  void pieces(u32 domain, Piece* out) const;  // kPieces of them
  Result<void> set_up();
  Result<void> come_back(u32 hop);
  Result<void> open_device(u32 device);
  Result<u32> map_domain(u32 domain);
  Result<void> adopt(u32 domain);
  // Where the moving piece is in this hop.
  Piece moving(u32 domain) const;
  Result<void> start_moving(u32 device);
  RingPlan ring(u32 device, u32 number, const Piece& piece) const;
  Result<u32> first_device(u32 domain) const;
  Result<void> start_device(u32 device);
  Result<void> declare(u32 device);
  Result<void> mark(u32 domain);
  Result<void> write_state(u32 hop);
  Result<void> check_state(u32 hop);

  Context context_;
  StreamsPlan plan_;
  u32 hop_ = 0;
  client::Memfd memory_[StreamsPlan::kMostDomains];
  client::Memfd state_;
  client::Iommufd iommufd_;
  client::VfioDevice device_[StreamsPlan::kMostDevices];
  u32 device_id_[StreamsPlan::kMostDevices] = {};
  u32 ioas_[StreamsPlan::kMostDomains] = {};
  u32 hwpt_[StreamsPlan::kMostDomains] = {};
  InterruptWatch interrupts_[StreamsPlan::kMostDevices];
  client::Session session_;
};

}  // namespace perdure::scenarios
