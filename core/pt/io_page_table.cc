#include "core/pt/io_page_table.h"

#include "core/base/log.h"
#include "core/pt/direct_memory.h"
#include "core/pt/page_table.h"
#include "core/pt/vtd_second_stage.h"
#include "core/pt/x86_first_stage.h"

namespace perdure::pt {
namespace {

template <class Format>
using Direct = PageTable<Format, DirectMemory>;

void report(Heap& heap, std::string_view what, const Geometry& g, Errno why) {
  log(heap.machine(), LogLevel::Error,
      Line() << "page table: " << what << ": " << why << " (format " << static_cast<u32>(g.format) << ", "
             << u32{g.levels} << " levels, IOVA " << u32{g.iova_bits} << " bits, output " << u32{g.output_bits}
             << " bits, leaf sizes " << Hex{g.leaf_sizes} << ")");
}

template <class Format>
Result<Owned<IoPageTable>> create_as(Heap& heap, const Geometry& geometry) {
  auto table = Direct<Format>::create(heap, geometry, DirectMemory(heap.machine(), geometry.coherent));
  if (!table) {
    report(heap, "cannot be created", geometry, table.error());
    return fail(table.error());
  }
  return Owned<IoPageTable>(std::move(*table));
}

template <class Format>
Result<Owned<IoPageTable>> adopt_as(Heap& heap, const Geometry& geometry, Phys top, Phys first_descriptor,
                                    FunctionRef<bool(Phys base, u64 length)> readable,
                                    FunctionRef<Result<void>(Phys base, unsigned order)> restore) {
  auto table = Direct<Format>::adopt(heap, geometry, DirectMemory(heap.machine(), geometry.coherent), top,
                                     first_descriptor, readable, restore);
  if (!table) {
    report(heap, "cannot be adopted", geometry, table.error());
    return fail(table.error());
  }
  return Owned<IoPageTable>(std::move(*table));
}

}  // namespace

Result<Owned<IoPageTable>> create(Heap& heap, const Geometry& geometry) {
  switch (geometry.format) {
    case FormatId::VtdSecondStage: return create_as<VtdSecondStage>(heap, geometry);
    case FormatId::X86FirstStage: return create_as<X86FirstStage>(heap, geometry);
    case FormatId::None: break;
  }
  report(heap, "unknown format", geometry, Errno::Eopnotsupp);
  return fail(Errno::Eopnotsupp);
}

Result<Owned<IoPageTable>> adopt(Heap& heap, const Geometry& geometry, Phys top, Phys first_descriptor,
                                 FunctionRef<bool(Phys base, u64 length)> readable,
                                 FunctionRef<Result<void>(Phys base, unsigned order)> restore) {
  switch (geometry.format) {
    case FormatId::VtdSecondStage:
      return adopt_as<VtdSecondStage>(heap, geometry, top, first_descriptor, readable, restore);
    case FormatId::X86FirstStage:
      return adopt_as<X86FirstStage>(heap, geometry, top, first_descriptor, readable, restore);
    case FormatId::None: break;
  }
  report(heap, "unknown format", geometry, Errno::Eopnotsupp);
  return fail(Errno::Eopnotsupp);
}

}  // namespace perdure::pt
