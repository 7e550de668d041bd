#include "metal/build.h"

#include "core/abi/kernel_note.h"

#ifndef PERDURE_KERNEL_RELEASE
#error "PERDURE_KERNEL_RELEASE, PERDURE_KERNEL_WRITES and PERDURE_KERNEL_NEXT come from CMakeLists.txt"
#endif

PERDURE_KERNEL_NOTE(perdure_kernel_note, PERDURE_KERNEL_RELEASE, PERDURE_KERNEL_WRITES);

namespace perdure::metal {

// The root table is renewed: the hosted kernels leave it in place.
constinit const Config kBuild{
    .release = PERDURE_KERNEL_RELEASE, .write_version = PERDURE_KERNEL_WRITES, .renew_root_table = true};
constinit const std::string_view kNextKernel = PERDURE_KERNEL_NEXT;

}  // namespace perdure::metal
