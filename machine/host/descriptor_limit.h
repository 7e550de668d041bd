// How many files this process may have open.
#pragma once

namespace perdure::host {

// As many as it may allow itself: what programs have open may be open in the machine's processes, too, and shells start
// programs with room for a thousand. Children inherit it.
void raise_descriptor_limit();

}  // namespace perdure::host
