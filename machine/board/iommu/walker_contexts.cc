// The walker's way from a requester to its page table: root, context and PASID tables.
#include "machine/board/iommu/tables.h"
#include "machine/board/iommu/walker.h"

namespace perdure::board {

namespace {

// The AW field names widths of 39, 48 and 57 bits as 1, 2 and 3; 0 when the unit does not have that one.
u8 levels_of(u64 aw, u8 sagaw) {
  return aw >= 1 && aw <= 3 && ((sagaw >> aw) & 1) != 0 ? static_cast<u8>(aw + 2) : u8{0};
}

}  // namespace

Walker::Lookup Walker::find_binding(const RootPointer& root, const Request& request) {
  ContextEntry entry;
  const ContextEntry* cached = request.silent ? nullptr : caches_.context(request.source);
  if (cached != nullptr) {
    entry = *cached;
  } else {
    bool cacheable = false;
    entry = read_legacy_context(root, request, cacheable);
    if (!request.silent) {
      if (cacheable) caches_.keep_context(request.source, entry);
      if (entry.fault != 0) dids_.gone(request.source);
    }
  }
  return {{entry.fault, entry.fpd}, entry.binding};
}

ContextEntry Walker::read_legacy_context(const RootPointer& root, const Request& request, bool& cacheable) {
  using namespace table;
  ContextEntry out;
  const bool snoop = config_.coherent;
  const u64 root_at = root.base + (request.source >> 8) * root::kBytes;
  u64 low = 0;
  u64 high = 0;
  if (!load(root_at, TableUse::RootTable, request, snoop, low) ||
      !load(root_at + 8, TableUse::RootTable, request, snoop, high)) {
    out.fault = fault::kRootUnreadable;
    return out;
  }
  out.at_root = true;
  if (!root::Present::test(low)) {
    cacheable = keeps_not_present();
    out.fault = fault::kRootNotPresent;
    return out;
  }
  if (root::Reserved::get(low) != 0 || beyond_width(low, config_.haw) != 0 || high != 0) {
    note(request, ViolationKind::ReservedBits, root_at, low);
    cacheable = config_.caching_mode;
    out.fault = fault::kRootReserved;
    return out;
  }
  out.at_root = false;

  // The low word first: software makes an entry present with its last store.
  const u64 at = root::Pointer::in_place(low) + (request.source & 0xFF) * context::kBytes;
  if (!load(at, TableUse::ContextTable, request, snoop, low) ||
      !load(at + 8, TableUse::ContextTable, request, snoop, high)) {
    out.fault = fault::kContextUnreadable;
    return out;
  }
  out.fpd = context::Fpd::test(low);  // counts in an entry that is not present, too
  if (!context::Present::test(low)) {
    cacheable = keeps_not_present();
    out.fault = fault::kContextNotPresent;
    return out;
  }
  Binding binding;
  binding.did = static_cast<u16>(context::Did::get(high));
  binding.fpd = out.fpd;
  binding.snoop = snoop;
  const u64 tt = context::Tt::get(low);
  if (context::Reserved0::get(low) != 0 || beyond_width(low, config_.haw) != 0 || context::Reserved1::test(high) ||
      context::Reserved1High::get(high) != 0 || binding.did >= config_.did_limit()) {
    note(request, ViolationKind::ReservedBits, at, low);
    cacheable = config_.caching_mode;
    out.fault = fault::kContextReserved;
    return out;
  }
  const u8 levels = levels_of(context::Aw::get(high), config_.sagaw);
  const bool supported =
      levels != 0 && (tt == context::kTtUntranslated || (tt == context::kTtDeviceTlb && config_.device_tlb) ||
                      (tt == context::kTtPassThrough && config_.pass_through && levels == config_.max_levels()));
  if (!supported) {
    note(request, ViolationKind::ReservedBits, at, high);
    cacheable = config_.caching_mode;
    out.fault = fault::kContextInvalid;
    return out;
  }
  if (config_.caching_mode && binding.did == 0) note(request, ViolationKind::DidReserved, at, high);
  binding.device_tlb = tt == context::kTtDeviceTlb;
  if (tt != context::kTtPassThrough) {
    binding.stage = Stage::Second;
    binding.table = {context::Pointer::in_place(low), levels};
  }
  out.binding = binding;
  cacheable = true;
  if (!request.silent) dids_.seen(request.source, 0, binding, at);
  return out;
}

Walker::Lookup Walker::find_scalable_binding(const RootPointer& root, const Request& request) {
  ContextEntry context;
  if (const ContextEntry* cached = request.silent ? nullptr : caches_.context(request.source)) {
    context = *cached;
  } else {
    bool cacheable = false;
    context = read_scalable_context(root, request, cacheable);
    if (cacheable && !request.silent) caches_.keep_context(request.source, context);
  }
  if (context.fault != 0) {
    if (!request.silent) dids_.gone(request.source);
    return {{context.fault, context.fpd}, {}};
  }
  PasidEntry entry;
  if (const PasidEntry* cached = request.silent ? nullptr : caches_.pasid(request.source, context.rid_pasid)) {
    entry = *cached;
  } else {
    bool cacheable = false;
    entry = read_pasid(context, request, cacheable);
    if (!request.silent) {
      if (cacheable) caches_.keep_pasid(request.source, context.rid_pasid, entry);
      if (entry.fault != 0) dids_.gone(request.source);
    }
  }
  Lookup found{{entry.fault, entry.fpd || context.fpd}, entry.binding};
  found.binding.fpd = found.fpd;
  found.binding.device_tlb = context.device_tlb;
  return found;
}

ContextEntry Walker::read_scalable_context(const RootPointer& root, const Request& request, bool& cacheable) {
  using namespace table;
  ContextEntry out;
  const bool snoop = config_.coherent;
  const u64 root_at = root.base + (request.source >> 8) * root::kBytes + ((request.source & 0x80) != 0 ? 8 : 0);
  u64 word = 0;
  if (!load(root_at, TableUse::RootTable, request, snoop, word)) {
    out.fault = fault::kScalableRootUnreadable;
    return out;
  }
  out.at_root = true;
  if (!root::Present::test(word)) {
    cacheable = keeps_not_present();
    out.fault = fault::kScalableRootNotPresent;
    return out;
  }
  if (root::Reserved::get(word) != 0 || beyond_width(word, config_.haw) != 0) {
    note(request, ViolationKind::ReservedBits, root_at, word);
    cacheable = config_.caching_mode;
    out.fault = fault::kScalableRootReserved;
    return out;
  }
  out.at_root = false;

  const u64 at = root::Pointer::in_place(word) + (request.source & 0x7F) * scalable_context::kBytes;
  u64 q[4] = {};
  for (unsigned i = 0; i < 4; ++i) {
    if (!load(at + i * 8, TableUse::ContextTable, request, snoop, q[i])) {
      out.fault = fault::kScalableContextUnreadable;
      return out;
    }
  }
  out.fpd = scalable_context::Fpd::test(q[0]);
  if (!scalable_context::Present::test(q[0])) {
    cacheable = keeps_not_present();
    out.fault = fault::kScalableContextNotPresent;
    return out;
  }
  if (scalable_context::Reserved0::get(q[0]) != 0 || beyond_width(q[0], config_.haw) != 0 ||
      (scalable_context::Dte::test(q[0]) && !config_.device_tlb) || scalable_context::Pre::test(q[0]) ||
      scalable_context::Reserved1::get(q[1]) != 0 || q[2] != 0 || q[3] != 0) {
    note(request, ViolationKind::ReservedBits, at, q[0]);
    cacheable = config_.caching_mode;
    out.fault = fault::kScalableContextReserved;
    return out;
  }
  out.pasid_directory = scalable_context::Pointer::in_place(q[0]);
  // PDTS = x: 2^(x+7) directory entries of 64 PASIDs each.
  out.pasid_limit = u32{1} << (scalable_context::Pdts::get(q[0]) + 7 + 6);
  out.rid_pasid = static_cast<u32>(scalable_context::RidPasid::get(q[1]));
  out.device_tlb = scalable_context::Dte::test(q[0]);
  if (out.rid_pasid >= out.pasid_limit || out.rid_pasid >> config_.pasid_bits != 0) {
    note(request, ViolationKind::ReservedBits, at + 8, q[1]);
    out.fault = fault::kRidPasid;
    return out;
  }
  cacheable = true;
  return out;
}

PasidEntry Walker::read_pasid(const ContextEntry& context, const Request& request, bool& cacheable) {
  using namespace table;
  PasidEntry out;
  const bool snoop = config_.coherent;
  const u64 directory_at = context.pasid_directory + (context.rid_pasid >> 6) * 8;
  u64 word = 0;
  if (!load(directory_at, TableUse::PasidDirectory, request, snoop, word)) {
    out.fault = fault::kDirectoryUnreadable;
    return out;
  }
  const bool checked = !config_.quirks.pasid_unchecked;
  out.fpd = checked && pasid_directory::Fpd::test(word);
  if (!pasid_directory::Present::test(word)) {
    cacheable = keeps_not_present();
    out.fault = fault::kDirectoryNotPresent;
    return out;
  }
  const bool spoiled = pasid_directory::Reserved::get(word) != 0 || beyond_width(word, config_.haw) != 0;
  if (spoiled) note(request, ViolationKind::ReservedBits, directory_at, word);
  if (checked && spoiled) {
    cacheable = config_.caching_mode;
    out.fault = fault::kDirectoryReserved;
    return out;
  }
  const u64 at = pasid_directory::Pointer::in_place(word) + (context.rid_pasid & 63) * pasid::kBytes;
  u64 q[8] = {};
  for (unsigned i = 0; i < 8; ++i) {
    if (!load(at + i * 8, TableUse::PasidTable, request, snoop, q[i])) {
      out.fault = fault::kPasidUnreadable;
      return out;
    }
  }
  out.fpd = out.fpd || (pasid::Fpd::test(q[0]) && (checked || pasid::Present::test(q[0])));
  if (!pasid::Present::test(q[0])) {
    cacheable = keeps_not_present();
    out.fault = fault::kPasidNotPresent;
    return out;
  }
  Binding binding;
  binding.did = static_cast<u16>(pasid::Did::get(q[1]));
  binding.fpd = out.fpd;
  binding.snoop = config_.scalable_coherent && pasid::Pwsnp::test(q[1]);
  binding.access_dirty = pasid::Ssade::test(q[0]);
  const bool dirty_supported = config_.second_stage && config_.second_stage_dirty;
  const bool reserved = pasid::Reserved0::get(q[0]) != 0 || beyond_width(q[0], config_.haw) != 0 ||
                        pasid::Reserved1::get(q[1]) != 0 || binding.did >= config_.did_limit() ||
                        (binding.access_dirty && !dirty_supported) ||
                        (pasid::Pwsnp::test(q[1]) && !config_.scalable_coherent) ||
                        (pasid::Pgsnp::test(q[1]) && !config_.snoop_control) || pasid::Ere::test(q[2]) ||
                        pasid::Eafe::test(q[2]) || pasid::Reserved2::get(q[2]) != 0 ||
                        beyond_width(q[2], config_.haw) != 0 || (q[3] | q[4] | q[5] | q[6] | q[7]) != 0;
  if (reserved) note(request, ViolationKind::ReservedBits, at, q[0]);
  if (checked && reserved) {
    cacheable = config_.caching_mode;
    out.fault = fault::kPasidReserved;
    return out;
  }
  bool supported = false;
  u64 type = pasid::Pgtt::get(q[0]);
  if (!checked && type == pasid::kPgttNested) {
    note(request, ViolationKind::ReservedBits, at, q[0]);
    type = pasid::kPgttSecondStage;
  }
  switch (type) {
    case pasid::kPgttPassThrough: supported = config_.pass_through; break;
    case pasid::kPgttSecondStage:
      binding.stage = Stage::Second;
      binding.table = {pasid::Pointer::in_place(q[0]), levels_of(pasid::Aw::get(q[0]), config_.sagaw)};
      supported = config_.second_stage && binding.table.levels != 0;
      break;
    case pasid::kPgttFirstStage: {
      const u64 mode = pasid::Fspm::get(q[2]);
      binding.stage = Stage::First;
      binding.pasid = context.rid_pasid;
      binding.table = {pasid::FirstPointer::in_place(q[2]), static_cast<u8>(mode + 4)};
      supported = config_.first_stage && (mode == 0 || (mode == 1 && config_.first_stage_5));
      break;
    }
    default: break;
  }
  if (!supported) {
    note(request, ViolationKind::ReservedBits, at, q[0]);
    cacheable = config_.caching_mode;
    out.fault = fault::kPasidInvalid;
    return out;
  }
  if (config_.caching_mode && binding.did == 0) note(request, ViolationKind::DidReserved, at + 8, q[1]);
  out.binding = binding;
  cacheable = true;
  if (!request.silent) dids_.seen(request.source, context.rid_pasid, binding, at);
  return out;
}

}  // namespace perdure::board
