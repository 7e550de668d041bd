// What becomes of the page tables that a former kernel left.
#pragma once
#include "core/base/types.h"

namespace perdure::scenarios {

enum class Take : u8 {
  Replace,  // by new ones with the same contents, under running devices
  Keep,     // as they are
  Adopt,    // with their address spaces, which are changed after every jump
};

}  // namespace perdure::scenarios
