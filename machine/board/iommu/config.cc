#include "machine/board/iommu/config.h"

#include "core/base/bits.h"

namespace perdure::board {

u64 IommuModelConfig::cap() const {
  u64 v = 0;
  v |= Field<2, 0>::make(nd);
  v |= Bit<4>::make(rwbf);
  v |= Bit<5>::make(plmr);
  v |= Bit<6>::make(phmr);
  v |= Bit<7>::make(caching_mode);
  v |= Field<12, 8>::make(sagaw);
  v |= Field<21, 16>::make(mgaw - 1u);
  v |= Field<33, 24>::make(fro / 16);
  v |= Field<37, 34>::make(sslps);
  v |= Bit<39>::make(psi);
  v |= Field<47, 40>::make(nfr - 1u);
  v |= Field<53, 48>::make(mamv);
  v |= Bit<54>::make(dwd);
  v |= Bit<55>::make(drd);
  v |= Bit<56>::make(scalable && first_stage && first_stage_1g);
  v |= Bit<60>::make(scalable && first_stage && first_stage_5);
  v |= Bit<62>::make(interrupt_remap && esirtps);
  v |= Bit<63>::make(esrtps);
  return v;
}

u64 IommuModelConfig::ecap() const {
  u64 v = 0;
  v |= Bit<0>::make(coherent);
  v |= Bit<1>::make(queued);
  v |= Bit<2>::make(device_tlb);
  v |= Bit<3>::make(interrupt_remap);
  v |= Bit<4>::make(interrupt_remap && extended_interrupts);
  v |= Bit<6>::make(pass_through);
  v |= Bit<7>::make(snoop_control);
  v |= Field<17, 8>::make(iro / 16);
  v |= Field<23, 20>::make(interrupt_remap ? 0xF : 0);
  if (scalable) {
    v |= Bit<31>::make(1);  // SRS: supervisor requests of the RID_PASID
    v |= Field<39, 35>::make(pasid_bits - 1u);
    v |= Bit<43>::make(1);
    v |= Bit<45>::make(second_stage && second_stage_dirty);
    v |= Bit<46>::make(second_stage);
    v |= Bit<47>::make(first_stage);
    v |= Bit<48>::make(scalable_coherent);
  }
  v |= Bit<52>::make(abort_mode);
  return v;
}

}  // namespace perdure::board
