// From handover memory to a model: parse and validate, without touching hardware or anything in the image.
#pragma once
#include "core/iommu/incoming_model.h"

namespace perdure {

// `data` is LUO's value. Eproto: the header is no good, so nothing is known. Whatever else is damaged costs only the
// records that it makes unprovable: they are Bad in the model, and what depends on them is. Enomem.
Result<Owned<IncomingModel>> read_iommu_records(Kho& kho, u64 data);

}  // namespace perdure
