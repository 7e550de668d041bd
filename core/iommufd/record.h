// The record of one preserved iommufd, abi/iommufd.h: written by the old kernel, read by the next.
#pragma once
#include "core/abi/iommufd.h"
#include "core/kho/record_chain.h"

namespace perdure::iommufd {

// Writes a record into handover memory of its own. Until seal(), its header does not pass validation.
class RecordWriter {
 public:
  // Gives everything back at its end unless released.
  RecordWriter(Kho& kho, u32 version, u64 generation)
      : kho_(kho),
        version_(version),
        generation_(generation),
        hwpts_(kho, abi::iommufd_chain(abi::IommufdRecordKind::Hwpt, version)),
        areas_(kho, abi::iommufd_chain(abi::IommufdRecordKind::Area, version)) {}

  // E2big: more than the format's bounds; Enomem.
  Result<void> add_hwpt(const abi::IommufdHwptRecord& record);
  Result<void> add_area(const abi::IommufdAreaRecord& record);
  u32 area_count() const { return areas_.slots(); }
  // The header page, complete but for its checksum; the memory is the caller's now, to be ended with give_back().
  Result<Phys> release();

  // Stores the header's checksum (the update is frozen), or takes it away again.
  static void seal(Machine& machine, Phys header);
  static void unseal(Machine& machine, Phys header);
  // Of a record that this kernel wrote.
  static void give_back(Kho& kho, Phys header);

 private:
  Kho& kho_;
  const u32 version_;
  const u64 generation_;
  kho::RecordChain hwpts_;
  kho::RecordChain areas_;
};

// A record, checked: every block is preserved memory of the former kernel that nobody else took, every field is in its
// bounds, tokens and domains are unique, areas of a HWPT are in order and do not overlap.
class IncomingRecord {
 public:
  // Reads the record at `header`, of the session with this generation. Eproto, with the reason logged. Nothing is taken
  // over. Areas of version 1 have memory_phys 0.
  static Result<IncomingRecord> read(Kho& kho, Phys header, u64 generation);

  u32 version() const { return version_; }
  std::span<const abi::IommufdHwptRecord> hwpts() const { return hwpts_.span(); }
  std::span<const abi::IommufdAreaRecord> areas(const abi::IommufdHwptRecord& hwpt) const {
    return areas_.span().subspan(hwpt.first_area, hwpt.area_count);
  }
  std::span<const abi::IommufdAreaRecord> areas() const { return areas_.span(); }
  // Ends the record's life: takes its blocks over and frees them. Once.
  void discard(Kho& kho);

 private:
  explicit IncomingRecord(Heap& heap) : hwpts_(heap), areas_(heap), blocks_(heap) {}
  template <class Record>
  Result<void> read_chain(Kho& kho, const abi::IommufdHeader& header, abi::IommufdRecordKind kind,
                          const kho::ChainPlace& place, Vec<Record>& out);
  Result<void> check_references(Kho& kho) const;

  u32 version_ = 0;
  Vec<abi::IommufdHwptRecord> hwpts_;
  Vec<abi::IommufdAreaRecord> areas_;
  Vec<Phys> blocks_;  // with the header's page
};

}  // namespace perdure::iommufd
