// One PCI function. The constructor reads identity and capabilities; nothing is written before somebody asks for it, so
// that a function whose device is at work (design §7) is only looked at.
#pragma once
#include <atomic>
#include <span>

#include "core/base/function_ref.h"
#include "core/pci/config_space.h"
#include "core/pci/inheritance.h"
#include "core/pci/registers.h"

namespace perdure::pci {

struct Bar {
  enum class Kind : u8 { None, Memory, Io };
  Kind kind = Kind::None;
  bool wide = false;  // 64-bit: the next one is its upper half and of no kind
  bool prefetchable = false;
  Phys base;     // 0: not assigned
  u64 size = 0;  // 0: not known
};

// What a bridge passes downstream: [base, limit], nothing when the limit is below the base.
struct BridgeWindows {
  struct Window {
    u64 base = 0;
    u64 limit = 0;
    bool holds(u64 first, u64 last) const { return base <= first && last <= limit; }
  };
  Window memory;
  Window prefetch;
  Window io;
};

// What a reset takes from a function and is given back to it.
struct SavedFunction {
  u32 bars[6] = {};
  u16 command = 0;
  u16 acs = 0;  // offset of the capability, 0: none
  u16 acs_control = 0;
  u16 sriov = 0;  // the same; with how many virtual functions, and where their BARs are
  u16 sriov_control = 0;
  u16 sriov_number = 0;
  u32 sriov_bars[6] = {};
};

class Function : public HeapObject {
 public:
  static constexpr unsigned kBars = 6;

  Function(ConfigSpace& config, SourceId source, Function* parent);
  // Number `n` of the virtual functions that `physical` can have. Nothing is read from it: it need not be there.
  Function(Function& physical, SourceId source, u32 n);

  SourceId source() const { return source_; }
  u16 vendor() const { return vendor_; }
  u16 device() const { return device_; }
  u32 class_code() const { return class_code_; }  // base class, sub-class, interface
  u8 revision() const { return revision_; }
  // Vendor in the low half; revision in the low byte.
  u32 ids() const { return u32{device_} << 16 | vendor_; }
  u32 class_revision() const { return class_code_ << 8 | revision_; }
  // It is there and still says so.
  bool same_as_found() const;
  // The bridge above, null on a root bus.
  Function* parent() const { return parent_; }
  // Whether it worked for a former kernel's user when this kernel booted, see Bus::enumerate(); a bridge: something
  // below it did. Unless No nobody but that user writes to it.
  Inherited inherited() const { return inherited_.load(std::memory_order_acquire); }
  // Of a preserved function: its user has it back, so that it is like any other now. Bridges above it follow when it
  // was the last.
  void let_go();
  void refuse() { inherited_.store(Inherited::Refused, std::memory_order_release); }

  bool is_bridge() const { return layout_ == HeaderType::kBridge; }
  u8 secondary() const { return secondary_; }
  u8 subordinate() const { return subordinate_; }
  // Port type of its PCI Express capability; kConventional: it has none.
  static constexpr u16 kConventional = 0xffff;
  u16 express_type() const;
  // A link with room for one device.
  bool is_downstream_port() const;
  // There is room for others in its slot, and function 0 says that there are.
  bool multifunction() const;
  // A volume management device: its BAR 0 is the configuration space of a segment of its own, which firmware's tables
  // do not know. Driven by the kernel, like a bridge.
  bool hosts_segment() const;
  // Whose requester id its DMA carries before any bridge comes: its own but for functions in such a segment.
  const Function& dma_function() const { return host_ ? *host_ : *this; }
  bool below(const Function& bridge) const;
  BridgeWindows windows() const;
  // Found by its device's ARI chain: the low byte of its id is a function number.
  bool ari() const { return ari_; }
  // Of a port: it passes requests for every function number on to the one device below it.
  bool ari_forwarding() const;
  bool can_forward_ari() const;
  void forward_ari();

  // --- virtual functions (SR-IOV): known from the start, and there while their physical function is told to have them
  // -
  Function* physical() const { return physical_; }
  bool enabled() const { return !physical_ || enabled_.load(std::memory_order_acquire); }
  // How many there are now, and how many there can be. Of a function that was at work when this kernel came: none.
  u32 virtual_count() const { return virtual_count_.load(std::memory_order_acquire); }
  u32 virtual_total() const { return virtual_total_; }

  std::span<const Bar, kBars> bars() const { return bars_; }
  // Where it decodes as the register says now.
  Phys bar_base(unsigned bar) const;
  // Of a preserved function, which is not asked: from the record of the kernel that asked.
  void set_bar_size(unsigned bar, u64 size) { bars_[bar].size = size; }

