// Driver of the streamer (docs/devices.md): rings of slots that the device writes with records, or reads and verifies.
// Its registers are stated here from the data sheet, on purpose a second time.
#pragma once
#include "client/vfio_device.h"

namespace perdure::scenarios {

struct RingPlan {
  u64 base = 0;    // IOVA
  u64 length = 0;  // bytes
  u64 slots = 0;
  u64 seed = 0;
  u64 rate = 0;  // transfers a second
  bool read = false;
  u64 source = 0;     // read rings: whose records
  u64 irq_every = 0;  // transfers; 0: no interrupts
  u32 vector = 0;
};

class Streamer {
 public:
  struct Counters {
    u64 done = 0;
    u64 not_scheduled = 0;
    u64 faulted = 0;
    u64 blocked = 0;
    u64 bus_master_off = 0;
    u64 unbacked = 0;
    u64 interrupts = 0;
    u64 read_errors = 0;
    u64 refused() const { return faulted + blocked + bus_master_off + unbacked; }
  };

  // Finds the registers and checks that this is a streamer. Enodev.
  static Result<Streamer> open(const client::VfioDevice& device) {
    const client::Region bar = TRY(device.region(0));
    Streamer s(device, bar);
    if ((TRY(s.get(kId)) & 0xFFFF'FFFF) != kMagic) return fail(Errno::Enodev);
    return s;
  }

  // What other rings name this device's rings by.
  Result<u64> source_of(unsigned ring) const {
    return (TRY(get(kCapabilities)) >> 16 & 0xFFFF) | static_cast<u64>(ring) << 16;
  }

  Result<void> start(unsigned ring, const RingPlan& plan) const {
    TRY(set(ring_at(ring, kBase), plan.base));
    TRY(set(ring_at(ring, kLength), plan.length));
    TRY(set(ring_at(ring, kSlots), plan.slots));
    TRY(set(ring_at(ring, kSeed), plan.seed));
    TRY(set(ring_at(ring, kRate), plan.rate));
    TRY(set(ring_at(ring, kSource), plan.source));
    TRY(set(ring_at(ring, kIrqEvery), plan.irq_every));
    const u64 control = kRun | (plan.read ? kRead : 0) | (plan.irq_every != 0 ? kIrqEnable | u64{plan.vector} << 8 : 0);
    TRY(set(ring_at(ring, kRingControl), control));
    if ((TRY(get(ring_at(ring, kRingStatus))) & kRunning) == 0) return fail(Errno::Einval);
    return {};
  }
  // Of a running ring, whose vector and rate of interrupts stay.
  Result<void> set_interrupts(unsigned ring, bool on) const {
    const u64 control = TRY(get(ring_at(ring, kRingControl)));
    return set(ring_at(ring, kRingControl), on ? control | kIrqEnable : control & ~kIrqEnable);
  }
  // Interrupt messages of this vector that ever left the device.
  Result<u64> messages(unsigned vector) const { return get(kMessages + u64{8} * vector); }
  Result<void> stop(unsigned ring) const { return set(ring_at(ring, kRingControl), 0); }
  Result<bool> running(unsigned ring) const { return (TRY(get(ring_at(ring, kRingStatus))) & kRunning) != 0; }

  Result<Counters> totals() const {
    Counters c;
    u64* const fields[] = {&c.done,           &c.not_scheduled, &c.faulted,    &c.blocked,
                           &c.bus_master_off, &c.unbacked,      &c.interrupts, &c.read_errors};
    u64 at = kTotals;
    for (u64* f : fields) {
      *f = TRY(get(at));
      at += 8;
    }
    return c;
  }

 private:
  static constexpr u64 kMagic = 0x4D52'5453;  // "STRM"
  static constexpr u64 kId = 0x00, kCapabilities = 0x08, kTotals = 0x40, kMessages = 0x400, kRings = 0x1000,
                       kRingStride = 0x100;
  static constexpr u64 kRingControl = 0x00, kRingStatus = 0x08, kBase = 0x10, kLength = 0x18, kSlots = 0x20,
                       kSeed = 0x28, kRate = 0x30, kIrqEvery = 0x38, kSource = 0x40;
  static constexpr u64 kRun = 1, kRead = 2, kIrqEnable = 4, kRunning = 1;

  Streamer(const client::VfioDevice& device, const client::Region& bar) : device_(&device), bar_(bar) {}
  static u64 ring_at(unsigned ring, u64 offset) { return kRings + ring * kRingStride + offset; }
  Result<u64> get(u64 offset) const { return device_->read(bar_, offset, 8); }
  Result<void> set(u64 offset, u64 value) const { return device_->write(bar_, offset, 8, value); }

  const client::VfioDevice* device_;
  client::Region bar_;
};

}  // namespace perdure::scenarios
