#include "machine/board/iommu/walker.h"

#include <algorithm>

#include "machine/board/iommu/registers.h"
#include "machine/board/iommu/tables.h"

namespace perdure::board {

namespace {

Answer as_is(const Request& request) {
  const u64 to_page_end = kPageSize - request.iova % kPageSize;
  return {Verdict::PassThrough, 0, false, request.iova, std::min(request.length, to_page_end)};
}

}  // namespace

Answer Walker::resolve(const RootPointer& root, const Request& request) {
  if (!root.latched) return blocked(fault::kRootUnreadable);
  if (root.ttm == reg::rtaddr::kAbort && config_.abort_mode) return blocked(0);
  const bool scalable = root.ttm == reg::rtaddr::kScalable;
  if (root.ttm != reg::rtaddr::kLegacy && !(scalable && config_.scalable)) return blocked(fault::kBadTtm);

  const Lookup found = scalable ? find_scalable_binding(root, request) : find_binding(root, request);
  if (found.fault != 0) return blocked(as_reported(found.fault), found.fpd);
  const Binding& binding = found.binding;

  if (request.type != RequestType::Untranslated) {
    if (!binding.device_tlb) return blocked(scalable ? fault::kDteClear : fault::kTypeBlocked, binding.fpd);
    if (request.type == RequestType::Translated) return as_is(request);
  }
  if (binding.pass_through()) {
    const unsigned width =
        std::min<unsigned>(config_.mgaw, table::second_stage::level_shift(config_.max_levels() + 1u));
    if (request.iova >> width != 0 || request.iova >> config_.haw != 0) {
      return blocked(scalable ? fault::kBeyondMgaw : fault::kAddressBeyond, binding.fpd);
    }
    return as_is(request);
  }
  return page_table(binding, request, scalable && !config_.quirks.scalable_legacy_codes);
}

u8 Walker::as_reported(u8 code) const {
  if (config_.quirks.scalable_legacy_codes) {
    switch (code) {
      case fault::kScalableRootUnreadable: return fault::kRootUnreadable;
      case fault::kScalableRootNotPresent: return fault::kRootNotPresent;
      case fault::kScalableRootReserved: return fault::kRootReserved;
      case fault::kScalableContextUnreadable: return fault::kContextUnreadable;
      case fault::kScalableContextNotPresent: return fault::kContextNotPresent;
      case fault::kScalableContextReserved: return fault::kContextReserved;
      default: break;
    }
  }
  const bool pasid = code >= fault::kRidPasid && code <= fault::kPasidInvalid;
  return config_.quirks.pasid_unchecked && pasid ? fault::kPasidUnreadable : code;
}

u8 Walker::beyond(const Binding& binding, u64 iova, bool scalable) const {
  if (binding.stage == Stage::First) {
    return table::first_stage::canonical(iova, binding.table.levels) ? u8{0} : fault::kNotCanonical;
  }
  const unsigned table_width = table::second_stage::level_shift(binding.table.levels + 1u);
  if (iova >> std::min<unsigned>(config_.mgaw, table_width) == 0) return 0;
  if (!scalable) return fault::kAddressBeyond;
  return iova >> config_.mgaw != 0 ? fault::kBeyondMgaw : fault::kBeyondTable;
}

Answer Walker::page_table(const Binding& binding, const Request& request, bool scalable) {
  if (const u8 code = beyond(binding, request.iova, scalable); code != 0) return blocked(code, binding.fpd);
  if (!request.silent) {
    unsigned level = 0;
    if (const PageEntry* page = caches_.page(binding.tag(), request.iova, level)) {
      const bool allowed = request.access == Access::Write ? page->write : page->read;
      const bool sets_dirty = binding.tracks_dirty() && request.access == Access::Write && allowed && !page->dirty;
      if (!sets_dirty) {
        ++hits_;
        const bool stale = page->table != binding.table;
        Answer answer;
        if (page->fault != 0) {
          answer = blocked(permission_fault(binding, request.access, scalable), binding.fpd);
        } else if (allowed) {
          answer = finish(request, scalable, page->phys, level);
        } else if (config_.quirks.no_perm_check_on_hit) {
          answer = blocked(0);
        } else {
          answer = blocked(permission_fault(binding, request.access, scalable));
        }
        answer.quiet = binding.fpd;
        if (stale) judge_stale(binding, request, scalable, answer);
        return answer;
      }
    }
    ++misses_;
  }
  bool stale = false;
  Answer answer = walk(binding, request, scalable, stale);
  answer.quiet = binding.fpd;
  if (stale) judge_stale(binding, request, scalable, answer);
  return answer;
}

void Walker::judge_stale(const Binding& binding, const Request& request, bool scalable, const Answer& answer) {
  Request silent = request;
  silent.silent = true;
  bool unused = false;
  const Answer now = walk(binding, silent, scalable, unused);
  // Another page size for the same bytes is no harm; another place, or none, is.
  if (now.phys != answer.phys || now.verdict != answer.verdict) {
    note(request, ViolationKind::DidStaleHit, request.iova, binding.did);
  }
}

StructureEntry Walker::begin_walk(const Binding& binding, const Request& request, unsigned& level, bool& stale) {
  if (!request.silent) {
    if (const StructureEntry* s = caches_.structure(binding.tag(), request.iova, binding.table.levels, level)) {
      stale = s->table != binding.table;
      return *s;
    }
  }
  level = binding.table.levels;
  return {binding.table.top, true, true, binding.table};
}

TableReader::Updated Walker::set_bits(const Binding& binding, u64 at, u64 wanted, u64& entry, unsigned& attempts) {
  if ((entry & wanted) == wanted) return TableReader::Updated::Yes;
  const TableReader::Updated updated = reader_.set_bits(at, entry, wanted, binding.snoop);
  if (++attempts > kUpdateAttempts) return TableReader::Updated::NotRam;
  if (updated == TableReader::Updated::Yes) entry |= wanted;
  return updated;
}

Answer Walker::walk_second_stage(const Binding& binding, const Request& request, bool scalable, bool& stale) {
  using namespace table;
  unsigned level = 0;
  StructureEntry in = begin_walk(binding, request, level, stale);
  const bool wants_write = request.access == Access::Write;
  unsigned attempts = 0;
  for (;;) {
    const unsigned shift = second_stage::level_shift(level);
    const u64 at = in.pointer + ((request.iova >> shift) & 0x1FF) * 8;
    u64 entry = 0;
    if (!load(at, TableUse::PageTable, request, binding.snoop, entry)) {
      // The topmost table is what the context entry points at: in legacy mode a mistake of that entry.
      const bool top = level == binding.table.levels;
      if (!scalable) return blocked(top ? fault::kContextInvalid : fault::kPageTableUnreadable);
      return blocked(top ? fault::kSecondStagePointer : fault::kSecondStageUnreadable);
    }
    if (!second_stage::present(entry)) {
      if (!request.silent && keeps_not_present()) {
        PageEntry none;
        none.fault = permission_fault(binding, request.access, scalable);
        none.table = binding.table;
        caches_.keep_page(binding.tag(), request.iova, 1, none);
      }
      return blocked(permission_fault(binding, request.access, scalable));
    }
    const bool leaf = level <= 1 || (second_stage::PageSize::test(entry) && level <= 3);
    if (const u64 bad = reserved_bits(entry, level, leaf); bad != 0) {
      note(request, ViolationKind::ReservedBits, at, entry);
      return blocked(scalable ? fault::kSecondStageReserved : fault::kPageTableReserved);
    }
    const bool entry_read = in.read && second_stage::Read::test(entry);
    const bool entry_write = in.write && second_stage::Write::test(entry);
    const bool allowed = wants_write ? entry_write : entry_read;

    if (binding.access_dirty && allowed && !request.silent) {
      const u64 wanted = second_stage::Accessed::value() | (leaf && wants_write ? second_stage::Dirty::value() : 0);
      const TableReader::Updated updated = set_bits(binding, at, wanted, entry, attempts);
      if (updated == TableReader::Updated::NotRam) return blocked(fault::kDirtyImpossible);
      if (updated == TableReader::Updated::Changed) continue;
    }
    if (!leaf) {
      if (!allowed) return blocked(permission_fault(binding, request.access, scalable));
      in = {second_stage::Pointer::in_place(entry), entry_read, entry_write, binding.table};
      --level;
      if (!request.silent) caches_.keep_structure(binding.tag(), request.iova, level, in);
      continue;
    }
    const u64 page_phys = second_stage::Pointer::in_place(entry) & ~((u64{1} << shift) - 1);
    if (!request.silent) {
      // A leaf whose permission does not suffice is remembered as well: hardware may, so an upgrade needs a flush.
      PageEntry page;
      page.phys = page_phys;
      page.read = entry_read;
      page.write = entry_write;
      page.dirty = second_stage::Dirty::test(entry);
      page.table = binding.table;
      caches_.keep_page(binding.tag(), request.iova, level, page);
    }
    if (!allowed) return blocked(permission_fault(binding, request.access, scalable));
    return finish(request, scalable, page_phys, level);
  }
}

Answer Walker::finish(const Request& request, bool scalable, u64 page_phys, unsigned level) const {
  const u64 page_bytes = u64{1} << table::second_stage::level_shift(level);
  const u64 offset = request.iova & (page_bytes - 1);
  const u64 phys = page_phys + offset;
  u64 length = std::min(request.length, page_bytes - offset);
  if (phys - table::kInterruptWindow < table::kInterruptWindowBytes) {
    // QEMU goes by what the unit could do, not by its tables.
    const bool could = config_.quirks.scalable_legacy_codes && config_.scalable;
    return blocked(scalable || could ? fault::kScalableInterruptWindow : fault::kInterruptWindow);
  }
  if (phys < table::kInterruptWindow) length = std::min(length, table::kInterruptWindow - phys);
  return {Verdict::Translated, 0, false, phys, length};
}

u64 Walker::reserved_bits(u64 entry, unsigned level, bool leaf) const {
  using namespace table;
  u64 bad = beyond_width(second_stage::Pointer::in_place(entry), config_.haw);
  if (second_stage::PageSize::test(entry)) {
    const bool supported = (level == 2 && (config_.sslps & 1) != 0) || (level == 3 && (config_.sslps & 2) != 0);
    if (!supported) bad |= second_stage::PageSize::value();
  }
  if (second_stage::Snoop::test(entry) && (!leaf || !config_.snoop_control)) bad |= second_stage::Snoop::value();
  if (leaf && level > 1) {
    const u64 below = (u64{1} << second_stage::level_shift(level)) - 1;
    bad |= second_stage::Pointer::in_place(entry) & below;
  }
  return bad;
}

u8 Walker::permission_fault(const Binding& binding, Access access, bool scalable) const {
  if (binding.stage == Stage::First) return fault::kFirstStageNoWrite;  // what is present can be read
  if (scalable) return fault::kSecondStagePermission;
  return access == Access::Write ? fault::kNoWrite : fault::kNoRead;
}

}  // namespace perdure::board
