// Which tables a kernel gives to units that it brings up itself. One that it takes over keeps the mode it is in, and
// its domains their formats.
#pragma once
#include "core/base/types.h"

namespace perdure::vtd {

enum class TableModePolicy : u8 {
  Auto,      // scalable mode where the unit offers it (ECAP.SMTS) with a page-table format, else legacy
  Legacy,    // legacy mode always
  Scalable,  // scalable mode always: a unit without it is not driven
};

// Of scalable mode, where a unit can do both; one that can do one alone gets that one.
enum class StagePolicy : u8 { SecondStage, FirstStage };

}  // namespace perdure::vtd
