#include "machine/board/device.h"

#include <algorithm>
#include <bit>

#include "core/base/bits.h"
#include "machine/board/bridge.h"
#include "machine/board/vmd.h"

namespace perdure::board {
namespace {

// PCI Express Base Specification, capability structures (offsets from the capability's start).
constexpr u8 kMsiId = 0x05;
constexpr u8 kPcieId = 0x10;
constexpr u8 kMsixId = 0x11;
constexpr u8 kAfId = 0x13;
constexpr u16 kAcsId = 0x000D;
constexpr u16 kAtsId = 0x000F;
constexpr u16 kSriovId = 0x0010;

constexpr u16 kAriId = 0x000E;
constexpr u16 kAriCapability = 4;
constexpr u32 kAriForwarding = u32{1} << 5;  // of device capabilities 2 and control 2

constexpr u16 kSriovControl = 0x08;
constexpr u16 kSriovEnable = 1 << 0;
constexpr u16 kSriovMemory = 1 << 3;
constexpr u16 kSriovInitial = 0x0C;
constexpr u16 kSriovTotal = 0x0E;
constexpr u16 kSriovNumber = 0x10;
constexpr u16 kSriovFirst = 0x14;
constexpr u16 kSriovStride = 0x16;
constexpr u16 kSriovDevice = 0x1A;
constexpr u16 kSriovPageSizes = 0x1C;
constexpr u16 kSriovPageSize = 0x20;
constexpr u16 kSriovBytes = 0x40;

constexpr u16 kMsiControl = 2;
constexpr u16 kMsiAddress = 4;
constexpr u16 kMsiAddressUpper = 8;
constexpr u16 kMsiData = 12;
constexpr u16 kMsiMask = 16;
constexpr u16 kMsiPending = 20;
constexpr u16 kMsiEnable = 1 << 0;

constexpr u16 kMsixControl = 2;
constexpr u16 kMsixEnable = 1 << 15;
constexpr u16 kMsixFunctionMask = 1 << 14;
constexpr u32 kMsixVectorMask = 1;

constexpr u16 kDeviceCapabilities = 4;
constexpr u16 kDeviceControl = 8;
constexpr u32 kFlrCapable = u32{1} << 28;
constexpr u16 kInitiateFlr = 1 << 15;

// Advanced Features of conventional functions (PCI-SIG ECN, 2006).
constexpr u16 kAfCapabilities = 3;
constexpr u16 kAfControl = 4;
constexpr u8 kAfPendingAndFlr = 3;

// What ACS of an endpoint can have: peers are reached through redirection only (PCI Express Base 6.0, 6.12.1.2).
constexpr u16 kEndpointAcs = 1 << 2 | 1 << 3 | 1 << 6;  // request redirect, completion redirect, direct translated
constexpr u16 kConventionalBytes = 256;

}  // namespace

Device::Device(std::string name, Bdf home, DeviceBus& bus)
    : bus_(bus), name_(std::move(name)), home_(home), number_(home.value) {
  using namespace pci_reg;
  config_.define(kCommand, 2, 0, 0x0546);  // memory, bus master, parity, SERR, INTx disable
  config_.define(kStatus, 2, 0, 0, 0xF900);
  config_.define(0x0C, 1, 0, 0xFF);  // cache line size: no effect, kept
  config_.define(kInterruptLine, 1, 0xFF, 0xFF);
}

Bdf Device::bdf() const {
  return parent_ == nullptr ? home_ : Bdf(static_cast<u16>(parent_->secondary() << 8 | home_.devfn()), home_.segment);
}

Bdf Device::requester(bool write) const {
  Bdf id = bdf();
  for (const Bridge* above = parent_; above != nullptr; above = above->parent()) id = above->upstream_id(id, write);
  return vmd_ == nullptr ? id : vmd_->bdf();
}

bool Device::may_master() const {
  if (!bus_master_enabled() || !is_there()) return false;
  for (const Device* above = parent_; above != nullptr; above = above->parent_) {
    if (!above->bus_master_enabled()) return false;
  }
  return vmd_ == nullptr || vmd_->may_master();
}

// --- construction ----------------------------------------------------------------------------------------------------

void Device::set_ids(u16 vendor, u16 device, u8 revision, u32 class_code, u16 subsystem_vendor, u16 subsystem) {
  using namespace pci_reg;
  config_.define(kVendor, 2, vendor);
  config_.define(kDevice, 2, device);
  config_.define(kRevision, 4, u32{revision} | class_code << 8);
  if (subsystem_vendor != 0) config_.define(kSubsystem, 4, u32{subsystem_vendor} | u32{subsystem} << 16);
}

void Device::add_bar(unsigned index, u64 size, bool is_64bit) {
  bars_[index] = {size, is_64bit};
  const u16 at = static_cast<u16>(pci_reg::kBar0 + 4 * index);
  const u64 writable = ~(size - 1);
  config_.define(at, 4, is_64bit ? 0x4 : 0x0, static_cast<u32>(writable) & ~u32{0xF});
  if (is_64bit) config_.define(static_cast<u16>(at + 4), 4, 0, static_cast<u32>(writable >> 32));
}

void Device::add_memory_bar(unsigned index, u64 size) {
  add_bar(index, size, true);
  bars_[index].memory = true;
  memory_bars_.add(index, size);
  constexpr u32 kPrefetchable = 8;
  const u16 at = static_cast<u16>(pci_reg::kBar0 + 4 * index);
  config_.define(at, 4, 0x4 | kPrefetchable, static_cast<u32>(~(size - 1)) & ~u32{0xF});
}

void Device::add_pcie_capability(u8 port_type) {
  pcie_ = config_.add_capability(kPcieId, 0x3C);
  const bool endpoint = port_type == 0;
  const auto at = [&](unsigned offset) { return static_cast<u16>(pcie_ + offset); };
  config_.define(at(2), 2, 2u | unsigned{port_type} << 4);  // version 2
  config_.define(at(kDeviceCapabilities), 4, (endpoint ? kFlrCapable : 0) | u32{1} << 15);
  config_.define(at(kDeviceControl), 2, 0x2810, 0x7FFF);
  config_.define(at(0x0A), 2, 0, 0, 0x000F);  // device status
  config_.define(at(0x0C), 4, 0x11);          // link capabilities: 2.5 GT/s, x1
  config_.define(at(0x10), 2, 0, 0x00FB);     // link control
  config_.define(at(0x12), 2, 0x0011);        // link status
  const bool forwards = port_type == 4 || port_type == 6;
  config_.define(at(0x24), 4, u32{1} << 4 | (forwards ? kAriForwarding : 0));  // capabilities 2: timeout disable
  config_.define(at(0x28), 2, 0, 0x001F | (forwards ? kAriForwarding : 0));    // device control 2
  config_.define(at(0x2C), 4, 0x2);                                            // link capabilities 2
  config_.define(at(0x30), 2, 0x0001, 0x000F);                                 // link control 2
}

void Device::add_af_capability() {
  af_ = config_.add_capability(kAfId, 6);
  config_.define(static_cast<u16>(af_ + 2), 1, 6);  // length
  config_.define(static_cast<u16>(af_ + kAfCapabilities), 1, kAfPendingAndFlr);
}

void Device::add_acs_capability(u16 services) {
  const u16 at = config_.add_extended_capability(kAcsId, 1, 8);
  config_.define(static_cast<u16>(at + 4), 2, services);
  config_.define(static_cast<u16>(at + 6), 2, 0, services);
}

// Can be turned on like any other; a function may go on sending untranslated requests then, and these do.
void Device::add_ats_capability() {
  const u16 at = config_.add_extended_capability(kAtsId, 1, 8);
  config_.define(static_cast<u16>(at + 4), 2, 1 << 5);  // queue of 32 invalidations, addresses are page-aligned
  config_.define(static_cast<u16>(at + 6), 2, 0, 0x801F);
}

void Device::set_traits(const FunctionTraits& traits) {
  conventional_ = traits.conventional;
  if (traits.endpoint) {
    traits.conventional ? add_af_capability() : add_pcie_capability(0);
    if (traits.acs) add_acs_capability(kEndpointAcs);
    if (traits.ats) add_ats_capability();
  }
  if (traits.class_code != 0) {
    config_.define(pci_reg::kRevision, 4, config_.read(pci_reg::kRevision, 1) | traits.class_code << 8);
  }
}

void Device::set_virtual_functions(unsigned total, const Device& one) {
  sriov_ = config_.add_extended_capability(kSriovId, 1, kSriovBytes);
  virtual_total_ = total;
  const auto at = [&](unsigned offset) { return static_cast<u16>(sriov_ + offset); };
  config_.define(at(kSriovControl), 2, 0, kSriovEnable | kSriovMemory);
  config_.define(at(kSriovInitial), 2, total);
  config_.define(at(kSriovTotal), 2, total);
  config_.define(at(kSriovNumber), 2, 0, 0xFFFF);
  config_.define(at(kSriovFirst), 2, 1);
  config_.define(at(kSriovStride), 2, 1);
  config_.define(at(kSriovDevice), 2, config_.read(pci_reg::kDevice, 2));
  config_.define(at(kSriovPageSizes), 4, 1);
  config_.define(at(kSriovPageSize), 4, 1, 1);
  for (unsigned i = 0; i < kBars; ++i) {
    virtual_bars_[i] = one.bars_[i];
    if (one.bars_[i].size == 0) continue;
    const u64 writable = ~(one.bars_[i].size - 1);
    const u16 bar = virtual_bar_register(i);
    config_.define(bar, 4, one.bars_[i].is_64bit ? 0x4 : 0x0, static_cast<u32>(writable) & ~u32{0xF});
    if (one.bars_[i].is_64bit) {
      config_.define(static_cast<u16>(bar + 4), 4, 0, static_cast<u32>(writable >> 32));
    }
  }
}

// No ids, no BARs and no memory enable of its own: all of that is the physical function's (PCI Express 6.0, 9.3.4).
void Device::become_virtual(const Device& physical, unsigned n) {
  physical_ = &physical;
  virtual_number_ = n;
  config_.define(pci_reg::kVendor, 4, ~u32{0});
  config_.define(pci_reg::kCommand, 2, 0, pci_reg::kCommandBusMaster);
  for (unsigned i = 0; i < kBars; ++i) config_.define(static_cast<u16>(pci_reg::kBar0 + 4 * i), 4, 0);
}

u64 Device::bar_address(unsigned i) const {
  if (physical_ == nullptr) return bar_addresses_[i].load(std::memory_order_acquire);
  const u64 first = physical_->virtual_addresses_[i].load(std::memory_order_acquire);
  return first == 0 ? 0 : first + virtual_number_ * bars_[i].size;
}

bool Device::memory_enabled() const {
  if (physical_ == nullptr) return memory_enabled_.load(std::memory_order_acquire);
  return is_there() && physical_->virtual_memory_.load(std::memory_order_acquire);
}

void Device::mirror_virtual_functions() {
  const auto get = [&](unsigned offset) { return config_.read(static_cast<u16>(sriov_ + offset), 2); };
  const u32 control = get(kSriovControl);
  virtual_memory_.store((control & kSriovMemory) != 0, std::memory_order_release);
  virtual_count_.store((control & kSriovEnable) != 0 ? std::min(get(kSriovNumber), virtual_total_) : 0,
                       std::memory_order_release);
  for (unsigned i = 0; i < kBars; ++i) {
    if (virtual_bars_[i].size == 0) continue;
    const u16 at = virtual_bar_register(i);
    u64 address = config_.read(at, 4) & ~u32{0xF};
    if (virtual_bars_[i].is_64bit) address |= u64{config_.read(static_cast<u16>(at + 4), 4)} << 32;
    virtual_addresses_[i].store(address, std::memory_order_release);
  }
}

void Device::set_multifunction() {
  config_.define(pci_reg::kHeaderType, 1, config_.read(pci_reg::kHeaderType, 1) | pci_reg::kMultiFunction);
}

void Device::add_msi_capability() {
  msi_ = config_.add_capability(kMsiId, 0x18);
  const auto at = [&](unsigned offset) { return static_cast<u16>(msi_ + offset); };
  // One vector, 64-bit address, mask bit.
  config_.define(at(kMsiControl), 2, 1 << 7 | 1 << 8, kMsiEnable | 0x70);
  config_.define(at(kMsiAddress), 4, 0, ~u32{3});
  config_.define(at(kMsiAddressUpper), 4, 0, ~u32{0});
  config_.define(at(kMsiData), 2, 0, 0xFFFF);
  config_.define(at(kMsiMask), 4, 0, 1);
}

void Device::add_msix_capability(unsigned bar, unsigned vectors) {
  msix_ = config_.add_capability(kMsixId, 12);
  msix_bar_ = bar;
  msix_table_.assign(vectors, MsixVector{});
  const auto at = [&](unsigned offset) { return static_cast<u16>(msix_ + offset); };
  config_.define(at(kMsixControl), 2, vectors - 1, kMsixEnable | kMsixFunctionMask);
  config_.define(at(4), 4, bar);
  config_.define(at(8), 4, static_cast<u32>(bars_[bar].size / 2) | bar);
}

void Device::set_ari(u8 next_function) {
  if (ari_ == 0) ari_ = config_.add_extended_capability(kAriId, 1, 8);
  config_.define(static_cast<u16>(ari_ + kAriCapability), 2, u32{next_function} << 8);
}

// --- configuration ---------------------------------------------------------------------------------------------------

void Device::mirror() {
  if (sriov_ != 0) mirror_virtual_functions();
  const u32 command = config_.read(pci_reg::kCommand, 2);
  memory_enabled_.store((command & pci_reg::kCommandMemory) != 0, std::memory_order_release);
  bus_master_.store((command & pci_reg::kCommandBusMaster) != 0, std::memory_order_release);
  memory_bars_.set_on((command & pci_reg::kCommandMemory) != 0);
  for (unsigned i = 0; i < kBars; ++i) {
    if (bars_[i].size == 0) continue;
    const u16 at = static_cast<u16>(pci_reg::kBar0 + 4 * i);
    u64 address = config_.read(at, 4) & ~u32{0xF};
    if (bars_[i].is_64bit) address |= u64{config_.read(static_cast<u16>(at + 4), 4)} << 32;
    bar_addresses_[i].store(address, std::memory_order_release);
  }
}

// Initiate Function Level Reset, whatever the width of the write that carries the bit; it always reads 0.
bool Device::resets_itself(u16 offset, unsigned width, u32 value) const {
  unsigned byte = 0;
  u32 bit = 0;
  if (pcie_ != 0 && (config_.read(static_cast<u16>(pcie_ + kDeviceCapabilities), 4) & kFlrCapable) != 0) {
    byte = pcie_ + kDeviceControl + 1u;
    bit = kInitiateFlr >> 8;
  } else if (af_ != 0) {
    byte = af_ + kAfControl + 0u;
    bit = 1;
  }
  return bit != 0 && offset <= byte && byte < offset + width && (value >> (8 * (byte - offset)) & bit) != 0;
}

u32 Device::config_read(u16 offset, unsigned width) {
  // A conventional function has no more; the bridge answers for the rest.
  if (conventional_ && offset >= kConventionalBytes) return ~u32{0} >> (width >= 4 ? 0 : 32 - 8 * width);
  return config_.read(offset, width);
}

void Device::config_write(u16 offset, unsigned width, u32 value) {
  if (conventional_ && offset >= kConventionalBytes) return;
  const u32 number = sriov_ == 0 ? 0 : config_.read(static_cast<u16>(sriov_ + kSriovNumber), 2);
  config_.write(offset, width, value);
  if (resets_itself(offset, width, value)) {
    function_reset();
    return;
  }
  const unsigned before = virtual_count();
  // How many does not change while there are any (9.3.3.7).
  if (before != 0) config_.set(static_cast<u16>(sriov_ + kSriovNumber), 2, number);
  mirror();
  if (virtual_count() < before) virtual_reset_ = true;
  config_changed(offset, width);
  send_pending();
}

void Device::function_reset() {
  ++ledger_.now().resets;
  if (virtual_count() != 0) virtual_reset_ = true;
  config_.reset();
  mirror();
  msix_table_.assign(msix_table_.size(), MsixVector{});
  msix_pending_ = 0;
  memory_bars_.clear();
  reset();
}

// --- registers -------------------------------------------------------------------------------------------------------

u64 Device::read_register(unsigned, u64, unsigned width) {
  return ~u64{0} >> (64 - 8 * width);
}

u64 Device::mmio_read(unsigned bar, u64 offset, unsigned width) {
  if (msix_ != 0 && bar == msix_bar_) return msix_read(offset, width);
  if (bars_[bar].memory) return memory_bars_.read(bar, offset, width);
  return read_register(bar, offset, width);
}

void Device::mmio_write(unsigned bar, u64 offset, unsigned width, u64 value) {
  if (msix_ != 0 && bar == msix_bar_) {
    msix_write(offset, width, value);
    return;
  }
  if (bars_[bar].memory) {
    memory_bars_.write(bar, offset, width, value);
    return;
  }
  write_register(bar, offset, width, value);
}

Result<void> Device::move_memory(unsigned bar, int file, u64 offset) {
  if (!bars_[bar].memory) return fail(Errno::Enxio);
  return memory_bars_.move(bar, file, offset);
}

// The table: 16 bytes a vector, accessed in 4 or 8 bytes; pending bits from the middle of the BAR.
u64 Device::msix_read(u64 offset, unsigned width) const {
  if ((width != 4 && width != 8) || offset % width != 0) return ~u64{0} >> (64 - 8 * width);
  u64 value = 0;
  const u64 pending_at = bars_[msix_bar_].size / 2;
  if (offset >= pending_at) {
    if (offset - pending_at < 8) value = msix_pending_ >> (8 * (offset - pending_at));
  } else if (offset / 16 < msix_table_.size()) {
    const MsixVector& v = msix_table_[offset / 16];
    const u64 half = (offset & 8) == 0 ? v.address : u64{v.data} | u64{v.control} << 32;
    value = half >> (8 * (offset & 4));
  }
  return width == 4 ? value & 0xFFFF'FFFF : value;
}

void Device::msix_write(u64 offset, unsigned width, u64 value) {
  if ((width != 4 && width != 8) || offset % width != 0 || offset / 16 >= msix_table_.size()) return;
  MsixVector& v = msix_table_[offset / 16];
  const u64 mask = (width == 8 ? ~u64{0} : u64{0xFFFF'FFFF}) << (8 * (offset & 4));
  const u64 shifted = (width == 8 ? value : value & 0xFFFF'FFFF) << (8 * (offset & 4));
  if ((offset & 8) == 0) {
    v.address = ((v.address & ~mask) | shifted) & ~u64{3};
  } else {
    const u64 half = ((u64{v.data} | u64{v.control} << 32) & ~mask) | shifted;
    v.data = static_cast<u32>(half);
    v.control = static_cast<u32>(half >> 32) & kMsixVectorMask;
  }
  send_pending();
}

// --- interrupts ------------------------------------------------------------------------------------------------------

bool Device::send_msix(unsigned vector) {
  const u32 control = config_.read(static_cast<u16>(msix_ + kMsixControl), 2);
  const MsixVector& v = msix_table_[vector];
  if ((control & kMsixFunctionMask) != 0 || (v.control & kMsixVectorMask) != 0) {
    msix_pending_ |= u64{1} << vector;
    return false;
  }
  // A message is a write: without bus mastering it does not leave the function (PCI 3.0, 6.2.2).
  if (!may_master()) return false;
  msix_pending_ &= ~(u64{1} << vector);
  bus_.send_message(*this, v.address, v.data);
  ++ledger_.now().interrupts;
  message_sent(vector);
  return true;
}

bool Device::raise(unsigned vector) {
  if (msix_ != 0 && (config_.read(static_cast<u16>(msix_ + kMsixControl), 2) & kMsixEnable) != 0) {
    return vector < msix_table_.size() && send_msix(vector);
  }
  if (msi_ == 0 || (config_.read(static_cast<u16>(msi_ + kMsiControl), 2) & kMsiEnable) == 0) return false;
  const auto at = [&](unsigned offset) { return static_cast<u16>(msi_ + offset); };
  if ((config_.read(at(kMsiMask), 4) & 1) != 0) {
    config_.set(at(kMsiPending), 4, 1);
    return false;
  }
  if (!may_master()) return false;
  config_.set(at(kMsiPending), 4, 0);
  bus_.send_message(*this, u64{config_.read(at(kMsiAddressUpper), 4)} << 32 | config_.read(at(kMsiAddress), 4),
                    config_.read(at(kMsiData), 2));
  ++ledger_.now().interrupts;
  message_sent(0);
  return true;
}

void Device::read_refused() {
  config_.set(pci_reg::kStatus, 2, config_.read(pci_reg::kStatus, 2) | pci_reg::kStatusMasterAbort);
}

void Device::send_pending() {
  if (msix_ != 0 && (config_.read(static_cast<u16>(msix_ + kMsixControl), 2) & kMsixEnable) != 0) {
    for (u64 left = msix_pending_; left != 0; left &= left - 1) {
      send_msix(static_cast<unsigned>(std::countr_zero(left)));
    }
  } else if (msi_ != 0 && config_.read(static_cast<u16>(msi_ + kMsiPending), 4) != 0) {
    raise(0);
  }
}

// --- files -----------------------------------------------------------------------------------------------------------

void Device::save(StateWriter& out) const {
  out.section(name_);
  config_.save(out);
  out.blob(std::as_bytes(std::span(msix_table_)));
  out.put(msix_pending_);
  for (unsigned i = 0; i < kBars; ++i) {
    if (bars_[i].memory) out.blob(memory_bars_.contents(i));
  }
  save_state(out);
  ledger_.save(out);
}

void Device::load(StateReader& in) {
  in.section(name_);
  config_.load(in);
  const std::span<const std::byte> table = in.blob();
  if (table.size() != msix_table_.size() * sizeof(MsixVector)) throw StateError("saved machine: MSI-X table size");
  if (!table.empty()) std::memcpy(msix_table_.data(), table.data(), table.size());
  msix_pending_ = in.get<u64>();
  for (unsigned i = 0; i < kBars; ++i) {
    if (bars_[i].memory) memory_bars_.set_contents(i, in.blob());
  }
  mirror();
  load_state(in);
  ledger_.load(in);
}

}  // namespace perdure::board
