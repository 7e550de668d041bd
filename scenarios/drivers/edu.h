// QEMU's teaching device: one transfer at a time between its buffer and memory, 100 ms after it was asked for. Here a
// block goes to the device and back for ever; a transfer is always under way when the kernel is left.
#pragma once
#include "scenarios/drivers/bus_master.h"

namespace perdure::scenarios {

class Edu final : public BusMaster {
 public:
  static constexpr u32 kVendorDevice = 0x11E8'1234;
  static constexpr u64 kBytes = 2 * kPageSize;  // of guest memory: what goes to the device, what comes back
  struct State {
    u64 transfers;     // that were asked for
    u64 landed;        // those that are done and right
    u64 carried;       // of them: that were under way at a jump
    u64 round;         // of the block, from 1
    u32 under_way;     // Way
    u32 loaded;        // the block is in the device, and not yet back
    u32 kernels;       // jumps since the transfer was asked for
    u32 interrupting;  // each transfer ends with a message
    u64 interrupts;    // messages that came
  };

  Edu(Context context, const client::VfioDevice& device, DmaArea area, State& state)
      : BusMaster(context, device, area), state_(state) {}

  // Before start(). A device whose unit does not remap interrupts cannot be preserved with it.
  void set_interrupting(bool on) { state_.interrupting = on ? 1 : 0; }
  // For where the program does not die with its kernel.
  void forget() { event_.release(); }

  Result<void> start() override;
  Result<void> resume() override;
  Result<void> check(bool patient) override;
  Result<void> leave() override;
  void report(Evidence& evidence) const override;

  // After a patient check, which leaves the device idle: word `i` of the block in it goes to `iova`. Returns when the
  // device says that it is done, with what it wrote.
  Result<u64> store(u64 i, u64 iova);
  static constexpr u64 kWords = 256;

 private:
  enum Way : u32 { kNothing, kIn, kOut };
  // A transfer that ends where the device's buffer ends, at 0x41000, stops some emulators.
  static constexpr u64 kBuffer = 0x4'0100;
  static constexpr u64 kBlock = kWords * 8;
  static constexpr u64 kFrom = 0x200;            // in its page
  static constexpr u64 kTo = kPageSize + 0x400;  // in the other
  static constexpr u64 kId = 0x00, kSource = 0x80, kDestination = 0x88, kCount = 0x90, kCommand = 0x98;
  static constexpr u64 kInterruptStatus = 0x24, kAcknowledge = 0x64;
  static constexpr u32 kRun = 1, kToMemory = 2, kInterrupt = 4;
  static constexpr u32 kMsi = 1;  // VFIO_PCI_MSI_IRQ_INDEX
  static constexpr u64 kPoison = 0xDEAD'BEEF'DEAD'BEEF;
  static_assert(kBuffer + kBlock < 0x4'1000);

  Result<u64> get(u64 offset) const { return device_.read(registers_, offset, 8); }
  Result<void> set(u64 offset, u64 value) const { return device_.write(registers_, offset, 8, value); }
  Result<void> command(u64 source, u64 destination, u64 bytes, u32 way);
  Result<bool> busy() const { return (TRY(get(kCommand)) & kRun) != 0; }
  Result<void> arm();
  Result<void> judge();
  Result<void> wait();
  Result<void> connect();
  Result<void> take_interrupt();

  State& state_;
  client::Fd event_;
};

}  // namespace perdure::scenarios
