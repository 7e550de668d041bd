#include "core/pci/function.h"

namespace perdure::pci {
namespace {

constexpr u64 kMillisecond = 1'000'000;
// More entries than either list can have.
constexpr unsigned kMaxCapabilities = 48;
constexpr unsigned kMaxExtendedCapabilities = 960;
constexpr u16 kFirstExtended = 0x100;
// The board's. Intel's are like it in what counts here, and differ in where their BARs' parts are.
constexpr u16 kVmdVendor = 0x1234;
constexpr u16 kVmdDevice = 0x564d;

void wait_ns(Machine& machine, u64 ns) {
  const u64 start = machine.now_ns();
  while (machine.now_ns() - start < ns) machine.relax();
}

}  // namespace

Function::Function(ConfigSpace& config, SourceId source, Function* parent)
    : config_(config), source_(source), parent_(parent) {
  vendor_ = read16(reg::kVendor);
  device_ = read16(reg::kDevice);
  const u32 classes = read32(reg::kClass);
  class_code_ = classes >> 8;
  revision_ = static_cast<u8>(classes);
  layout_ = read8(reg::kHeaderType) & HeaderType::kLayout;
  if (is_bridge()) {
    secondary_ = read8(reg::kSecondaryBus);
    subordinate_ = read8(reg::kSubordinateBus);
  }
  read_bars();
}

// --- virtual functions --------------------------------------------------------------------------------------------

Function::Function(Function& physical, SourceId source, u32 n)
    : config_(physical.config_),
      source_(source),
      parent_(physical.parent_),
      host_(physical.host_),
      vendor_(physical.vendor_),
      class_code_(physical.class_code_),
      revision_(physical.revision_),
      layout_(0),
      physical_(&physical) {
  const u16 at = physical.find(ExtendedCapabilityId::SrIov);
  device_ = physical.read16(static_cast<u16>(at + Virtualization::kDevice));
  read_virtual_bars(n);
}

// Of all virtual functions a BAR lies in one piece, which begins where the physical function says.
void Function::read_virtual_bars(u32 n) {
  const u16 first = static_cast<u16>(physical_->find(ExtendedCapabilityId::SrIov) + Virtualization::kBars);
  for (unsigned i = 0; i < kBars; ++i) {
    Bar& bar = bars_[i];
    const u16 at = static_cast<u16>(first + 4 * i);
    const u32 low = physical_->read32(at);
    physical_->write32(at, ~u32{0});
    u64 mask = physical_->read32(at) & ~BarBits::kMemoryFlags;
    physical_->write32(at, low);
    bar.prefetchable = (low & BarBits::kPrefetchable) != 0;
    u64 base = low & ~BarBits::kMemoryFlags;
    if ((low & BarBits::kWideMask) == BarBits::kWide && i + 1 < kBars) {
      const u16 high_at = static_cast<u16>(at + 4);
      const u32 high = physical_->read32(high_at);
      physical_->write32(high_at, ~u32{0});
      mask |= u64{physical_->read32(high_at)} << 32;
      physical_->write32(high_at, high);
      base |= u64{high} << 32;
      bar.wide = true;
      ++i;
    }
    bar.size = mask & (~mask + 1);
    if (bar.size == 0) continue;
    bar.kind = Bar::Kind::Memory;
    bar.base = Phys(base != 0 ? base + n * bar.size : 0);
  }
}

u32 Function::read_shadow(u16 offset) const {
  const u16 at = static_cast<u16>(offset & ~3u);
  u32 value = config_.read32(source_, at);
  if (at == reg::kVendor) {
    value = ids();
  } else if (at == reg::kCommand && value != ~u32{0}) {
    value = (value & ~u32{Command::kMemory}) | (decodes_.load(std::memory_order_acquire) ? Command::kMemory : 0);
  } else if (at >= reg::kBars) {
    const unsigned i = (at - reg::kBars) / 4;
    const bool upper = i > 0 && bars_[i - 1].wide;
    const Bar& bar = upper ? bars_[i - 1] : bars_[i];
    const u32 flags = (bar.wide ? BarBits::kWide : 0) | (bar.prefetchable ? BarBits::kPrefetchable : 0);
    if (bar.size == 0) return 0;
    value = upper ? static_cast<u32>(bar.base.value >> 32) : static_cast<u32>(bar.base.value) | flags;
  }
  return value >> 8 * (offset & 3);
}

void Function::note_write(u16 offset, u32 value) {
  if (offset == reg::kCommand) decodes_.store((value & Command::kMemory) != 0, std::memory_order_release);
}

bool Function::present() const {
  // The ids of one that is not there, and of a virtual one, read the same.
  return physical_ ? config_.read32(source_, reg::kClass) != ~u32{0} : read16(reg::kVendor) != 0xffff;
}

u16 Function::express_type() const {
  const u16 express = find(CapabilityId::PciExpress);
  return express == 0 ? kConventional
                      : PciExpress::PortType::get(read16(static_cast<u16>(express + PciExpress::kFlags)));
}

bool Function::is_downstream_port() const {
  if (!is_bridge()) return false;
  const u16 type = express_type();
  return type == PciExpress::kRootPort || type == PciExpress::kDownstreamPort;
}

bool Function::multifunction() const {
  const SourceId first = SourceId::of(source_.segment, source_.bus(), ari_ ? u8{0} : source_.device(), 0);
  return (config_.read8(first, reg::kHeaderType) & HeaderType::kMultiFunction) != 0;
}

bool Function::hosts_segment() const {
  return vendor_ == kVmdVendor && device_ == kVmdDevice && bars_[0].kind == Bar::Kind::Memory && bars_[0].base;
}

bool Function::below(const Function& bridge) const {
  for (const Function* f = parent_; f; f = f->parent_) {
    if (f == &bridge) return true;
  }
  return false;
}

// --- bridges ----------------------------------------------------------------------------------------------------

BridgeWindows Function::windows() const {
  BridgeWindows w;
  const u32 io = read16(reg::kIoBase);
  const u32 io_upper = read32(reg::kIoBaseUpper);
  const bool wide_io = (io & 1) != 0;
  w.io.base = (io & 0xf0) << 8 | (wide_io ? (io_upper & 0xffff) << 16 : 0);
  w.io.limit = (io >> 8 & 0xf0) << 8 | 0xfff | (wide_io ? io_upper & 0xffff'0000 : 0);
  w.memory.base = u64{read16(reg::kMemoryBase) & 0xfff0u} << 16;
  w.memory.limit = u64{read16(reg::kMemoryLimit) & 0xfff0u} << 16 | 0xf'ffff;
  const u16 prefetch = read16(reg::kPrefetchBase);
  const bool wide = (prefetch & 1) != 0;
  w.prefetch.base = u64{prefetch & 0xfff0u} << 16 | (wide ? u64{read32(reg::kPrefetchBaseUpper)} << 32 : 0);
  w.prefetch.limit = u64{read16(reg::kPrefetchLimit) & 0xfff0u} << 16 | 0xf'ffff |
                     (wide ? u64{read32(reg::kPrefetchLimitUpper)} << 32 : 0);
  return w;
}

u16 Function::express_at(u16 offset) const {
  const u16 express = find(CapabilityId::PciExpress);
  if (express == 0 || PciExpress::Version::get(read16(static_cast<u16>(express + PciExpress::kFlags))) < 2) return 0;
  return static_cast<u16>(express + offset);
}

bool Function::can_forward_ari() const {
  const u16 at = is_downstream_port() ? express_at(PciExpress::kDeviceCapabilities2) : u16{0};
  return at != 0 && (read32(at) & PciExpress::kAriForwarding) != 0;
}

bool Function::ari_forwarding() const {
  const u16 at = is_downstream_port() ? express_at(PciExpress::kDeviceControl2) : u16{0};
  return at != 0 && (read16(at) & PciExpress::kAriForwarding) != 0;
}

void Function::forward_ari() {
  config_.update16(source_, express_at(PciExpress::kDeviceControl2), 0, PciExpress::kAriForwarding);
}

bool Function::open_path() {
  bool open = true;
  for (Function* bridge = parent_; bridge; bridge = bridge->parent_) {
    constexpr u16 kBoth = Command::kMemory | Command::kBusMaster;
    if ((bridge->read16(reg::kCommand) & kBoth) == kBoth) continue;
    open = bridge->inherited() == Inherited::No && bridge->set_command(kBoth, true) && open;
  }
  return open;
}

// --- functions that a former kernel's user has at work ------------------------------------------------------------

bool Function::same_as_found() const {
  return present() && read16(reg::kVendor) == vendor_ && read16(reg::kDevice) == device_ &&
         read32(reg::kClass) == class_revision();
}

void Function::count_inherited() {
  if (is_bridge() || inherited() == Inherited::No) return;
  for (Function* bridge = parent_; bridge; bridge = bridge->parent_) {
    bridge->inherited_below_.fetch_add(1, std::memory_order_acq_rel);
    if (bridge->inherited() == Inherited::No) bridge->refuse();
  }
}

void Function::let_go() {
  if (is_bridge()) return;
  Inherited expected = Inherited::Preserved;
  if (!inherited_.compare_exchange_strong(expected, Inherited::No, std::memory_order_acq_rel)) return;
  for (Function* bridge = parent_; bridge; bridge = bridge->parent_) {
    if (bridge->inherited_below_.fetch_sub(1, std::memory_order_acq_rel) != 1) continue;
    expected = Inherited::Preserved;
    bridge->inherited_.compare_exchange_strong(expected, Inherited::No, std::memory_order_acq_rel);
  }
}

// --- BARs -----------------------------------------------------------------------------------------------------

void Function::read_bars() {
  const unsigned count = layout_ == 0 ? 6 : is_bridge() ? 2 : 0;
  for (unsigned i = 0; i < count; ++i) {
    Bar& bar = bars_[i];
    const u32 low = read32(static_cast<u16>(reg::kBars + 4 * i));
    if ((low & BarBits::kIo) != 0) {
      bar.kind = Bar::Kind::Io;
      bar.base = Phys(low & ~BarBits::kIoFlags);
      continue;
    }
    bar.prefetchable = (low & BarBits::kPrefetchable) != 0;
    bar.base = Phys(low & ~BarBits::kMemoryFlags);
    // An all-zero register may be a BAR that is not assigned or none at all: only sizing tells.
    if (low != 0) bar.kind = Bar::Kind::Memory;
    if ((low & BarBits::kWideMask) == BarBits::kWide && i + 1 < count) {
      bar.wide = true;
      bar.base = bar.base + (u64{read32(static_cast<u16>(reg::kBars + 4 * (i + 1)))} << 32);
      ++i;
    }
  }
}

Phys Function::bar_base(unsigned i) const {
  if (physical_) return bars_[i].base;
  const u16 at = static_cast<u16>(reg::kBars + 4 * i);
  const u32 low = read32(at);
  if ((low & BarBits::kIo) != 0) return Phys(low & ~BarBits::kIoFlags);
  const u64 high = bars_[i].wide ? u64{read32(static_cast<u16>(at + 4))} << 32 : 0;
  return Phys(high | (low & ~BarBits::kMemoryFlags));
}

// Writes all ones and looks what sticks; with decoding off, since the BARs point anywhere meanwhile.
void Function::size_bars() {
  const u16 command = read16(reg::kCommand);
  constexpr u16 kDecoding = Command::kIo | Command::kMemory;
  if ((command & kDecoding) != 0) write16(reg::kCommand, static_cast<u16>(command & ~kDecoding));
  const unsigned count = layout_ == 0 ? 6 : is_bridge() ? 2 : 0;
  for (unsigned i = 0; i < count; ++i) {
    Bar& bar = bars_[i];
    const u16 at = static_cast<u16>(reg::kBars + 4 * i);
    const u32 low = read32(at);
    const u32 flags = bar.kind == Bar::Kind::Io ? BarBits::kIoFlags : BarBits::kMemoryFlags;
    write32(at, ~u32{0});
    u64 mask = read32(at) & ~flags;
    write32(at, low);
    if (bar.wide) {
      const u16 high_at = static_cast<u16>(at + 4);
      const u32 high = read32(high_at);
      write32(high_at, ~u32{0});
      mask |= u64{read32(high_at)} << 32;
      write32(high_at, high);
      ++i;
    }
    // The lowest address bit that can be set; anything else a device makes up does not change it.
    bar.size = mask & (~mask + 1);
    if (bar.size != 0 && bar.kind == Bar::Kind::None) bar.kind = Bar::Kind::Memory;
  }
  if ((command & kDecoding) != 0) write16(reg::kCommand, command);
}

// --- capabilities ---------------------------------------------------------------------------------------------

u16 Function::find(CapabilityId id) const {
  if ((read16(reg::kStatus) & Status::kCapabilities) == 0) return 0;
  u16 at = read8(reg::kCapabilities) & 0xfc;
  for (unsigned n = 0; n < kMaxCapabilities && at >= 0x40; ++n) {
    const u16 header = read16(at);
    if ((header & 0xff) == static_cast<u16>(id)) return at;
    at = (header >> 8) & 0xfc;
  }
  return 0;
}

u16 Function::find(ExtendedCapabilityId id) const {
  u16 at = kFirstExtended;
  for (unsigned n = 0; n < kMaxExtendedCapabilities && at >= kFirstExtended; ++n) {
    const u32 header = read32(at);
    if (header == 0 || header == ~u32{0}) return 0;
    if ((header & 0xffff) == static_cast<u32>(id)) return at;
    at = static_cast<u16>(header >> 20 & 0xffc);
  }
  return 0;
}

// --- COMMAND, reset -------------------------------------------------------------------------------------------

bool Function::set_command(u16 bits, bool on) {
  if (physical_) {
    if ((bits & Command::kMemory) != 0) decodes_.store(on, std::memory_order_release);
    bits &= Command::kBusMaster;
    if (bits == 0) return true;
  }
  const u16 after = config_.update16(source_, reg::kCommand, on ? 0 : bits, on ? bits : 0);
  return (after & bits) == (on ? bits : 0);
}

bool Function::transactions_pending() const {
  if (const u16 express = find(CapabilityId::PciExpress); express != 0) {
    const u16 status = read16(static_cast<u16>(express + PciExpress::kDeviceStatus));
    return status != 0xffff && (status & PciExpress::kTransactionsPending) != 0;
  }
  if (const u16 af = find(CapabilityId::AdvancedFeatures); af != 0) {
    if ((read8(static_cast<u16>(af + AdvancedFeatures::kCapabilities)) & AdvancedFeatures::kCanTellPending) == 0) {
      return false;
    }
    const u8 status = read8(static_cast<u16>(af + AdvancedFeatures::kStatus));
    return status != 0xff && (status & 1) != 0;
  }
  return false;
}

bool Function::can_reset() const {
  if (const u16 express = find(CapabilityId::PciExpress); express != 0) {
    return PciExpress::FunctionReset::test(read32(static_cast<u16>(express + PciExpress::kDeviceCapabilities)));
  }
  const u16 af = find(CapabilityId::AdvancedFeatures);
  return af != 0 && (read8(static_cast<u16>(af + AdvancedFeatures::kCapabilities)) & AdvancedFeatures::kCanReset) != 0;
}

SavedFunction Function::quiesce() {
  SavedFunction saved;
  saved.command = read16(reg::kCommand);
  for (unsigned i = 0; i < kBars; ++i) saved.bars[i] = read32(static_cast<u16>(reg::kBars + 4 * i));
  // A reset turns isolation off, too; nobody may master before it is on again.
  saved.acs = find(ExtendedCapabilityId::Acs);
  if (saved.acs != 0) saved.acs_control = read16(static_cast<u16>(saved.acs + AccessControl::kControl));
  // And virtual functions, with all that they are told.
  saved.sriov = find(ExtendedCapabilityId::SrIov);
  if (saved.sriov != 0) {
    saved.sriov_control = read16(static_cast<u16>(saved.sriov + Virtualization::kControl));
    saved.sriov_number = read16(static_cast<u16>(saved.sriov + Virtualization::kNumber));
    for (unsigned i = 0; i < kBars; ++i) {
      saved.sriov_bars[i] = read32(static_cast<u16>(saved.sriov + Virtualization::kBars + 4 * i));
    }
  }
  set_bus_master(false);
  // A reset with requests under way is allowed to end badly for those; nothing waits for them any more.
  for (unsigned ms = 0; ms < 100 && transactions_pending(); ++ms) wait_ns(config_.machine(), kMillisecond);
  return saved;
}

Result<void> Function::restore(const SavedFunction& saved) {
  for (unsigned ms = 0; !present(); ++ms) {
    if (ms == 1000) return fail(Errno::Etimedout);
    wait_ns(config_.machine(), kMillisecond);
  }
  const unsigned count = is_bridge() ? 2 : kBars;
  for (unsigned i = 0; i < count; ++i) write32(static_cast<u16>(reg::kBars + 4 * i), saved.bars[i]);
  // One that came over at work was never asked how large its BARs are; nothing of it is at work any more.
  bool sized = false;
  for (const Bar& bar : bars_) sized = sized || bar.size != 0;
  if (!sized) size_bars();
  if (saved.acs != 0) write16(static_cast<u16>(saved.acs + AccessControl::kControl), saved.acs_control);
  if (saved.sriov != 0) {
    for (unsigned i = 0; i < kBars; ++i) {
      write32(static_cast<u16>(saved.sriov + Virtualization::kBars + 4 * i), saved.sriov_bars[i]);
    }
    write16(static_cast<u16>(saved.sriov + Virtualization::kNumber), saved.sriov_number);
    write16(static_cast<u16>(saved.sriov + Virtualization::kControl), saved.sriov_control);
    if ((saved.sriov_control & Virtualization::kEnable) != 0) wait_ns(config_.machine(), 100 * kMillisecond);
  }
  write16(reg::kCommand, static_cast<u16>(saved.command & ~Command::kBusMaster));
  return {};
}

Result<void> Function::reset() {
  if (!can_reset()) return fail(Errno::Eopnotsupp);
  const SavedFunction saved = quiesce();
  if (const u16 express = find(CapabilityId::PciExpress); express != 0) {
    config_.update16(source_, static_cast<u16>(express + PciExpress::kDeviceControl), 0, PciExpress::kStartReset);
  } else {
    write8(static_cast<u16>(find(CapabilityId::AdvancedFeatures) + AdvancedFeatures::kControl), 1);
  }
  wait_ns(config_.machine(), 100 * kMillisecond);
  return restore(saved);
}

Result<void> Function::wait_vpd(u16 capability, bool flag) const {
  const u16 at = static_cast<u16>(capability + VitalProductData::kAddress);
  for (unsigned ms = 0; ((read16(at) & VitalProductData::kFlag) != 0) != flag; ++ms) {
    if (ms == 125) return fail(Errno::Etimedout);
    wait_ns(config_.machine(), kMillisecond);
  }
  return {};
}

Result<u32> Function::vpd_read(u16 address) {
  const u16 vpd = find(CapabilityId::VitalProductData);
  if (vpd == 0) return fail(Errno::Eopnotsupp);
  if (address % 4 != 0 || (address & VitalProductData::kFlag) != 0) return fail(Errno::Einval);
  write16(static_cast<u16>(vpd + VitalProductData::kAddress), address);
  TRY(wait_vpd(vpd, true));
  return read32(static_cast<u16>(vpd + VitalProductData::kData));
}

Result<void> Function::vpd_write(u16 address, u32 data) {
  const u16 vpd = find(CapabilityId::VitalProductData);
  if (vpd == 0) return fail(Errno::Eopnotsupp);
  if (address % 4 != 0 || (address & VitalProductData::kFlag) != 0) return fail(Errno::Einval);
  write32(static_cast<u16>(vpd + VitalProductData::kData), data);
  write16(static_cast<u16>(vpd + VitalProductData::kAddress), static_cast<u16>(address | VitalProductData::kFlag));
  return wait_vpd(vpd, false);
}

void Function::reset_secondary() {
  PERDURE_ASSERT(is_bridge());
  config_.update16(source_, reg::kBridgeControl, 0, BridgeControl::kSecondaryReset);
  wait_ns(config_.machine(), 2 * kMillisecond);
  config_.update16(source_, reg::kBridgeControl, BridgeControl::kSecondaryReset, 0);
  wait_ns(config_.machine(), 100 * kMillisecond);
}

}  // namespace perdure::pci
