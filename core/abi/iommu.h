#pragma once
#include "core/abi/schema.h"
namespace perdure::abi {
struct IommuUnitRecord;
}
