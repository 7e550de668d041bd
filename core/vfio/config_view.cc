#include "core/vfio/config_view.h"

#include <algorithm>
#include <cstring>

namespace perdure::vfio {

using pci::CapabilityId;
using pci::Function;

namespace {

constexpr u16 kInterruptLine = 0x3c;
constexpr u16 kRom = 0x30;
constexpr unsigned kMaxCapabilities = 48;
constexpr unsigned kMaxExtendedCapabilities = 960;
constexpr u16 kPayloadAndRequestSizes = 7 << 5 | 7 << 12;
constexpr u16 kPhantomFunctions = 1 << 9;
constexpr u16 kAriForwarding = 1 << 5;
constexpr u16 kPowerManagementEvents = 1 << 8 | 1 << 15;
constexpr u16 kPowerState = 3;

// Standard capabilities that a program gets to see, with their lengths; 0: not shown. Vendor-specific ones say their
// length themselves.
constexpr u16 capability_bytes(u8 id, u16 express_flags) {
  switch (id) {
    case 0x01: return 8;   // power management
    case 0x02: return 20;  // AGP
    case 0x03: return 8;   // vital product data
    case 0x05: return 24;  // MSI, as long as it gets
    case 0x07: return 8;   // PCI-X
    case 0x09: return 4;   // vendor-specific: header
    case 0x10: return (express_flags & 15) >= 2 ? 0x3c : 0x14;
    case 0x11: return 12;  // MSI-X
    case 0x12: return 8;   // SATA
    case 0x13: return 8;   // advanced features
    default: return 0;
  }
}

// Extended capabilities that are not shown: PASID, multi-root, protocol multiplexing, secondary link, and those that
// belong to root complexes.
constexpr bool hidden_extended(u16 id) {
  return id == 0x1b || id == 0x11 || id == 0x1a || id == 0x19 || (id >= 0x05 && id <= 0x07) || id == 0x0a;
}

constexpr u32 byte_lanes(unsigned first, unsigned bytes) {
  return static_cast<u32>(((u64{1} << bytes * 8) - 1) << first * 8);
}

}  // namespace

// --- what is where ------------------------------------------------------------------------------------------------

void ConfigView::claim(u16 start, u16 bytes, Owner owner) {
  for (u32 at = start; at < u32{start} + bytes && at < size(); at += 4) {
    // The first one to claim keeps it: a list may be made up to overlap.
    if (owner_[at / 4] != Owner::Raw) continue;
    owner_[at / 4] = owner;
    start_[at / 4] = start;
  }
}

void ConfigView::find_capabilities() {
  if ((function_.read16(pci::reg::kStatus) & pci::Status::kCapabilities) == 0) return;
  u16 shown = 0;
  u16 at = function_.read8(pci::reg::kCapabilities) & 0xfc;
  for (unsigned n = 0; n < kMaxCapabilities && at >= 0x40; ++n) {
    const u16 header = function_.read16(at);
    const u8 id = static_cast<u8>(header);
    u16 bytes = capability_bytes(id, function_.read16(static_cast<u16>(at + 2)));
    Owner owner = Owner::ReadOnly;
    switch (static_cast<CapabilityId>(id)) {
      case CapabilityId::PowerManagement:
        power_ = at;
        owner = Owner::Power;
        break;
      case CapabilityId::Msi:
        msi_ = at;
        msi_wide_ = pci::Msi::Wide::test(function_.read16(static_cast<u16>(at + pci::Msi::kControl)));
        if (!msi_wide_) bytes = 12;
        owner = Owner::Msi;
        break;
      case CapabilityId::VitalProductData: owner = Owner::Vpd; break;
      case CapabilityId::PciExpress: owner = Owner::Express; break;
      case CapabilityId::AdvancedFeatures:
        advanced_ = at;
        owner = Owner::Advanced;
        break;
      case CapabilityId::Msix: break;
    }
    if (bytes != 0) {
      claim(at, bytes, owner);
      next_[at / 4] = 0;
      if (shown == 0) {
        first_capability_ = static_cast<u8>(at);
      } else {
        next_[shown / 4] = at;
      }
      shown = at;
      // Beyond its header a vendor's capability is the device's own.
    } else {
      claim(at, 4, Owner::ReadOnly);
    }
    at = (header >> 8) & 0xfc;
  }
}

void ConfigView::find_extended_capabilities() {
  u16 shown = 0;
  u16 at = 0x100;
  for (unsigned n = 0; n < kMaxExtendedCapabilities && at >= 0x100; ++n) {
    const u32 header = function_.read32(at);
    if (header == 0 || header == ~u32{0}) return;
    const u16 id = static_cast<u16>(header);
    const bool hidden = hidden_extended(id);
    if (id == 0x01) {
      claim(at, 0x48, Owner::ErrorReporting);
    } else if (id == 0x0b || id == 0x23) {
      claim(at, 4, Owner::ReadOnly);  // vendor-specific: the rest is the device's own
    } else {
      claim(at, 16, Owner::ReadOnly);
    }
    if (!hidden) {
      next_[at / 4] = 0;
      if (shown != 0) next_[shown / 4] = at;
      shown = at;
    } else if (at == 0x100) {
      // Where the list begins cannot be moved: an empty entry stands there.
      first_extended_hidden_ = true;
      next_[at / 4] = 0;
      shown = at;
    }
    at = static_cast<u16>(header >> 20 & 0xffc);
  }
}

void ConfigView::begin(bool pin) {
  pin_ = pin;
  std::fill(std::begin(owner_), std::end(owner_), Owner::Raw);
  std::fill(std::begin(next_), std::end(next_), kNoHeader);
  express_ = function_.find(CapabilityId::PciExpress);
  power_ = advanced_ = msi_ = vpd_address_ = 0;
  vpd_data_ = 0;
  first_capability_ = 0;
  first_extended_hidden_ = false;
  msi_active_ = false;
  msi_log2_ = 0;
  std::fill(std::begin(msi_words_), std::end(msi_words_), 0);
  state_ = {};
  for (unsigned dword = 0; dword < 16; ++dword) owner_[dword] = Owner::Header;
  find_capabilities();
  if (express_ != 0) {
    find_extended_capabilities();
    device_control_ = function_.read16(static_cast<u16>(express_ + pci::PciExpress::kDeviceControl));
  }
  if (msi_ != 0) {
    msi_control_ = static_cast<u16>(function_.read16(static_cast<u16>(msi_ + pci::Msi::kControl)) &
                                    ~(pci::Msi::Enable::kMask | pci::Msi::Enabled::kMask));
  }
  for (unsigned i = 0; i < Function::kBars; ++i) {
    const bool used = function_.bars()[i].size != 0 || (i > 0 && function_.bars()[i - 1].wide);
    state_.bars[i] = used ? function_.read32(static_cast<u16>(pci::reg::kBars + 4 * i)) : 0;
  }
  state_.command = function_.read16(pci::reg::kCommand) & pci::Command::kInterruptDisable;
  state_.interrupt_line = function_.read8(kInterruptLine);
}

void ConfigView::set_msi_vectors(unsigned vectors) {
  msi_active_ = vectors != 0;
  msi_log2_ = 0;
  while ((1u << msi_log2_) < vectors) ++msi_log2_;
  msi_control_ =
      static_cast<u16>(msi_active_ ? pci::Msi::Enable::set(msi_control_, 1) : pci::Msi::Enable::set(msi_control_, 0));
}

bool ConfigView::memory_enabled() const {
  if ((function_.read16(pci::reg::kCommand) & pci::Command::kMemory) == 0) return false;
  return power_ == 0 || (function_.read16(static_cast<u16>(power_ + 4)) & kPowerState) != 3;
}

// --- reading ------------------------------------------------------------------------------------------------------

void ConfigView::read(u16 offset, std::span<std::byte> to) {
  while (!to.empty()) {
    const unsigned lane = offset % 4;
    const usize bytes = std::min<usize>(4 - lane, to.size());
    const unsigned dword = offset / 4;
    u32 value = 0;
    if (owner_[dword] == Owner::Raw && bytes == 1) {
      // As wide as it was asked for: what a device does on a read is its own affair.
      value = u32{function_.read8(offset)} << lane * 8;
    } else if (owner_[dword] == Owner::Raw && bytes == 2 && lane % 2 == 0) {
      value = u32{function_.read16(offset)} << lane * 8;
    } else {
      value = read_dword(dword);
    }
    value >>= lane * 8;
    std::memcpy(to.data(), &value, bytes);
    to = to.subspan(bytes);
    offset = static_cast<u16>(offset + bytes);
  }
}

u32 ConfigView::read_msi(unsigned offset) const {
  switch (offset) {
    case 4: return msi_words_[0];
    case 8: return msi_wide_ ? msi_words_[1] : msi_words_[2];
    case 12: return msi_wide_ ? msi_words_[2] : 0;
    default: return 0;
  }
}

u32 ConfigView::read_dword(unsigned dword) {
  const u16 at = static_cast<u16>(dword * 4);
  u32 value = 0;
  if (owner_[dword] == Owner::Msi && at != msi_) {
    value = read_msi(at - start_[dword]);
  } else {
    value = function_.read32(at);
  }
  const u16 start = start_[dword];
  switch (owner_[dword]) {
    case Owner::Header:
      if (at == pci::reg::kCommand) {
        value = (value & ~u32{pci::Command::kInterruptDisable}) | state_.command;
        value &= ~(u32{pci::Status::kCapabilities} << 16);
        if (first_capability_ != 0) value |= u32{pci::Status::kCapabilities} << 16;
      } else if (at >= pci::reg::kBars && at < pci::reg::kBars + 4 * Function::kBars) {
        value = state_.bars[(at - pci::reg::kBars) / 4];
      } else if (at == kRom) {
        value = 0;
      } else if (at == (pci::reg::kCapabilities & ~3)) {
        value = (value & ~u32{0xff}) | first_capability_;
      } else if (at == kInterruptLine) {
        value = (value & (pin_ ? 0xffffff00 : 0xffff0000)) | state_.interrupt_line;
      }
      break;
    case Owner::Power:
      if (at == start) value &= ~(u32{0xf800} << 16);  // states that events come from
      if (at == start + 4) value &= ~u32{kPowerManagementEvents};
      break;
    case Owner::Vpd:
      if (at == start) value = (value & 0xffff) | u32{vpd_address_} << 16;
      if (at == start + pci::VitalProductData::kData) value = vpd_data_;
      break;
    case Owner::Express:
      if (at == start + pci::PciExpress::kDeviceControl) {
        value &= ~u32{pci::PciExpress::kStartReset} & ~u32{kPayloadAndRequestSizes};
        value |= device_control_ & kPayloadAndRequestSizes;
      }
      break;
    case Owner::Msi:
      if (at == start) {
        const u16 control = pci::Msi::Capable::set(msi_control_, msi_log2_);
        value = (value & 0xffff) | u32{control} << 16;
      }
      break;
    case Owner::Raw:
    case Owner::ReadOnly:
    case Owner::Advanced:
    case Owner::ErrorReporting: break;
  }
  if (next_[dword] != kNoHeader) {
    if (at < 0x100) {
      value = (value & ~u32{0xff00}) | u32{next_[dword]} << 8;
    } else {
      value = (value & 0x000fffff) | u32{next_[dword]} << 20;
      if (at == 0x100 && first_extended_hidden_) value &= 0xfff00000;
    }
  }
  return value;
}

// --- writing ------------------------------------------------------------------------------------------------------

ConfigView::Effect ConfigView::write(u16 offset, std::span<const std::byte> from) {
  Effect effect = Effect::None;
  while (!from.empty()) {
    const unsigned lane = offset % 4;
    const usize bytes = std::min<usize>(4 - lane, from.size());
    u32 value = 0;
    std::memcpy(&value, from.data(), bytes);
    if (write_dword(offset / 4, value << lane * 8, byte_lanes(lane, static_cast<unsigned>(bytes))) == Effect::Reset) {
      effect = Effect::Reset;
    }
    from = from.subspan(bytes);
    offset = static_cast<u16>(offset + bytes);
  }
  return effect;
}

void ConfigView::pass(unsigned dword, u32 value, u32 mask) {
  const u16 at = static_cast<u16>(dword * 4);
  if (mask == ~u32{0}) return function_.write32(at, value);
  for (unsigned lane = 0; lane < 4;) {
    const u32 byte = byte_lanes(lane, 1);
    const u32 word = byte_lanes(lane, 2);
    if (lane % 2 == 0 && (mask & word) == word) {
      function_.write16(static_cast<u16>(at + lane), static_cast<u16>(value >> lane * 8));
      lane += 2;
    } else {
      if ((mask & byte) != 0) function_.write8(static_cast<u16>(at + lane), static_cast<u8>(value >> lane * 8));
      ++lane;
    }
  }
}

ConfigView::Effect ConfigView::write_dword(unsigned dword, u32 value, u32 mask) {
  const u16 at = static_cast<u16>(dword * 4);
  const u16 start = start_[dword];
  switch (owner_[dword]) {
    case Owner::Raw: pass(dword, value, mask); break;
    case Owner::ReadOnly: break;
    case Owner::Header: write_header(dword, value, mask); break;
    case Owner::Power: write_power(start, at == start + 4 ? value : 0, at == start + 4 ? mask : 0); break;
    case Owner::Vpd: write_vpd(at - start, value, mask); break;
    case Owner::Express: return write_express(start, at - start, value, mask);
    case Owner::Advanced:
      if (at == start + pci::AdvancedFeatures::kControl && (value & mask & 1) != 0 && function_.can_reset()) {
        return Effect::Reset;
      }
      break;
    case Owner::Msi: write_msi(at - start, value, mask); break;
    case Owner::ErrorReporting:
      // Status, mask and severity of errors; not the header, not the capabilities, not the log.
      if (at >= start + 4 && at <= start + 0x14) pass(dword, value, mask);
      break;
  }
  return Effect::None;
}

void ConfigView::write_header(unsigned dword, u32 value, u32 mask) {
  const u16 at = static_cast<u16>(dword * 4);
  if (at == pci::reg::kCommand) {
    const u32 lanes = mask & 0xffff;
    if (lanes == 0) return;
    const u16 hardware = function_.read16(at);
    const u16 wanted = static_cast<u16>((hardware & ~lanes) | (value & lanes));
    state_.command =
        static_cast<u16>((((state_.command & ~lanes) | (value & lanes))) & pci::Command::kInterruptDisable);
    function_.write16(at, static_cast<u16>((wanted & ~pci::Command::kInterruptDisable) |
                                           (hardware & pci::Command::kInterruptDisable)));
  } else if (at == 0x0c) {
    pass(dword, value, mask & ~u32{0x00ff0000});  // cache line, latency, self-test; the header type is fixed
  } else if (at >= pci::reg::kBars && at < pci::reg::kBars + 4 * Function::kBars) {
    write_bar((at - pci::reg::kBars) / 4, value, mask);
  } else if (at == kInterruptLine && (mask & 0xff) != 0) {
    state_.interrupt_line = static_cast<u8>(value);
  }
}

// The sizing protocol works; the device is never moved.
void ConfigView::write_bar(unsigned index, u32 value, u32 mask) {
  const std::span<const pci::Bar, Function::kBars> bars = function_.bars();
  const u32 merged = (state_.bars[index] & ~mask) | (value & mask);
  if (index > 0 && bars[index - 1].wide) {
    const u64 size = bars[index - 1].size;
    state_.bars[index] = size == 0 ? 0 : merged & static_cast<u32>(~(size - 1) >> 32);
    return;
  }
  const u64 size = bars[index].size;
  if (size == 0) return;
  const u32 flags = bars[index].kind == pci::Bar::Kind::Io ? pci::BarBits::kIoFlags : pci::BarBits::kMemoryFlags;
  state_.bars[index] = (merged & static_cast<u32>(~(size - 1)) & ~flags) | (state_.bars[index] & flags);
}

ConfigView::Effect ConfigView::write_express(u16 start, unsigned offset, u32 value, u32 mask) {
  // Control registers are in the low half; the status in the high half is not written.
  const u32 lanes = mask & 0xffff;
  const u16 at = static_cast<u16>(start + offset);
  if (lanes == 0) return Effect::None;
  if (offset == pci::PciExpress::kDeviceControl) {
    const u16 hardware = function_.read16(at);
    const u16 wanted = static_cast<u16>((hardware & ~lanes) | (value & lanes));
    device_control_ = static_cast<u16>((device_control_ & ~lanes) | (value & lanes));
    constexpr u16 kKept = kPayloadAndRequestSizes | kPhantomFunctions | pci::PciExpress::kStartReset;
    function_.write16(at, static_cast<u16>((wanted & ~kKept) | (hardware & kKept & ~pci::PciExpress::kStartReset)));
    const bool reset = (value & lanes & pci::PciExpress::kStartReset) != 0;
    return reset && function_.can_reset() ? Effect::Reset : Effect::None;
  }
  if (offset == 0x28) {  // device control 2
    const u16 hardware = function_.read16(at);
    const u16 wanted = static_cast<u16>((hardware & ~lanes) | (value & lanes));
    function_.write16(at, static_cast<u16>((wanted & ~kAriForwarding) | (hardware & kAriForwarding)));
  }
  return Effect::None;
}

// The program's registers are kept here; what it asks for is done on the device when it writes the byte with the flag.
// One that does not answer leaves the flag as it is, as a device would.
void ConfigView::write_vpd(unsigned offset, u32 value, u32 mask) {
  if (offset == pci::VitalProductData::kData) vpd_data_ = (vpd_data_ & ~mask) | (value & mask);
  if (offset != 0 || mask >> 16 == 0) return;
  const u32 lanes = mask >> 16;
  vpd_address_ = static_cast<u16>((vpd_address_ & ~lanes) | (value >> 16 & lanes));
  if ((lanes & pci::VitalProductData::kFlag) == 0) return;
  const u16 address = vpd_address_ & ~pci::VitalProductData::kFlag;
  if ((vpd_address_ & pci::VitalProductData::kFlag) != 0) {
    if (!function_.vpd_write(address, vpd_data_)) return;
  } else {
    const Result<u32> data = function_.vpd_read(address);
    if (!data) return;
    vpd_data_ = *data;
  }
  vpd_address_ ^= pci::VitalProductData::kFlag;
}

// The power state is the device's; what it loses on the way back from D3hot is given to it again.
void ConfigView::write_power(u16 start, u32 value, u32 mask) {
  if ((mask & kPowerState) == 0) return;
  const u16 at = static_cast<u16>(start + 4);
  const u16 before = function_.read16(at);
  const u16 after = static_cast<u16>((before & ~(kPowerState | kPowerManagementEvents)) | (value & kPowerState));
  if ((before & kPowerState) == 3 && (after & kPowerState) == 0) {
    u32 bars[Function::kBars];
    for (unsigned i = 0; i < Function::kBars; ++i) {
      bars[i] = function_.read32(static_cast<u16>(pci::reg::kBars + 4 * i));
    }
    const u16 command = function_.read16(pci::reg::kCommand);
    function_.write16(at, after);
    for (unsigned i = 0; i < Function::kBars; ++i) {
      function_.write32(static_cast<u16>(pci::reg::kBars + 4 * i), bars[i]);
    }
    function_.write16(pci::reg::kCommand, command);
    return;
  }
  function_.write16(at, after);
}

void ConfigView::write_msi(unsigned offset, u32 value, u32 mask) {
  if (offset == 0) {
    const u32 lanes = mask >> 16;
    u16 wanted = static_cast<u16>((msi_control_ & ~lanes) | (value >> 16 & lanes));
    if (!msi_active_) wanted = pci::Msi::Enable::set(wanted, 0);
    const u16 log2 = std::min<u16>(pci::Msi::Enabled::get(wanted), msi_log2_);
    msi_control_ = pci::Msi::Enable::set(pci::Msi::Enabled::set(msi_control_, log2), pci::Msi::Enable::get(wanted));
    return;
  }
  u32* word = nullptr;
  if (offset == 4) word = &msi_words_[0];
  if (offset == 8) word = &msi_words_[msi_wide_ ? 1 : 2];
  if (offset == 12 && msi_wide_) word = &msi_words_[2];
  if (word) *word = (*word & ~mask) | (value & mask);
}

}  // namespace perdure::vfio
