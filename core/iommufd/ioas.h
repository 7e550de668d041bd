// An I/O address space: areas, and the domains that translate them (uapi §2.4).
#pragma once
#include "core/iommufd/area.h"
#include "core/iommufd/dirty_reader.h"
#include "core/iommufd/hwpt.h"
#include "core/iommufd/ioas_access.h"
#include "core/iommufd/reserved.h"

namespace perdure::iommufd {

// Writes to this range are interrupts on x86, never memory; reserved for every device.
inline constexpr IovaRange kMsiWindow{0xfee00000, 0xfeefffff};

// Unmaps what was mapped a moment ago. False: a unit did not confirm.
bool undo_map(PagingDomain& domain, Iova iova, u64 length);

class Ioas final : public Object {
 public:
  static constexpr ObjectType kObjectType = ObjectType::Ioas;
  using AreaList = List<Area, &Area::removed>;

  explicit Ioas(Heap& heap) : Object(kObjectType), heap_(heap), reserved_(heap), allowed_(heap) {}
  // No domain is left. Call with no lock held: ends the last use of memory.
  ~Ioas() override;

  // --- mappings -------------------------------------------------------------------------------------------
  // Part of what was mapped, by its offset in there.
  struct Slice {
    Ref<Pages> pages;
    u64 offset = 0;
    u64 length = 0;
  };
  // Maps the slices, one behind the other, at `fixed`, or at the lowest address that fits, and in every domain before
  // it returns; the address mapped at. Ebusy: immutable. Einval: length 0 or unaligned, address unaligned or reserved,
  // source unaligned. Eoverflow, Eexist: something is mapped there. Enospc: no address fits. Eperm: to be written,
  // which the pages were not mapped for. What Pages::pin() says. Enomem. On failure nothing changed.
  Result<Iova> map(Task& via, std::span<const Slice> slices, const Iova* fixed, Access access) EXCLUDES(lock_);
  // What is mapped in [first, first + length), to be mapped again. Einval: length 0; Eoverflow; Enoent: not all of it
  // is.
  Result<void> slices_of(u64 first, u64 length, Vec<Slice>& slices) const EXCLUDES(lock_);
  // An area that `border` lies in becomes two that meet there. Einval: not aligned, or large pages are in use, or part
  // of it is pinned by an access, which cannot be cut; Ebusy: immutable; Enomem.
  Result<void> cut(Iova border) EXCLUDES(lock_);
  // Unmaps the areas in [first, last], each of which must lie in there whole; returns the bytes unmapped. Enoent: one
  // does not (those before it stay unmapped), or none is there. Ebusy: immutable. Eio: a unit did not confirm, or an
  // adopted table was damaged; the areas are gone, but their memory stays pinned for ever. `removed` is for
  // release_areas(), with no lock held.
  Result<u64> unmap(Iova first, Iova last, AreaList& removed) EXCLUDES(lock_);
  static void release_areas(Heap& heap, AreaList& removed);

  // --- domains and devices ------------------------------------------------------------------------------------
  // Fills the domain with every area, pinning them if it is the first. Eaddrinuse: an area lies where the domain
  // cannot translate or is not aligned to its pages; Einval: its smallest page is larger than ours; Efault/Einval: an
  // area that cannot be pinned; Enomem. On failure nothing changed.
  Result<void> add_domain(Task& via, HwptPaging& hwpt) EXCLUDES(lock_);
  // Which no device is attached to any more, so nothing is unmapped one by one. Unpins with the last domain.
  void remove_domain(HwptPaging& hwpt) EXCLUDES(lock_);
  // One IOAS rebuilt around what a former kernel's domains translate. First its areas, before anybody else sees it;
  // then each domain, whose table is neither filled nor walked: O(areas). Both ends of each stretch of memory are
  // compared with the table. Eproto: it leads elsewhere; Eaddrinuse: an area lies where the domain cannot translate;
  // what PagingDomain::adopt() says; Enomem. On failure nothing changed.
  Result<void> take_areas(std::span<const RecordedArea> recorded, const Payer& payer) EXCLUDES(lock_);
  Result<void> adopt_domain(Task& via, HwptPaging& hwpt) EXCLUDES(lock_);
  // What was written through one of its domains, as far as the range is mapped without a hole; nothing is mapped or
  // unmapped meanwhile. Errors of DirtyReader::read().
  Result<void> read_dirty(Task& task, HwptPaging& hwpt, const DirtyRequest& request) const EXCLUDES(lock_);
  // Keeps a range free for `owner`. Eaddrinuse: an area is there, or an allowed range. Enomem.
  Result<void> reserve(const void* owner, IovaRange range) EXCLUDES(lock_);
  void unreserve(const void* owner) EXCLUDES(lock_);

  // Keeps a range free for good. Ebusy: immutable, too.
  Result<void> reserve_for_good(IovaRange range) EXCLUDES(lock_);
  bool reserves_for_good() const EXCLUDES(lock_);

  // --- accesses of the kernel's own (uapi §2.12, core/iommufd/ioas_access.h) -----------------------------------
  // One that pins needs areas of whole pages: Eaddrinuse. Followed by join_access(), in the same hold of the context's
  // lock.
  Result<void> admit_access(const IoasAccess& access) EXCLUDES(lock_);
  void join_access(IoasAccess& access) EXCLUDES(lock_);
  // Unpins what it pinned.
  void leave_access(IoasAccess& access) EXCLUDES(lock_);
  // The number of what was pinned, for unpin(): it lasts until then, or until part of it is unmapped. Einval: length 0,
  // or a border inside of a page; Eoverflow; Enoent: not all of it is mapped; Eperm: an area does not allow it; what
  // Pages::pin() says. On failure nothing is pinned.
  Result<u32> pin(Task& via, IoasAccess& access, u64 iova, u64 length, Access wanted) EXCLUDES(lock_);
  Result<void> unpin(IoasAccess& access, u32 number) EXCLUDES(lock_);  // Enoent
  // Any bytes, a failure after those before it; errors likewise.
  Result<void> read(Task& via, u64 iova, std::span<std::byte> to) const EXCLUDES(lock_);
  Result<void> write(Task& via, u64 iova, std::span<const std::byte> from) EXCLUDES(lock_);

