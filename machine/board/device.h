// A PCI function of the board: configuration space, BARs, interrupts, and what it does as time goes by. The bus calls
// every function below with the device's lock held.
#pragma once
#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "machine/board/bdf.h"
#include "machine/board/config_space.h"
#include "machine/board/ledger.h"
#include "machine/board/memory_bars.h"
#include "machine/board/shared_lock.h"

namespace perdure::board {

class Bridge;
class Device;
class Vmd;

// What a function is by its place and configuration, not by its kind.
struct FunctionTraits {
  bool endpoint = true;       // not a bridge
  bool conventional = false;  // on a conventional bus: no PCI Express capability, 256 bytes of configuration space
  bool acs = false;
  bool ats = false;
  u32 class_code = 0;  // 0: the kind's own
};

struct DmaResult {
  bool done = false;
  Cause cause = Cause::Blocked;  // when not done
  u64 phys = 0;                  // of the first byte, when done
  u8 fault = 0;                  // VT-d reason, when Faulted
};

// What a device may do on the bus.
class DeviceBus {
 public:
  // All of the bytes or, when any part cannot be done, possibly a leading part of them.
  virtual DmaResult dma_write(Device& device, u64 iova, std::span<const std::byte> data) = 0;
  virtual DmaResult dma_read(Device& device, u64 iova, std::span<std::byte> data) = 0;
  // A message-signalled interrupt: goes out when the device's lock is released.
  virtual void send_message(Device& device, u64 address, u32 data) = 0;
  virtual u64 now_ns() = 0;
  // A register write gave the device something to do earlier than next_due_ns() said.
  virtual void wake() {}

 protected:
  ~DeviceBus() = default;
};

class Device {
 public:
  struct Bar {
    u64 size = 0;  // power of two, 0: none
    bool is_64bit = false;
    bool memory = false;  // prefetchable: programs may have it mapped
  };
  static constexpr unsigned kBars = 6;

  Device(std::string name, Bdf home, DeviceBus& bus);
  virtual ~Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  DeviceMutex& lock() const RETURN_CAPABILITY(lock_) { return lock_; }
  const std::string& name() const { return name_; }
  // The place it was built at: its identity in records and reports.
  Bdf home() const { return home_; }
  // Its requester id now: bus numbers are given by the bridge above.
  Bdf bdf() const;
  void set_parent(const Bridge* parent) { parent_ = parent; }
  const Bridge* parent() const { return parent_; }
  // The volume management device in whose segment it is, null for none.
  void set_vmd(const Vmd* vmd) { vmd_ = vmd; }
  const Vmd* vmd() const { return vmd_; }
  // The id that its requests carry when they reach the IOMMU: bridges to conventional buses and VMDs put theirs in
  // place of it.
  Bdf requester(bool write) const;
  // What its records name it by: the BDF it was built at, unless a function of another segment has the same.
  u16 number() const { return number_; }
  void set_number(u16 number) { number_ = number; }
  // While the machine is built.
  void set_traits(const FunctionTraits& traits);
  void set_multifunction();

  // While the machine is built: a function of an ARI device; 0: the last one.
  void set_ari(u8 next_function);
  bool ari() const { return ari_ != 0; }

  // --- virtual functions (SR-IOV) ------------------------------------------------------------------------------------
  // While the machine is built: it can have so many, all like `one`, with the ids after its own.
  void set_virtual_functions(unsigned total, const Device& one);
  // It is the physical function's, number `n` from 0.
  void become_virtual(const Device& physical, unsigned n);
  const Device* physical() const { return physical_; }
  // A virtual function is there while software asks its physical one for so many.
  bool is_there() const { return physical_ == nullptr || virtual_number_ < physical_->virtual_count(); }
  unsigned virtual_count() const { return virtual_count_.load(std::memory_order_acquire); }
  unsigned virtual_total() const { return virtual_total_; }
  // What each of them has, and the register that says where the first one's is.
  const Bar& virtual_bar(unsigned i) const { return virtual_bars_[i]; }
  u16 virtual_bar_register(unsigned i) const { return static_cast<u16>(sriov_ + 0x24 + 4 * i); }
  // True once after some were taken away: the bus resets them.
  bool take_virtual_reset() REQUIRES(lock_) { return std::exchange(virtual_reset_, false); }

  // Where capabilities are in configuration space; 0: none.
  u16 pcie_capability() const { return pcie_; }
  u16 msi_capability() const { return msi_; }
  u16 msix_capability() const { return msix_; }

  // --- configuration -------------------------------------------------------------------------------------------------
  u32 config_read(u16 offset, unsigned width) REQUIRES(lock_);
  void config_write(u16 offset, unsigned width, u32 value) REQUIRES(lock_);
  const Bar& bar(unsigned i) const { return bars_[i]; }
  // Where its registers are; 0 while it has no address.
  u64 bar_address(unsigned i) const;
  bool memory_enabled() const;
  // Of this function alone; see also Bridge.
  bool bus_master_enabled() const { return bus_master_.load(std::memory_order_acquire); }
  // Its own, every bridge's above it, and its VMD's.
  bool may_master() const;

