// Whether a preserved domain translates to what its owner's records will say.
#pragma once
#include "core/pt/io_page_table.h"

namespace perdure {

class PagingDomain;

class LeafCheck {
 public:
  // Called by the audit, between preserve and freeze, for every leaf in ascending order, with the locks of
  // IommuLiveUpdate and of the domain held: only locks of a higher rank may be taken. False fails the audit.
  virtual bool expected(const PagingDomain& domain, const pt::Leaf& leaf) = 0;
  // True: `leaf` may be a run of leaves (IoPageTable::each_run), which may span several of the owner's areas; the walk
  // is several times faster.
  virtual bool takes_runs() const { return false; }

 protected:
  ~LeafCheck() = default;
};

}  // namespace perdure