  // --- configuration registers ---------------------------------------------------------------------------
  // What a virtual function does not have in its own (ids, BARs, memory enable) reads as if it had.
  u8 read8(u16 offset) const {
    return shadowed(offset) ? static_cast<u8>(read_shadow(offset)) : config_.read8(source_, offset);
  }
  u16 read16(u16 offset) const {
    return shadowed(offset) ? static_cast<u16>(read_shadow(offset)) : config_.read16(source_, offset);
  }
  u32 read32(u16 offset) const { return shadowed(offset) ? read_shadow(offset) : config_.read32(source_, offset); }
  void write8(u16 offset, u8 value) {
    if (shadowed(offset)) note_write(offset, value);
    config_.write8(source_, offset, value);
  }
  void write16(u16 offset, u16 value) {
    if (shadowed(offset)) note_write(offset, value);
    config_.write16(source_, offset, value);
  }
  void write32(u16 offset, u32 value) {
    if (shadowed(offset)) note_write(offset, value);
    config_.write32(source_, offset, value);
  }
  bool present() const;

  // Offset of a capability, 0: none. Walked anew each time, with a bound: the list is the device's to make up.
  u16 find(CapabilityId id) const;
  u16 find(ExtendedCapabilityId id) const;

  // --- COMMAND; each reads back, false when the device does not take it ----------------------------------------
  bool set_bus_master(bool on) { return set_command(Command::kBusMaster, on); }
  bool set_decoding(bool on) { return set_command(Command::kMemory | Command::kIo, on); }
  // Every bridge above decodes and masters for it. Those of functions that a former kernel's user has at work are not
  // written to; false when one of them does not pass requests on.
  bool open_path();
  bool bus_master() const { return enabled() && (read16(reg::kCommand) & Command::kBusMaster) != 0; }

  // Requests issued and not completed. False also when the function has no way to tell.
  bool transactions_pending() const;
  // Function level reset, then BARs and decoding as before, bus mastering and interrupts off. Waits for pending
  // transactions first. Eopnotsupp: it has none; Etimedout: it does not come back (100 ms by specification, 1 s here).
  Result<void> reset();
  bool can_reset() const;
  // The two halves of it, for who resets the function by other means: bus mastering off and nothing under way; then
  // BARs and decoding as they were, once it is back (Etimedout).
  SavedFunction quiesce();
  Result<void> restore(const SavedFunction& saved);
  // Of a bridge: resets everything below it.
  void reset_secondary();

  // --- vital product data: four bytes at a multiple of 4. Eopnotsupp: it has none; Einval; Etimedout (125 ms) ------
  Result<u32> vpd_read(u16 address);
  Result<void> vpd_write(u16 address, u32 data);

  // --- interrupts ----------------------------------------------------------------------------------------
  unsigned msi_vectors() const;   // 0: no MSI
  unsigned msix_vectors() const;  // 0: no MSI-X, or its table does not lie in a BAR
  // `vectors` is a power of two up to msi_vectors(); vector i sends data + i. Einval.
  Result<void> msi_enable(const MsiTarget& first, unsigned vectors);
  void msi_disable();
  // Enabled with every vector masked. Eopnotsupp.
  Result<void> msix_enable();
  void msix_disable();
  // Programs and unmasks one vector, or masks it. Einval beyond msix_vectors().
  Result<void> msix_set(unsigned vector, const MsiTarget& target);
  Result<void> msix_mask(unsigned vector);
  bool interrupts_enabled() const;  // MSI or MSI-X

 private:
  friend class Bus;
  bool set_command(u16 bits, bool on);
  Result<void> wait_vpd(u16 capability, bool flag) const;
  u16 express_at(u16 offset) const;  // of a register of version 2 of the capability; 0: there is none
  void count_inherited();
  bool shadowed(u16 offset) const { return physical_ && offset < reg::kBars + 4 * kBars && offset != reg::kClass; }
  u32 read_shadow(u16 offset) const;
  void note_write(u16 offset, u32 value);
  void read_virtual_bars(u32 n);
  void read_bars();
  void size_bars();
  Phys msix_entry(unsigned vector) const;  // null address: none

  ConfigSpace& config_;
  const SourceId source_;
  Function* const parent_;
  Function* host_ = nullptr;  // of its segment
  u16 vendor_;
  u16 device_;
  u32 class_code_;
  u8 revision_;
  u8 layout_;
  bool ari_ = false;
  std::atomic<Inherited> inherited_{Inherited::No};
  std::atomic<u32> inherited_below_{0};  // of a bridge: functions that are not No
  u8 secondary_ = 0;
  u8 subordinate_ = 0;
  Bar bars_[kBars];
  Function* physical_ = nullptr;
  std::atomic<bool> enabled_{false};
  std::atomic<bool> decodes_{false};  // of a virtual function: as its user set it
  std::atomic<u32> virtual_count_{0};
  u32 virtual_total_ = 0;
};

}  // namespace perdure::pci
