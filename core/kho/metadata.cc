#include "core/kho/metadata.h"

#include <algorithm>
#include <cstring>

#include "core/base/log.h"

namespace perdure::kho {

Result<Metadata> incoming_metadata(const Kho& kho) {
  const KhoBlob blob = TRY(kho.retrieve_subtree(kMetadataName));
  const auto bad = [&](std::string_view why) {
    perdure::log(kho.machine(), LogLevel::Warn,
                 Line() << "kho: blob \"" << kMetadataName << "\" at " << blob.at << " " << why << "; ignored");
    return fail(Errno::Eproto);
  };
  if (blob.size < kMetadataSize) return bad("is too short");
  const auto* bytes = kho.machine().virt<const std::byte>(blob.at);
  u32 version = 0;
  memcpy(&version, bytes, sizeof version);
  if (version != kMetadataVersion) return bad("is of an unknown version");
  Metadata m;
  memcpy(m.release, bytes + kMetadataRelease, sizeof m.release);
  memcpy(&m.count, bytes + kMetadataCount, sizeof m.count);
  if (m.release[sizeof m.release - 1] != '\0') return bad("holds an unterminated release");
  return m;
}

Result<void> publish_metadata(Kho& kho, std::string_view release, u32 count) {
  const Phys at = TRY(kho.alloc_preserved(kMetadataSize));
  auto* bytes = kho.machine().virt(at);
  memcpy(bytes, &kMetadataVersion, sizeof kMetadataVersion);
  memcpy(bytes + kMetadataRelease, release.data(), std::min<usize>(release.size(), kMetadataReleaseSize - 1));
  memcpy(bytes + kMetadataCount, &count, sizeof count);
  if (const auto r = kho.add_subtree(kMetadataName, {at, kMetadataSize}); !r) {
    kho.unpreserve_free(at, kMetadataSize);
    return r;
  }
  return {};
}

void withdraw_metadata(Kho& kho) {
  const auto blob = kho.outgoing_subtree(kMetadataName);
  if (!blob) return;
  kho.remove_subtree(kMetadataName);
  kho.unpreserve_free(blob->at, blob->size);
}

}  // namespace perdure::kho
