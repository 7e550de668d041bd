// Hardware that never stops: memory, IOMMU units, a PCI Express bus with devices that do DMA, two clocks, and the
// oracle that judges what the devices saw. Kernels come and go in front of it; all they have of it is
// mmio_read/mmio_write, the memory window, banks, the memory map, the clock and interrupt messages.
//
// Threads: every function may be called from any thread unless it says otherwise.
//
// Clocks: after construction the board is *stepped*: time passes and devices advance only in step(), by seed, so that a
// run repeats exactly. Between start() and stop() threads serve the devices in real time. The clock runs on from one
// into the other and never back.
#pragma once
#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "core/base/machine.h"
#include "core/base/result.h"
#include "machine/board/config.h"
#include "machine/board/device.h"
#include "machine/board/interrupt_latch.h"
#include "machine/board/iommu/iommu_model.h"
#include "machine/board/iommu/seeded_random.h"
#include "machine/board/ledger.h"
#include "machine/board/pci_bus.h"
#include "machine/board/physical_memory.h"
#include "machine/board/poison.h"
#include "machine/board/results.h"
#include "machine/board/shared_lock.h"

namespace perdure::board {

class Board final : private DeviceBus {
 public:
  using MsiSink = std::function<void(u64 address, u32 data)>;

  // Throws std::runtime_error: what in the configuration is wrong, or what the host refused.
  explicit Board(BoardConfig config);
  ~Board();
  Board(const Board&) = delete;
  Board& operator=(const Board&) = delete;

  // --- what a kernel sees --------------------------------------------------------------------------------------------
  std::byte* direct_map() const { return memory_.base(); }
  u64 window() const { return memory_.window(); }
  // All ones, and nothing done, where nothing answers.
  u64 mmio_read(Phys at, Width width);
  void mmio_write(Phys at, Width width, u64 value);
  u64 now_ns() override;
  // The CPU made [at, at + bytes) visible to walkers that do not snoop.
  void write_back(Phys at, u64 bytes);
  std::vector<MemoryRegion> memory_map() const { return memory_.map(); }
  Phys rsdp() const { return rsdp_; }
  // See PhysicalMemory.
  Result<Bank> bank_attach(int fd, u64 offset, u64 length) { return memory_.attach(fd, offset, length); }
  Result<Bank> bank_attach_foreign(std::shared_ptr<ForeignMemory> memory, u64 length, u64 host_id) {
    return memory_.attach_foreign(std::move(memory), length, host_id);
  }
  Result<void> bank_detach(const Bank& bank);
  // See PciBus.
  Result<void> move_memory_bar(Phys at, int file, u64 offset) { return bus_.move_memory(at.value, file, offset); }
  std::optional<Bank> bank_lookup(Phys at) const { return memory_.bank_at(at.value); }
  Result<int> bank_fd(u64 host_id) const { return memory_.bank_fd(host_id); }
  // Where interrupt messages go from now on. When it returns, no call into the former sink is under way (so it must
  // not be called from a sink). Messages while there is none stay pending in the processors, once a vector, and are the
  // first that the next sink is given.
  void set_msi_sink(MsiSink sink);
  // A message that the present sink was given and whose kernel went before it took it: pending again.
  void give_back(u64 address, u32 data);

  // --- time ----------------------------------------------------------------------------------------------------------
  // Stepped: lets `n` steps pass; without effect in threads mode, and from within itself (a sink that steps).
  void step(u64 n = 1);
  // Stepped: steps until the clock has advanced by this much.
  void step_for(u64 ns);
  void start();
  void stop();
  bool running() const { return frozen_ns_.load(std::memory_order_acquire) == kRunning; }

  // --- the jump ------------------------------------------------------------------------------------------------------
  // The old kernel is gone: nothing of it runs any more, its interrupts go nowhere, what it did not hand over is
  // destroyed (poison.h). Devices go on meanwhile.
  PoisonStats kernel_gone(const HandoverRequest& request);

