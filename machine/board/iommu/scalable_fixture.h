// Scalable tables built by hand for the tests of the register model.
#pragma once
#include "machine/board/iommu/iommu_fixture.h"

namespace perdure::board::testing {

class ScalableTest : public IommuTest {
 protected:
  struct Tables {
    u64 context = 0;    // the entry
    u64 directory = 0;  // the entry
    u64 pasid = 0;      // the entry
    u64 top = 0;
  };

  void begin(IommuModelConfig c = {}) {
    c.scalable = true;
    start(c);
    set_root(root, 1);
    gcmd(kTe, true);
    start_queue(1, true);
  }
  // Entries for `source` with the page table `top` of four levels under `did`.
  Tables attach(u16 source, u64 top, u16 did, u64 pasid_low_bits = 0, u32 rid_pasid = 0) {
    Tables t;
    t.top = top;
    const u64 half = root + (source >> 8) * 16 + ((source & 0x80) != 0 ? 8 : 0);
    if ((memory.word(half) & 1) == 0) put(half, page() | 1);
    t.context = (memory.word(half) & ~u64{0xFFF}) + (source & 0x7F) * 32;
    const u64 directory = page();
    const u64 table = page();
    t.directory = directory + (rid_pasid >> 6) * 8;
    t.pasid = table + (rid_pasid & 63) * 64;
    put(t.pasid + 8, did | u64{1} << 23);  // PWSNP
    put(t.pasid, top | 1 | 2 << 2 | 2 << 6 | pasid_low_bits);
    put(t.directory, table | 1);
    put(t.context + 8, rid_pasid);
    put(t.context, directory | 1);
    return t;
  }
  Tables attach(u16 source, u16 did) {
    const u64 top = page();
    map(top, 0x1000, 0xA000);
    return attach(source, top, did);
  }
  static u64 pasid_cache(u64 granularity, u16 did, u32 pasid) {
    return 7 | granularity << 4 | u64{did} << 16 | u64{pasid} << 32;
  }
};

}  // namespace perdure::board::testing