  // --- registers -----------------------------------------------------------------------------------------------------
  u64 mmio_read(unsigned bar, u64 offset, unsigned width) REQUIRES(lock_);
  void mmio_write(unsigned bar, u64 offset, unsigned width, u64 value) REQUIRES(lock_);

  // A BAR that is memory, from now on in a program's file, there at `offset`. Enxio: it is none; what the file says.
  Result<void> move_memory(unsigned bar, int file, u64 offset) REQUIRES(lock_);

  // --- time ----------------------------------------------------------------------------------------------------------
  virtual void advance(u64 /*now_ns*/) REQUIRES(lock_) {}
  // When advance() has something to do next; ~0: never.
  virtual u64 next_due_ns() const REQUIRES(lock_) { return ~u64{0}; }

  // Function-level reset: everything as at power-on, the ledger untouched.
  void function_reset() REQUIRES(lock_);

  // True once after software asked to reset what is below (bridges); the bus does it.
  virtual bool take_reset_request() REQUIRES(lock_) { return false; }

  DeviceLedger& ledger() REQUIRES(lock_) { return ledger_; }

  void save(StateWriter& out) const REQUIRES(lock_);
  void load(StateReader& in) REQUIRES(lock_);

 protected:
  // For constructors.
  void set_ids(u16 vendor, u16 device, u8 revision, u32 class_code, u16 subsystem_vendor, u16 subsystem);
  void add_bar(unsigned index, u64 size, bool is_64bit);
  void add_memory_bar(unsigned index, u64 size);
  void add_pcie_capability(u8 port_type);
  void add_acs_capability(u16 services);
  void add_msi_capability();
  // Table and pending bits live at the start and the middle of `bar`, which is for nothing else.
  void add_msix_capability(unsigned bar, unsigned vectors);

  virtual u64 read_register(unsigned /*bar*/, u64 /*offset*/, unsigned width) REQUIRES(lock_);
  virtual void write_register(unsigned /*bar*/, u64 /*offset*/, unsigned /*width*/, u64 /*value*/) REQUIRES(lock_) {}
  virtual void reset() REQUIRES(lock_) {}
  // A message of this vector left the function.
  virtual void message_sent(unsigned /*vector*/) REQUIRES(lock_) {}
  virtual void config_changed(u16 /*offset*/, unsigned /*width*/) REQUIRES(lock_) {}
  virtual void save_state(StateWriter& /*out*/) const REQUIRES(lock_) {}
  virtual void load_state(StateReader& /*in*/) REQUIRES(lock_) {}

  // Sends the vector's message by MSI-X or MSI, whichever is on; marks it pending while masked. True when a message
  // was sent.
  bool raise(unsigned vector) REQUIRES(lock_);
  // A read of this function was answered with an error: its status register tells (PCI 3.0, 6.2.3).
  void read_refused() REQUIRES(lock_);

  DeviceBus& bus_;
  mutable DeviceMutex lock_;
  ConfigSpace config_;  // written in constructors without the lock
  MemoryBars memory_bars_;
  DeviceLedger ledger_ GUARDED_BY(lock_);

 private:
  struct MsixVector {
    u64 address = 0;
    u32 data = 0;
    u32 control = 1;  // masked
  };
  void mirror();
  bool send_msix(unsigned vector) REQUIRES(lock_);
  void send_pending() REQUIRES(lock_);
  u64 msix_read(u64 offset, unsigned width) const;
  void msix_write(u64 offset, unsigned width, u64 value) REQUIRES(lock_);

  void mirror_virtual_functions();
  void add_af_capability();
  void add_ats_capability();
  bool resets_itself(u16 offset, unsigned width, u32 value) const;

  std::string name_;
  Bdf home_;
  u16 number_;
  const Bridge* parent_ = nullptr;
  const Vmd* vmd_ = nullptr;
  bool conventional_ = false;
  std::array<Bar, kBars> bars_{};
  // Mirrors of configuration space, for readers without the lock.
  std::array<std::atomic<u64>, kBars> bar_addresses_{};
  std::atomic<bool> memory_enabled_{false};
  std::atomic<bool> bus_master_{false};
  // Of a physical function, mirrors too; and what a virtual one is.
  unsigned virtual_total_ = 0;
  std::array<Bar, kBars> virtual_bars_{};
  std::array<std::atomic<u64>, kBars> virtual_addresses_{};
  std::atomic<unsigned> virtual_count_{0};
  std::atomic<bool> virtual_memory_{false};
  bool virtual_reset_ GUARDED_BY(lock_) = false;
  const Device* physical_ = nullptr;
  unsigned virtual_number_ = 0;
  u16 sriov_ = 0;
  u16 pcie_ = 0;  // offsets of capabilities; 0: none
  u16 ari_ = 0;
  u16 af_ = 0;
  u16 msi_ = 0;
  u16 msix_ = 0;
  unsigned msix_bar_ = 0;
  std::vector<MsixVector> msix_table_;
  u64 msix_pending_ = 0;
};

}  // namespace perdure::board
