// The blob "kexec-metadata" (kho-luo §1.11): which kernel was here before, and how many jumps ago the machine was
// switched on.
#pragma once
#include "core/kho/kho.h"

namespace perdure::kho {

struct Metadata {
  char release[kMetadataReleaseSize] = {};  // NUL-terminated
  u32 count = 0;                            // jumps so far; 1 in the second kernel
};

// What the former kernel says. Enoent: cold boot, or it says nothing; Eproto: of an unknown version or malformed
// (logged). Takes nothing over: the page stays kept for this kernel's life.
Result<Metadata> incoming_metadata(const Kho& kho);

// Leaves `release` (cut to 64 bytes) and `count` for the next kernel: the count of this one + 1. Enomem, Eexist.
Result<void> publish_metadata(Kho& kho, std::string_view release, u32 count);
// Takes back what was published.
void withdraw_metadata(Kho& kho);

}  // namespace perdure::kho
