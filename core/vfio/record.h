// The record of one preserved VFIO device, abi/vfio_pci.h.
#pragma once
#include "core/abi/vfio_pci.h"
#include "core/kho/kho.h"

namespace perdure::vfio {

// Writes `record` into a page of handover memory. Until seal_record() it does not pass validation. Enomem.
Result<Phys> write_record(Kho& kho, const abi::VfioPciRecord& record);
void update_record(Machine& machine, Phys at, const abi::VfioPciRecord& record);
void seal_record(Machine& machine, Phys at);
void unseal_record(Machine& machine, Phys at);

// A checked copy of what a former kernel wrote; fields of later versions are 0. Eproto, with the reason logged.
Result<abi::VfioPciRecord> read_record(Kho& kho, Phys at, u64 generation);
// Ends the life of a former kernel's record.
void discard_record(Kho& kho, Phys at);

}  // namespace perdure::vfio
