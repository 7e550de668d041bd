// An I/O address space: areas, and the domains that translate them (uapi §2.4).
#pragma once
#include "core/iommufd/area.h"
#include "core/iommufd/hwpt.h"
#include "core/iommufd/reserved.h"

namespace perdure::iommufd {

// Writes to this range are interrupts on x86, never memory; reserved for every device.
inline constexpr IovaRange kMsiWindow{0xfee00000, 0xfeefffff};

class Ioas final : public Object {
 public:
  static constexpr ObjectType kObjectType = ObjectType::Ioas;
  using AreaList = List<Area, &Area::removed>;

  explicit Ioas(Heap& heap) : Object(kObjectType), heap_(heap), reserved_(heap), allowed_(heap) {}
  // No domain is left. Call with no lock held: ends the last use of memory.
  ~Ioas() override;

  // --- mappings -------------------------------------------------------------------------------------------
  // Maps `length` bytes of `source` at `fixed`, or at the lowest address that fits, and in every domain before it
  // returns; the address mapped at. Ebusy: immutable. Einval: length 0 or unaligned, address unaligned or reserved,
  // source unaligned, or beyond the end of a file. Eoverflow, Eexist: something is mapped there. Enospc: no address
  // fits. Efault: nothing there to pin. Enomem. On failure nothing changed.
  Result<Iova> map(Source source, u64 length, const Iova* fixed, Access access) EXCLUDES(lock_);
  // The same for areas that lie one behind the other: all of them or none. Eperm: one of a source that devices may only
  // read is to be written to. Those that are mapped leave the list.
  Result<Iova> map(AreaList& fresh, const Iova* fixed) EXCLUDES(lock_);
  // What is mapped in [from, from + length), as areas that are mapped nowhere yet: one for each area here, of the same
  // memory. Enoent: there is a hole. Enomem; some may be in the list then.
  Result<void> copy(Iova from, u64 length, Access access, AreaList& copies) const EXCLUDES(lock_);
  // Cuts the area that lies on both sides of `at` in two; none does: nothing to do. Only where large pages are off can
  // what lies on one side be unmapped then. Einval: they are on, and there is a domain; Ebusy: immutable; Enomem.
  Result<void> cut(Iova at) EXCLUDES(lock_);
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
  Result<void> add_domain(Task& task, HwptPaging& hwpt) EXCLUDES(lock_);
  // Which no device is attached to any more, so nothing is unmapped one by one. Unpins with the last domain.
  void remove_domain(HwptPaging& hwpt) EXCLUDES(lock_);
  // One IOAS rebuilt around what a former kernel's domains translate. First its areas, before anybody else sees it;
  // then each domain, whose table is neither filled nor walked: O(areas). Both ends of each stretch of memory are
  // compared with the table. Eproto: it leads elsewhere; Eaddrinuse: an area lies where the domain cannot translate;
  // what PagingDomain::adopt() says; Enomem. On failure nothing changed.
  Result<void> take_areas(std::span<const RecordedArea> recorded) EXCLUDES(lock_);
  Result<void> adopt_domain(HwptPaging& hwpt) EXCLUDES(lock_);
  // Keeps a range free for `owner`. Eaddrinuse: an area is there. Enomem.
  Result<void> reserve(const void* owner, IovaRange range) EXCLUDES(lock_);
  void unreserve(const void* owner) EXCLUDES(lock_);

  // Ranges that addresses are chosen from, in order and apart from one another, in place of those of before; none:
  // anywhere. Nothing else is kept from being mapped, but no device that reserves one of them can be attached.
  // Eaddrinuse: one is reserved already; Ebusy: immutable.
  Result<void> allow(Vec<IovaRange> ranges) EXCLUDES(lock_);
  bool large_pages() const EXCLUDES(lock_);
  // Off: domains map single pages, and everything is aligned to them. Einval: what is mapped in a domain may be in
  // large ones; Eaddrinuse: an area is not aligned; Ebusy: immutable.
  Result<void> set_large_pages(bool on) EXCLUDES(lock_);

  u64 iova_alignment() const EXCLUDES(lock_);
  // Page sizes that every domain can do, as a mask; what is below the processor's page is that page.
  u64 page_sizes() const EXCLUDES(lock_);
  Result<void> each_gap(FunctionRef<Result<void>(IovaRange)> visit) const EXCLUDES(lock_);

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
  Result<void> check_iova_locked(u64 iova, u64 length) const REQUIRES(lock_);
  Result<u64> choose_iova_locked(u64 source_start, u64 length) const REQUIRES(lock_);
  // The lowest place in the range; Enospc.
  Result<u64> place_locked(IovaRange in, u64 length, u64 alignment, u64 low_bits) const REQUIRES(lock_);
  Result<void> check_free_locked(IovaRange range) const REQUIRES(lock_);
  Result<void> check_aligned_locked() const REQUIRES(lock_);
  Result<void> fill_all_locked(AreaList& fresh) REQUIRES(lock_);
  void update_alignment_locked() REQUIRES(lock_);
  Result<void> pin_locked(Area& area) REQUIRES(lock_);
  void unpin_locked(Area& area) REQUIRES(lock_);
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
  Vec<IovaRange> allowed_ GUARDED_BY(lock_);  // by address
  bool large_pages_ GUARDED_BY(lock_) = true;
  u64 alignment_ GUARDED_BY(lock_) = 1;
};

}  // namespace perdure::iommufd
