// Register accesses and what they set off.
#include <bit>

#include "machine/board/iommu/model_impl.h"
#include "machine/board/iommu/registers.h"
#include "machine/board/iommu/tables.h"

namespace perdure::board {

namespace {

using namespace reg;

enum class Kind : u8 { None, Reg32, Reg64, Record };

struct Place {
  Kind kind = Kind::None;
  u64 offset = 0;  // of the register that holds the accessed byte
  bool writable = false;
};

// Which register answers at `offset`, a multiple of 4.
Place find(const IommuModelConfig& config, u64 offset) {
  const auto half_of = [&](u64 reg64) { return offset == reg64 || offset == reg64 + 4; };
  const auto block_at = [&](u64 control) { return offset >= control && offset < control + 16; };
  for (u64 r : {kVer, kGsts}) {
    if (offset == r) return {Kind::Reg32, r, false};
  }
  for (u64 r : {kGcmd, kFsts}) {
    if (offset == r) return {Kind::Reg32, r, true};
  }
  if (block_at(kFectl)) return {Kind::Reg32, offset, true};
  for (u64 r : {kCap, kEcap}) {
    if (half_of(r)) return {Kind::Reg64, r, false};
  }
  for (u64 r : {kRtaddr, kCcmd, u64{config.iro}, u64{config.iro} + 8}) {
    if (half_of(r)) return {Kind::Reg64, r, true};
  }
  if (config.queued) {
    if (offset == kIcs) return {Kind::Reg32, kIcs, true};
    if (block_at(kIectl)) return {Kind::Reg32, offset, true};
    for (u64 r : {kIqh, kIqercd}) {
      if (half_of(r)) return {Kind::Reg64, r, false};
    }
    for (u64 r : {kIqt, kIqa}) {
      if (half_of(r)) return {Kind::Reg64, r, true};
    }
  }
  if (config.interrupt_remap && half_of(kIrta)) return {Kind::Reg64, kIrta, true};
  if ((config.plmr || config.phmr) && offset == kPmen) return {Kind::Reg32, kPmen, true};
  if (config.plmr && (offset == kPlmBase || offset == kPlmLimit)) return {Kind::Reg32, offset, true};
  if (config.phmr) {
    for (u64 r : {kPhmBase, kPhmLimit}) {
      if (half_of(r)) return {Kind::Reg64, r, true};
    }
  }
  if (offset >= config.fro && offset < config.fro + u64{16} * config.nfr) return {Kind::Record, config.fro, true};
  return {};
}

u64 merge(u64 old, u64 value, u64 written) {
  return (old & ~written) | (value & written);
}

}  // namespace

u64 IommuModel::Impl::read_locked(u64 offset, unsigned width) {
  const u64 nothing = width >= 8 ? ~u64{0} : (u64{1} << (width * 8)) - 1;
  if ((width != 4 && width != 8) || offset % width != 0 || offset > kWindow - width) {
    checker_.note(ViolationKind::BadWidth, offset, width);
    return nothing;
  }
  const Place place = find(config_, offset);
  if (place.kind == Kind::None) {
    checker_.note(ViolationKind::UnknownRegister, offset);
    return nothing;
  }
  if (place.kind == Kind::Record) {
    const usize word = (offset - place.offset) / 4;
    u64 value = faults_.read_word(word);
    if (width == 8) value |= u64{faults_.read_word(word + 1)} << 32;
    return value;
  }
  if (place.kind == Kind::Reg32) {
    if (width == 4) return read32(place.offset);
    checker_.note(ViolationKind::BadWidth, offset, width);
    return nothing;
  }
  const u64 value = read64(place.offset);
  if (width == 8) return value;
  return offset == place.offset ? value & 0xFFFF'FFFF : value >> 32;
}

void IommuModel::Impl::write_locked(u64 offset, unsigned width, u64 value) {
  if ((width != 4 && width != 8) || offset % width != 0 || offset > kWindow - width) {
    checker_.note(ViolationKind::BadWidth, offset, value);
    return;
  }
  const Place place = find(config_, offset);
  if (place.kind == Kind::None || !place.writable) {
    const bool known = place.kind != Kind::None;
    checker_.note(known ? ViolationKind::ReadOnlyWrite : ViolationKind::UnknownRegister, offset, value);
    return;
  }
  switch (place.kind) {
    case Kind::None: break;
    case Kind::Record: {
      const usize word = (offset - place.offset) / 4;
      faults_.write_word(word, static_cast<u32>(value));
      if (width == 8) faults_.write_word(word + 1, static_cast<u32>(value >> 32));
      break;
    }
    case Kind::Reg32:
      if (width == 4) {
        write32(place.offset, static_cast<u32>(value));
      } else {
        checker_.note(ViolationKind::BadWidth, offset, value);
      }
      break;
    case Kind::Reg64: {
      constexpr u64 kLow = 0xFFFF'FFFF;
      if (width == 8) {
        write64(place.offset, value, ~u64{0});
      } else if (offset == place.offset) {
        write64(place.offset, value & kLow, kLow);
      } else {
        write64(place.offset, value << 32, ~kLow);
      }
      break;
    }
  }
}

u32 IommuModel::Impl::read32(u64 offset) {
  if (faults_.event().holds(offset)) return faults_.event().read(offset);
  if (queue_.event().holds(offset)) return queue_.event().read(offset);
  switch (offset) {
    case kVer: return kVersion;
    case kGcmd: return 0;  // write-only
    case kGsts: return status_;
    case kFsts: return faults_.status();
    case kPmen: return pmen_;
    case kPlmBase: return plm_base_;
    case kPlmLimit: return plm_limit_;
    case kIcs: return queue_.completion_status();
    default: return 0;
  }
}

void IommuModel::Impl::write32(u64 offset, u32 value) {
  constexpr u32 kGrain = static_cast<u32>(kHugePageSize - 1);
  if (faults_.event().holds(offset)) return faults_.event().write(offset, value);
  if (queue_.event().holds(offset)) return queue_.event().write(offset, value);
  switch (offset) {
    case kGcmd: write_gcmd(value); break;
    case kFsts: queue_.errors_cleared(faults_.write_status(value)); break;
    case kPmen: pmen_ = (value & pmen::kEpm) != 0 ? pmen::kEpm | pmen::kPrs : 0; break;
    case kPlmBase: plm_base_ = value & ~kGrain; break;
    case kPlmLimit: plm_limit_ = value & ~kGrain; break;
    case kIcs: queue_.write_completion_status(value); break;
    default: break;
  }
}

u64 IommuModel::Impl::read64(u64 offset) {
  if (offset == config_.iro) return 0;  // IVA is write-only
  if (offset == config_.iro + u64{8}) return iotlb_;
  switch (offset) {
    case kCap: return config_.cap();
    case kEcap: return config_.ecap();
    case kRtaddr: return rtaddr_;
    case kCcmd: return ccmd_;
    case kPhmBase: return phm_base_;
    case kPhmLimit: return phm_limit_;
    case kIqh: return queue_.head();
    case kIqt: return queue_.tail();
    case kIqa: return queue_.address();
    case kIqercd: return queue_.error_record();
    case kIrta: return irta_;
    default: return 0;
  }
}

void IommuModel::Impl::write64(u64 offset, u64 value, u64 written) {
  constexpr u64 kGrain = kHugePageSize - 1;
  // Of a register written in halves the high one acts: the go bit is its top bit, and zero when nothing runs.
  if (offset == config_.iro) {
    iva_ = merge(iva_, value, written);
    return;
  }
  if (offset == config_.iro + u64{8}) {
    if (iotlb_flush_.pending) {
      checker_.note(ViolationKind::BadRegisterInvalidation, offset, value);
      return;
    }
    iotlb_ = merge(iotlb_, value, written & ~iotlb::Iaig::kMask);
    if (iotlb::Ivt::test(iotlb_)) start_iotlb_flush();
    return;
  }
  switch (offset) {
    case kRtaddr: rtaddr_ = merge(rtaddr_, value, written & (rtaddr::Base::kMask | rtaddr::Ttm::kMask)); break;
    case kCcmd:
      if (context_flush_.pending) {
        checker_.note(ViolationKind::BadRegisterInvalidation, offset, value);
        break;
      }
      ccmd_ = merge(ccmd_, value, written & ~ccmd::Caig::kMask);
      if (ccmd::Icc::test(ccmd_)) start_context_flush();
      break;
    case kPhmBase: phm_base_ = merge(phm_base_, value, written) & ~kGrain; break;
    case kPhmLimit: phm_limit_ = merge(phm_limit_, value, written) & ~kGrain; break;
    case kIqt:
      if ((written & 1) != 0) queue_.write_tail(value);
      break;
    case kIqa: queue_.write_address(merge(queue_.raw_address(), value, written)); break;
    case kIrta: irta_ = merge(irta_, value, written & (irta::Base::kMask | irta::Eime::kMask | irta::S::kMask)); break;
    default: break;
  }
}

void IommuModel::Impl::write_gcmd(u32 value) {
  if (gcmd_.pending) {
    checker_.note(ViolationKind::GcmdWhilePending, kGcmd, value);
    finish_gcmd();
  }
  u32 supported = gcmd::kTe | gcmd::kSrtp;
  if (config_.rwbf) supported |= gcmd::kWbf;
  if (config_.queued) supported |= gcmd::kQie;
  if (config_.interrupt_remap) supported |= gcmd::kIre | gcmd::kSirtp | gcmd::kCfi;
  if ((value & ~supported) != 0) {
    checker_.note(ViolationKind::GcmdUnsupported, kGcmd, value);
    value &= supported;
  }
  const u32 changed = (value ^ status_) & gcmd::kPersistent;
  const u32 one_shot = value & gcmd::kOneShot;
  const int changes = std::popcount(changed | one_shot);
  if (changes > 1) checker_.note(ViolationKind::GcmdManyBits, kGcmd, u64{status_} << 32 | value);
  if (changes == 0) {
    checker_.note(ViolationKind::GcmdNoChange, kGcmd, u64{status_} << 32 | value);
    return;
  }
  // Pointers are "not set" from the command until it is done; a write buffer flush shows while it runs.
  if ((value & gcmd::kSrtp) != 0) status_ &= ~gcmd::kSrtp;
  if ((value & gcmd::kSirtp) != 0) status_ &= ~gcmd::kSirtp;
  if ((value & gcmd::kWbf) != 0) status_ |= gcmd::kWbf;
  gcmd_value_ = value;
  start(gcmd_);
}

void IommuModel::Impl::finish_gcmd() {
  gcmd_.pending = false;
  const u32 value = gcmd_value_;
  if ((value & gcmd::kSrtp) != 0) set_root();
  if ((value & gcmd::kSirtp) != 0) set_interrupt_table();
  if ((value & gcmd::kWbf) != 0) {
    flusher_.empty_write_buffer();
    status_ &= ~gcmd::kWbf;
  }
  const u32 changed = (value ^ status_) & gcmd::kPersistent;
  if ((changed & gcmd::kTe) != 0) set_translation((value & gcmd::kTe) != 0);
  if ((changed & gcmd::kQie) != 0) {
    if ((value & gcmd::kQie) != 0) {
      queue_.enable();
      status_ |= gcmd::kQie;
    } else if (queue_.disable()) {
      status_ &= ~gcmd::kQie;
    }
  }
  if ((changed & gcmd::kIre) != 0) set_remapping((value & gcmd::kIre) != 0);
  if (!config_.quirks.compatible_messages_pass) status_ = (status_ & ~gcmd::kCfi) | (value & gcmd::kCfi);
}

void IommuModel::Impl::set_root() {
  const u64 ttm = rtaddr::Ttm::get(rtaddr_);
  const u64 base = rtaddr::Base::in_place(rtaddr_);
  const bool known = ttm == rtaddr::kLegacy || (ttm == rtaddr::kScalable && config_.scalable) ||
                     (ttm == rtaddr::kAbort && config_.abort_mode);
  if (!known) checker_.note(ViolationKind::BadTtm, kRtaddr, rtaddr_);
  if ((status_ & gcmd::kTe) != 0 && root_.latched && root_.ttm != ttm) {
    checker_.note(ViolationKind::TtmWhileEnabled, kRtaddr, rtaddr_);
  }
  if (ttm != rtaddr::kAbort && (!memory_.is_ram(base, kPageSize) || base >> config_.haw != 0)) {
    checker_.note(ViolationKind::RootNotRam, kRtaddr, rtaddr_);
  }
  root_ = {base, ttm, true};
  if (config_.esrtps || config_.quirks.srtp_flushes) {
    caches_.drop_all();
    dids_.drop_all();
  }
  status_ |= gcmd::kSrtp;
}

void IommuModel::Impl::set_interrupt_table() {
  const u64 bytes = u64{16} << (irta::S::get(irta_) + 1);
  if (!memory_.is_ram(irta::Base::in_place(irta_), bytes)) checker_.note(ViolationKind::IrtaNotRam, kIrta, irta_);
  if (irta::Eime::test(irta_) && !config_.extended_interrupts) checker_.note(ViolationKind::ReservedBits, kIrta, irta_);
  interrupts_.set_table(irta_, (status_ & gcmd::kIre) != 0);
  status_ |= gcmd::kSirtp;
}

void IommuModel::Impl::set_remapping(bool on) {
  if (on && (status_ & gcmd::kSirtp) == 0) checker_.note(ViolationKind::IreWithoutTable, kGcmd, irta_);
  if (!on && (status_ & gcmd::kTe) != 0) checker_.note(ViolationKind::InterruptRemapDropped, kGcmd, status_);
  status_ = on ? status_ | gcmd::kIre : status_ & ~gcmd::kIre;
}

void IommuModel::Impl::set_translation(bool on) {
  const u64 now = environment_.now_ns();
  if (on) {
    if (!root_.latched) checker_.note(ViolationKind::TeWithoutRoot, kGcmd, rtaddr_);
    status_ |= gcmd::kTe;
    if (!gaps_.empty() && gaps_.back().end_ns == 0) gaps_.back().end_ns = now;
  } else {
    status_ &= ~gcmd::kTe;
    gaps_.push_back({now, 0, 0});
  }
  outbox_.push_back({on ? News::Kind::TranslationOn : News::Kind::TranslationOff, 0, now, 0});
}

void IommuModel::Impl::start_context_flush() {
  if (queue_.enabled()) {
    checker_.note(ViolationKind::RegisterInvalidationWhileQueued, kCcmd, ccmd_);
    ccmd_ &= ~(ccmd::Icc::kMask | ccmd::Caig::kMask);
    return;
  }
  start(context_flush_);
}

void IommuModel::Impl::finish_context_flush() {
  context_flush_.pending = false;
  const u64 granularity = ccmd::Cirg::get(ccmd_);
  const auto did = static_cast<u16>(ccmd::Did::get(ccmd_));
  switch (granularity) {
    case 1: flusher_.context_global(scalable_tables()); break;
    case 2: flusher_.context_domain(did, scalable_tables()); break;
    case 3:
      flusher_.context_device(did, static_cast<u16>(ccmd::Sid::get(ccmd_)), static_cast<u8>(ccmd::Fm::get(ccmd_)),
                              scalable_tables());
      break;
    default: checker_.note(ViolationKind::BadRegisterInvalidation, kCcmd, ccmd_); break;
  }
  ccmd_ = ccmd::Caig::set(ccmd_ & ~ccmd::Icc::kMask, granularity);
}

void IommuModel::Impl::start_iotlb_flush() {
  if (queue_.enabled()) {
    checker_.note(ViolationKind::RegisterInvalidationWhileQueued, config_.iro + u64{8}, iotlb_);
    iotlb_ &= ~(iotlb::Ivt::kMask | iotlb::Iaig::kMask);
    return;
  }
  iotlb_flushed_ = false;
  start(iotlb_flush_);
}

bool IommuModel::Impl::finish_iotlb_flush() {
  u64 granularity = iotlb::Iirg::get(iotlb_);
  const auto order = static_cast<unsigned>(iva::Am::get(iva_));
  if (granularity == 3 && !config_.psi) granularity = 2;  // done coarser, which IAIG tells
  // An order that CAP.MAMV excludes: ignored, which IAIG tells, too.
  if (granularity == 3 && order > config_.mamv) granularity = 0;
  if (!iotlb_flushed_) {
    const auto did = static_cast<u16>(iotlb::Did::get(iotlb_));
    const bool reads = iotlb::Dr::test(iotlb_);
    const bool writes = iotlb::Dw::test(iotlb_);
    iotlb_drain_ = {};
    switch (granularity) {
      case 1: iotlb_drain_ = flusher_.translations_global(reads, writes); break;
      case 2: iotlb_drain_ = flusher_.translations_domain(did, reads, writes); break;
      case 3:
        iotlb_drain_ = flusher_.translations_pages(did, iva::Addr::in_place(iva_), order, iva::Ih::test(iva_), reads,
                                                   writes, config_.iro);
        break;
      default: checker_.note(ViolationKind::BadRegisterInvalidation, config_.iro + u64{8}, iotlb_); break;
    }
    iotlb_flushed_ = true;
  }
  if (!flusher_.drained(iotlb_drain_)) return false;
  iotlb_flush_.pending = false;
  iotlb_ = iotlb::Iaig::set(iotlb_ & ~iotlb::Ivt::kMask, granularity);
  return true;
}

}  // namespace perdure::board