  u64 iova_alignment() const EXCLUDES(lock_);
  // Page sizes that every domain can do, as a mask; what is below the processor's page is that page.
  u64 page_sizes() const EXCLUDES(lock_);
  Result<void> each_gap(FunctionRef<Result<void>(IovaRange)> visit) const EXCLUDES(lock_);

  // Where automatic addresses come from; none: from everywhere. By address, none overlaps another. Eaddrinuse: one is
  // reserved in part; Ebusy: immutable.
  Result<void> set_allowed(Vec<IovaRange> ranges) EXCLUDES(lock_);
  Result<void> each_allowed(FunctionRef<Result<void>(IovaRange)> visit) const EXCLUDES(lock_);
  // Without large pages every page is a leaf of its own, so that areas can be cut. Einval: to be turned off while areas
  // are in a domain; Eaddrinuse: an area is not aligned to pages; Ebusy: immutable.
  Result<void> set_large_pages(bool on) EXCLUDES(lock_);
  bool large_pages() const EXCLUDES(lock_);

  // --- live update -----------------------------------------------------------------------------------------
  // While held, nothing can be mapped or unmapped; counted, one hold a preserved HWPT (R43).
  void hold_immutable() EXCLUDES(lock_);
  void release_immutable() EXCLUDES(lock_);
  // Every area must be preservable: of a file (Einval) which had the seals when it was mapped (Einval, R59).
  Result<void> check_preservable() const EXCLUDES(lock_);
  Result<void> each_area(FunctionRef<Result<void>(const Area&)> visit) const EXCLUDES(lock_);
  // Rebuilt: its number in the context's record, and whether HWPTs of it wait to be restored, which keeps it immutable.
  // Both are guarded by the context's lock.
  u32 recorded_number = 0;
  bool rebuilt = false;
  bool awaits_siblings = false;
  // Calls `then` if every recorded area is mapped here with the same result: same memory, offset and access; Einval
  // otherwise. Nothing can be unmapped in between.
  Result<void> with_equal_areas(std::span<const RecordedArea> recorded, FunctionRef<Result<void>()> then) const
      EXCLUDES(lock_);

 private:
  // Visits the areas of [first, first + length) in order, each with where it begins and how much of it is meant.
  Result<void> each_part_locked(u64 first, u64 length, Access wanted,
                                FunctionRef<Result<void>(const Area& area, u64 offset, u64 length)> visit) const
      REQUIRES(lock_);
  void let_go_locked(const Area& area) REQUIRES(lock_);
  bool accessed_locked(const Area& area) const REQUIRES(lock_);
  Result<void> check_iova_locked(u64 iova, u64 length) const REQUIRES(lock_);
  Result<u64> choose_iova_locked(u64 source_start, u64 length) const REQUIRES(lock_);
  Result<u64> choose_in_locked(IovaRange span, u64 alignment, u64 low_bits, u64 length) const REQUIRES(lock_);
  // What lengths and addresses of areas have to be multiples of, with one more domain.
  Result<u64> alignment_with_locked(const PagingDomain* added) const REQUIRES(lock_);
  Result<void> check_alignment_locked(u64 alignment) const REQUIRES(lock_);
  void update_alignment_locked() REQUIRES(lock_);
  Result<void> reserve_locked(const void* owner, IovaRange range) REQUIRES(lock_);
  Result<void> pin_locked(Task& via, Area& area) REQUIRES(lock_);
  void unpin_locked(Area& area) REQUIRES(lock_);
  // Pinned and mapped in every domain, or as before.
  Result<void> enter_locked(Task& via, Area& area, Vec<Run>& runs) REQUIRES(lock_);
  void leave_locked(Area& area) REQUIRES(lock_);
  Result<void> runs_locked(const Area& area, Vec<Run>& runs) const REQUIRES(lock_);
  // What the domain cannot translate.
  Result<void> reserve_aperture_locked(const HwptPaging& hwpt) REQUIRES(lock_);
  Result<void> check_ends_locked(const PagingDomain& domain, const Area& area, std::span<const Run> runs) const
      REQUIRES(lock_);
  Result<void> fill_locked(PagingDomain& domain, Area& area, std::span<const Run> runs) REQUIRES(lock_);
  bool equal_locked(const RecordedArea& recorded) const REQUIRES(lock_);

  Heap& heap_;
  mutable Mutex lock_{LockRank::Ioas};
  AreaMap areas_ GUARDED_BY(lock_);
  ReservedSet reserved_ GUARDED_BY(lock_);
  List<HwptPaging, &HwptPaging::ioas_node> domains_ GUARDED_BY(lock_);
  List<IoasAccess, &IoasAccess::ioas_node> accesses_ GUARDED_BY(lock_);
  u32 pinning_accesses_ GUARDED_BY(lock_) = 0;
  u64 alignment_ GUARDED_BY(lock_) = 1;
  Vec<IovaRange> allowed_ GUARDED_BY(lock_);  // by address
  bool large_pages_ GUARDED_BY(lock_) = true;
};

}  // namespace perdure::iommufd
