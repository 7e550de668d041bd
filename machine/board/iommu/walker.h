// Resolves one request: root, context and PASID tables, page table of either stage, with the caches in front of each.
#pragma once
#include "machine/board/iommu/caches.h"
#include "machine/board/iommu/checker.h"
#include "machine/board/iommu/did_tracker.h"
#include "machine/board/iommu/table_reader.h"
#include "machine/board/iommu/translation.h"

namespace perdure::board {

// What SRTP latched.
struct RootPointer {
  u64 base = 0;
  u64 ttm = 0;
  bool latched = false;
};

struct Request {
  u16 source = 0;
  u64 iova = 0;
  u64 length = 0;
  Access access = Access::Read;
  RequestType type = RequestType::Untranslated;
  // Only asks: no cache is used or filled, no bit is set, nothing is noted.
  bool silent = false;
};

struct Answer {
  Verdict verdict = Verdict::Blocked;
  u8 fault = 0;
  bool quiet = false;  // the fault is not to be recorded (FPD)
  u64 phys = 0;
  u64 length = 0;
};

// Not thread-safe: guarded by the unit's lock.
class Walker {
 public:
  Walker(const IommuModelConfig& config, TableReader& reader, TranslationCaches& caches, DidTracker& dids,
         Checker& checker)
      : config_(config), reader_(reader), caches_(caches), dids_(dids), checker_(checker) {}

  // Of a request while translation is on and the address is not in the interrupt window.
  Answer resolve(const RootPointer& root, const Request& request);

  u64 hits() const { return hits_; }
  u64 misses() const { return misses_; }

 private:
  // A table entry read, or the reason why not.
  struct Found {
    u8 fault = 0;
    bool fpd = false;
  };
  struct Lookup : Found {
    Binding binding;
  };

  Lookup find_binding(const RootPointer& root, const Request& request);
  Lookup find_scalable_binding(const RootPointer& root, const Request& request);
  ContextEntry read_legacy_context(const RootPointer& root, const Request& request, bool& cacheable);
  ContextEntry read_scalable_context(const RootPointer& root, const Request& request, bool& cacheable);
  PasidEntry read_pasid(const ContextEntry& context, const Request& request, bool& cacheable);
  Answer page_table(const Binding& binding, const Request& request, bool scalable);
  // A fault for addresses that the table cannot have an entry for, 0 for others.
  u8 beyond(const Binding& binding, u64 iova, bool scalable) const;
  Answer walk(const Binding& binding, const Request& request, bool scalable, bool& stale) {
    return binding.stage == Stage::First ? walk_first_stage(binding, request, stale)
                                         : walk_second_stage(binding, request, scalable, stale);
  }
  // The table that a walk begins in: the deepest that is cached (of another page table: `stale`), else the top.
  StructureEntry begin_walk(const Binding& binding, const Request& request, unsigned& level, bool& stale);
  // Sets what is missing of `wanted` in the entry at `at`. Changed: it is to be looked at again; NotRam: also when that
  // happened too often.
  TableReader::Updated set_bits(const Binding& binding, u64 at, u64 wanted, u64& entry, unsigned& attempts);
  Answer walk_second_stage(const Binding& binding, const Request& request, bool scalable, bool& stale);
  Answer walk_first_stage(const Binding& binding, const Request& request, bool& stale);
  Answer finish(const Request& request, bool scalable, u64 page_phys, unsigned level) const;
  // A cached entry of another table under this domain id answered: is the answer still right?
  void judge_stale(const Binding& binding, const Request& request, bool scalable, const Answer& answer);

  bool load(u64 phys, TableUse use, const Request& request, bool snoop, u64& value) {
    return reader_.load(phys, use, snoop, request.silent, request.source, value);
  }
  void note(const Request& request, ViolationKind kind, u64 where, u64 detail) {
    if (!request.silent) checker_.note(kind, where, detail, request.source);
  }
  // Remembers "not present"? With caching mode by right; with a write buffer because the store is not seen yet.
  bool keeps_not_present() const { return config_.caching_mode || config_.rwbf; }
  u64 reserved_bits(u64 entry, unsigned level, bool leaf) const;
  u64 reserved_first_stage_bits(u64 entry, unsigned level, bool leaf) const;
  u8 permission_fault(const Binding& binding, Access access, bool scalable) const;

  // The reason as this unit gives it.
  u8 as_reported(u8 code) const;
  static Answer blocked(u8 fault, bool quiet = false) { return {Verdict::Blocked, fault, quiet, 0, 0}; }
  // Of setting accessed and dirty bits in one entry: software that changes it each time in between is answered with a
  // fault, not with waiting for ever.
  static constexpr unsigned kUpdateAttempts = 64;

  const IommuModelConfig& config_;
  TableReader& reader_;
  TranslationCaches& caches_;
  DidTracker& dids_;
  Checker& checker_;
  u64 hits_ = 0;
  u64 misses_ = 0;
};

}  // namespace perdure::board