  // --- the oracle ----------------------------------------------------------------------------------------------------
  // Intent of a program: what `device` finds at [iova, iova + length) shall be this part of the file. Enodev, Einval.
  Result<void> declare(Bdf device, const Intent& intent);
  Result<void> withdraw(Bdf device, u64 iova, u64 length);
  // Judges the current phase; may run beside devices.
  AuditReport audit();
  // The same at its end, and enters the next one; Phase::Before begins another update, with all numbers at 0.
  AuditReport enter_phase(Phase next);
  Phase phase() const { return phase_.load(std::memory_order_acquire); }

  // Every rule that software broke, in words, unit by unit.
  std::vector<std::string> violations() const;
  u64 violation_count() const;

  // --- for tests, scenarios and the demo -----------------------------------------------------------------------------
  PhysicalMemory& memory() { return memory_; }
  PciBus& pci() { return bus_; }
  usize units() const { return units_.size(); }
  IommuModel& unit(usize i);
  Device* device(Bdf home) { return bus_.by_home(home); }
  const BoardConfig& config() const { return config_; }
  InterruptCounts interrupts() const;
  // Messages of devices that their IOMMU unit did not let pass.
  u64 blocked_messages() const { return blocked_messages_.load(std::memory_order_relaxed); }
  // Switches translation of every unit off, and on again after this time, as a fault of the hardware would.
  void break_translation_for(u64 ns);

  // --- files ---------------------------------------------------------------------------------------------------------
  // RAM, banks, registers of units and devices, ledger. Only while stopped and with no kernel running.
  // Throw std::runtime_error (StateError for a damaged save).
  void save(const std::filesystem::path& directory);
  static std::unique_ptr<Board> load(const std::filesystem::path& directory);
  // Without memory: registers of units and devices, clock, ledger. To run many times from one state, load into the
  // board that they were saved from, after its memory. Caches are empty then.
  std::vector<std::byte> save_registers();
  void load_registers(std::span<const std::byte> bytes);

 private:
  struct Unit;
  enum class Judgement : u8 { Right, Undeclared, Misdirected };
  struct Message {
    u64 address = 0;
    u32 data = 0;
  };
  DmaResult dma_write(Device& device, u64 iova, std::span<const std::byte> data) override;
  DmaResult dma_read(Device& device, u64 iova, std::span<std::byte> data) override;
  void send_message(Device& device, u64 address, u32 data) override;
  void wake() override;

  template <class Byte>
  DmaResult dma(Device& device, u64 iova, std::span<Byte> data);
  Judgement judge(const DeviceLedger& ledger, u64 iova, PhysRange went, bool write) const;
  Unit* unit_of(const Device& device) const;
  void build_devices();
  void route_devices();
  void write_tables();
  void queue_message(u64 address, u32 data);
  void flush_messages();
  void step_once();
  void serve(const std::stop_token& stop, usize first, usize stride);

  BoardConfig config_;
  PhysicalMemory memory_;
  std::unique_ptr<WriteBackShadow> shadow_;
  std::vector<std::unique_ptr<Unit>> units_;
  PciBus bus_;
  std::map<const Device*, Unit*> routes_;  // null: nobody translates it
  Phys rsdp_;
  std::atomic<Phase> phase_{Phase::Before};

  // The clock stands at frozen_ns_ or, when that is kRunning, is the host's plus offset_ns_.
  static constexpr u64 kRunning = ~u64{0};
  std::atomic<u64> frozen_ns_{0};
  std::atomic<u64> offset_ns_{0};
  std::atomic_flag stepping_ = ATOMIC_FLAG_INIT;
  SeededRandom random_;  // owned by whoever holds stepping_
  std::vector<std::jthread> threads_;
  // Calls of wake(); what the threads wait for beside the time.
  std::mutex wake_mutex_;
  std::condition_variable_any wakened_;
  u64 wakes_ = 0;

  DeviceMutex outbox_lock_;
  std::vector<Message> outbox_ GUARDED_BY(outbox_lock_);
  mutable DeviceMutex latch_lock_;
  InterruptLatch latch_ GUARDED_BY(latch_lock_);
  std::atomic<u64> blocked_messages_{0};
  SharedLock sink_lock_;
  MsiSink sink_ GUARDED_BY(sink_lock_);
};

}  // namespace perdure::board
